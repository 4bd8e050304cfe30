"""Plugins propose, the core acts: find out and undo what a plugin does behind the core's back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from growkit.errors import PluginError, SurgeryError
from growkit.plugins import Plugins
from growkit.structure.forward import tensors_in
from growkit.structure.guard import WriteGuard
from growkit.surgery import Change

__all__ = ["Watch", "refuse_stale"]


class Watch:
    """Watches the live model and its optimizers while the hooks of plugins run.

    Args:
        model: the live model.
        optimizers: of its parameters.
        values: whether hooks may write to parameters and buffers.

    Cost: a look at every module and tensor for each plugin, and some microseconds for each operation in its hook.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], *, values: bool = False) -> None:
        self._model, self._optimizers, self._values = model, optimizers, values

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Run a hook inside of this. If it fails, or changes what it may not, everything is put back.

        Raises:
            PluginError: it changed what it may not.
        """
        held, gradients = self._held(), {p: p.grad for p in self._model.parameters()}
        trained = [(parameter, parameter.requires_grad) for parameter in gradients]
        memories = [_Memory(optimizer) for optimizer in self._optimizers]
        kept = [tensor for memory in memories for tensor in memory.tensors]
        guard = WriteGuard(self._model, [*kept, *(g for g in gradients.values() if g is not None)])

        def restore() -> None:
            guard.restore()
            for parameter, gradient in gradients.items():
                parameter.grad = gradient
            for parameter, is_trained in trained:
                parameter.requires_grad_(is_trained)
            for memory in memories:
                memory.restore()

        try:
            with guard:
                yield
        except BaseException:
            restore()
            raise
        if done := self._misdeed(held, gradients, memories, {id(tensor) for tensor in guard.changed()}):
            restore()
            raise PluginError(
                "the live model was changed behind the core's back",
                seen=done,
                expected="model, gradients and optimizers left alone" + ", but for values" * self._values,
                advice="propose edits and offsets; try things out on `context.model`, which is a private copy",
            )

    def _misdeed(
        self, held: dict[str, Any], gradients: Mapping[nn.Parameter, Any], memories: list[_Memory], written: set[int]
    ) -> str:
        now = self._held()
        for name in [*held, *now]:
            if held.get(name) is not now.get(name):
                return f"{name!r} was " + ("changed" if name in held and name in now else "added or removed")
        for name, parameter in self._model.named_parameters():
            if parameter.grad is not gradients[parameter] or id(parameter.grad) in written:
                return f"the gradient of {name!r} was changed"
        if not self._values:
            for name, tensor in now.items():
                if id(tensor) in written:
                    return f"{name!r} was written to"
        if any(memory.differs(written) for memory in memories):
            return "an optimizer was changed"
        return ""

    def _held(self) -> dict[str, Any]:
        model = self._model
        modes = {f"{name}.training": module.training for name, module in model.named_modules()}
        trained = {f"{name}.requires_grad": parameter.requires_grad for name, parameter in model.named_parameters()}
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        return dict(model.named_modules()) | tensors | modes | trained


class _Memory:
    """What an optimizer held."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [{k: [*v] if isinstance(v, list) else v for k, v in g.items()} for g in optimizer.param_groups]
        self._states = [(parameter, state, dict(state)) for parameter, state in optimizer.state.items()]
        parameters = {id(parameter) for group in self._groups for parameter in group["params"]}
        held = tensors_in([*self._groups, *(entries for _, _, entries in self._states)])
        self.tensors = [tensor for tensor in held if id(tensor) not in parameters]

    def differs(self, written: set[int]) -> bool:
        groups, states = self._optimizer.param_groups, self._optimizer.state
        return not (
            len(groups) == len(self._groups)
            and all(map(_same, groups, self._groups))
            and len(states) == len(self._states)
            and all(states.get(parameter) is state and _same(state, old) for parameter, state, old in self._states)
            and not any(id(tensor) in written for tensor in self.tensors)
        )

    def restore(self) -> None:
        del self._optimizer.param_groups[len(self._groups) :]
        for group, old in zip(self._optimizer.param_groups, self._groups, strict=True):
            group["params"][:] = old["params"]
            group.update({key: value for key, value in old.items() if key != "params"})
        self._optimizer.state.clear()
        for parameter, state, old in self._states:
            state.clear()
            state.update(old)
            self._optimizer.state[parameter] = state


def _same(one: Any, other: Any) -> bool:
    """Compare settings: tensors by identity, anything else by value."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other or (not isinstance(one, Tensor) and not isinstance(other, Tensor) and bool(one == other))


def refuse_stale(plugins: Plugins, optimizers: Sequence[Optimizer], change: Change) -> None:
    """Refuse plugins and optimizers that still hold parameters which a change has replaced.

    Raises:
        PluginError: a plugin does; whatever it does with them has no effect on the model any more.
        SurgeryError: an optimizer does, elsewhere than in its groups and its state.
    """
    old = {id(parameter.old): name for name, parameter in change.parameters.items()}

    def stale(holder: object) -> str:
        held = tensors_in(getattr(holder, "__dict__", {}))
        return next((f"the old {old[id(tensor)]!r} among its attributes" for tensor in held if id(tensor) in old), "")

    for info, plugin in plugins.registered:
        if seen := stale(plugin):
            raise PluginError(
                f"{info} hangs on to a parameter that has been replaced",
                seen=f"{seen}, after growkit_grown",
                expected="no parameters of the live model, or those of the model as it is now; no events",
                advice="keep names, and look parameters up in the model; bring tensors along with event.change.carry",
            )
    for optimizer in optimizers:
        if seen := stale(optimizer):
            raise SurgeryError(
                f"{type(optimizer).__name__} keeps parameters where growkit cannot exchange them",
                seen=seen,
                expected="parameters in `param_groups` and in the keys of `state` alone",
                advice="use another optimizer, or let this one look its parameters up in its groups",
            )
