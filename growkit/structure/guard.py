"""Undo what a forward pass does to a model and to its inputs."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from growkit.structure.tensors import CONTAINERS, HELD, SIMPLE, named_tensors

__all__ = ["WriteGuard", "storage_of", "written"]


class WriteGuard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps a copy of every guarded tensor just before it is first written to, and puts everything back on leaving.

    Everything is parameters, buffers, inputs, and the attributes of the modules, with what stands in containers and
    plain objects among them: counters, flags, caches, random generators.

    Args:
        model: the model.
        tensors: further ones, such as those of the example.
        example: whose containers and objects, such as caches, are put back as well.
    """

    def __init__(self, model: nn.Module, tensors: Iterable[Tensor] = (), example: Any = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
        self._undo = [*_memories(modules), *_remember(example, set(), _DEEPEST + 1)]
        self._guarded: dict[int, list[Tensor]] = {}
        self._data: list[tuple[Tensor, Tensor]] = []
        for tensor in (*named_tensors(model).values(), *tensors):
            if (key := storage_of(tensor)) is not None:
                data = tensor.detach()
                self._guarded.setdefault(key, []).append(data)
                self._data.append((tensor, data))
        self._saved: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation; save first what it is about to write to."""
        self.note(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def note(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Save what an operation is about to write to, and return it."""
        changed = written(func, args, kwargs)
        for tensor in changed:
            for data in self._guarded.pop(storage_of(tensor) or -1, ()):
                self._saved.append((data, data.clone()))
        return changed

    def changed(self) -> list[Tensor]:
        """Return the guarded tensors that were written to, or that stand on other data."""
        written = {storage_of(data) for data, _ in self._saved}
        return [t for t, data in self._data if storage_of(data) in written or storage_of(t) != storage_of(data)]

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for data, value in self._saved:
                data.copy_(value)
        for undo in self._undo:
            undo()
        for tensor, data in self._data:
            # What sets `tensor.data` is no operation, and gives the tensor another storage.
            if storage_of(tensor) != storage_of(data) or tensor.shape != data.shape:
                tensor.data = data


# ------------------------------------------------------------------ attributes

_DEEPEST, _LONGEST = 4, 256


def _memories(modules: Iterable[nn.Module]) -> Iterator[Callable[[], Any]]:
    """Yield what puts the attributes of modules back, and what stands in containers among them."""
    seen: set[int] = set()
    empty: list[Any] = []  # most of those that a module has, hooks above all
    for module in modules:
        yield partial(_reset_dict, vars(module), dict(vars(module)))
        for key, value in vars(module).items():
            kind = type(value)
            if kind in SIMPLE:
                continue
            if kind in CONTAINERS and not value:
                empty.append(value)
            elif key in HELD:
                yield partial(_reset_dict, value, dict(value))
            else:
                yield from _remember(value, seen, _DEEPEST)
    yield partial(_empty, empty)


def _remember(value: Any, seen: set[int], depth: int) -> Iterator[Callable[[], Any]]:
    if depth == 0 or id(value) in seen or isinstance(value, (Tensor, nn.Module, type, int, float)):
        return
    seen.add(id(value))
    children: Iterable[Any] = ()
    if isinstance(value, dict):
        yield partial(_reset_dict, value, dict(value))
        children = value.values()
    elif isinstance(value, (list, deque)):
        yield partial(_reset_list, value, list(value))
        children = value
    elif isinstance(value, set):
        yield partial(_reset_set, value, set(value))
    elif isinstance(value, tuple):
        children = value
    elif isinstance(value, torch.Generator):
        yield partial(value.set_state, value.get_state())
    elif isinstance(held := getattr(value, "__dict__", None), dict) and not isinstance(value, _CODE):
        yield from _remember(held, seen, depth)
    for child in children if len(children) <= _LONGEST else ():  # type: ignore[arg-type]
        if type(child) not in SIMPLE:
            yield from _remember(child, seen, depth - 1)


_CODE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType)


def _empty(filled: Iterable[Any]) -> None:
    for each in filled:
        if each:
            each.clear()


def _reset_dict(now: dict[Any, Any], before: dict[Any, Any]) -> None:
    if len(now) != len(before) or any(now.get(key, before) is not value for key, value in before.items()):
        now.clear()
        now.update(before)


def _reset_list(now: list[Any] | deque[Any], before: list[Any]) -> None:
    if len(now) != len(before) or any(new is not old for new, old in zip(now, before, strict=True)):
        now.clear()
        now.extend(before)


def _reset_set(now: set[Any], before: set[Any]) -> None:
    if now != before:
        now.clear()
        now.update(before)


# ------------------------------------------------------------------ operations

# They write running statistics, and their schemas do not say so.
_UNDECLARED = {
    torch.ops.aten.native_batch_norm,
    torch.ops.aten.cudnn_batch_norm,
    torch.ops.aten.miopen_batch_norm,
    torch.ops.aten._batch_norm_with_update,
}


def written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation writes to."""
    positions, names = _places(func)
    if (not positions and not names) or (func.overloadpacket in _UNDECLARED and len(args) >= 8 and not args[5]):
        return []  # they write in training mode only, but for the last, which always does
    values = [*(args[n] for n in positions if n < len(args)), *(kwargs[name] for name in names if name in kwargs)]
    tensors = (each for value in values for each in (value if isinstance(value, (list, tuple)) else (value,)))
    return [tensor for tensor in tensors if isinstance(tensor, Tensor)]


@functools.cache
def _places(func: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return positions and names of the arguments that an operation writes to."""
    if func.overloadpacket in _UNDECLARED:
        return (3, 4), ()
    infos = [(position, argument) for position, argument in enumerate(func._schema.arguments)]
    found = [(n, a) for n, a in infos if a.alias_info is not None and a.alias_info.is_write]
    return tuple(n for n, a in found if not a.kwarg_only), tuple(a.name for _, a in found)


def storage_of(tensor: Tensor) -> int | None:
    """Return the identity of a tensor's storage."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return None  # sparse and opaque tensors have none
