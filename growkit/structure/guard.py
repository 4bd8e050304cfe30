"""Undo what a forward pass writes to parameters, buffers and inputs."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from growkit.structure.tensors import named_tensors, plain_tensors

__all__ = ["WriteGuard", "storage_of", "written"]


class WriteGuard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps a copy of every guarded tensor just before it is first written to, and puts it back on leaving.

    Args:
        model: whose parameters, buffers and plain tensors to guard; those that are replaced come back, too.
        inputs: further tensors.
    """

    def __init__(self, model: nn.Module, inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
        self._buffers = [(module, dict(module._buffers)) for module in modules]
        self._plain = [(module, plain_tensors(module)) for module in modules]
        self._numbers = [(module, _numbers(module)) for module in modules]
        self._guarded: dict[int, list[Tensor]] = {}
        for tensor in (*named_tensors(model).values(), *inputs):
            if (key := storage_of(tensor)) is not None:
                self._guarded.setdefault(key, []).append(tensor)
        self._saved: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation; save first what it is about to write to."""
        self.note(func, args)
        return func(*args, **(kwargs or {}))

    def note(self, func: Any, args: tuple[Any, ...]) -> None:
        """Save what an operation is about to write to."""
        for value in written(func, args):
            for tensor in self._guarded.pop(storage_of(value) or -1, ()):
                self._saved.append((tensor, tensor.detach().clone()))

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for tensor, value in self._saved:
                tensor.detach().copy_(value)
        if any(isinstance(tensor, nn.Parameter) for tensor, _ in self._saved):
            # A pass that rescales weights may note that it did.
            for module, numbers in self._numbers:
                vars(module).update(numbers)
        for module, buffers in self._buffers:
            now = module._buffers
            if now.keys() != buffers.keys() or any(now[key] is not buffer for key, buffer in buffers.items()):
                module._buffers.clear()
                module._buffers.update(buffers)
        for module, tensors in self._plain:
            vars(module).update(tensors)


# They write running statistics, and their schemas do not say so.
_UNDECLARED = {
    torch.ops.aten.native_batch_norm,
    torch.ops.aten.cudnn_batch_norm,
    torch.ops.aten.miopen_batch_norm,
    torch.ops.aten._batch_norm_with_update,
}


def _numbers(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if isinstance(value, (bool, int, float, str, type(None)))}


def written(func: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """Return the tensors that an operation writes to."""
    positions = _positions(func)
    if not positions or (func.overloadpacket in _UNDECLARED and len(args) >= 8 and not args[5]):
        return []  # they write in training mode only, but for the last, which always does
    return [args[n] for n in positions if n < len(args) and isinstance(args[n], Tensor)]


@functools.cache
def _positions(func: Any) -> tuple[int, ...]:
    if func.overloadpacket in _UNDECLARED:
        return (3, 4)
    infos = [argument.alias_info for argument in func._schema.arguments]
    return tuple(position for position, info in enumerate(infos) if info is not None and info.is_write)


def storage_of(tensor: Tensor) -> int | None:
    """Return the identity of a tensor's storage."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return None  # sparse and opaque tensors have none
