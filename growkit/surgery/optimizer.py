"""Optimizers follow a change: new parameters take the old places, and their state is carried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from growkit.errors import SurgeryError
from growkit.surgery.carry import Like, ParamChange

__all__ = ["CarryState", "OptimizerPlan"]

CarryState = Callable[[Optimizer, ParamChange, Mapping[str, Any]], "Mapping[str, Any] | None"]

# How the state that torch.optim keeps under these names behaves; anything else of the parameter's shape is copied.
_LIKE: dict[str, Like] = {
    "momentum_buffer": "gradient",
    "exp_avg": "gradient",
    "exp_inf": "gradient",
    "grad_avg": "gradient",
    "prev": "gradient",
    "exp_avg_sq": "square",
    "max_exp_avg_sq": "square",
    "square_avg": "square",
    "sum": "square",
    "ax": "weight",
}
# RMSprop keeps a momentum of normalised steps, not of gradients.
_LIKE_OF: dict[tuple[str, str], Like] = {("RMSprop", "momentum_buffer"): "copy"}


class OptimizerPlan:
    """What will become of one optimizer. Building it changes nothing; `commit` and `roll_back` cannot fail.

    State shaped like its parameter is carried through the same axis maps, scalars stay, anything else is given to
    `carry_state`.

    Args:
        optimizer: any torch optimizer.
        changes: the changed parameters.
        carry_state: returns the new state of a parameter, or None if it does not know the optimizer.

    Raises:
        SurgeryError: some state is neither shaped like its parameter nor a scalar, and nobody carries it.
    """

    def __init__(
        self, optimizer: Optimizer, changes: Iterable[ParamChange], carry_state: CarryState | None = None
    ) -> None:
        self._optimizer = optimizer
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._changes = {id(change.old): change for change in changes if id(change.old) in held}
        self._old_groups = [
            {key: list(group[key]) for key in ("params", "param_names") if key in group}
            for group in optimizer.param_groups
        ]
        self._old_state = {
            change.old: optimizer.state[change.old]
            for change in self._changes.values()
            if change.old in optimizer.state
        }
        if self._changes:
            self._refuse_joint_state(carry_state)
        self._new_state = {
            self._changes[id(old)].new: self._carry(self._changes[id(old)], state, carry_state)
            for old, state in self._old_state.items()
        }

    def holds(self, parameter: Tensor) -> bool:
        """Say whether the optimizer updates a parameter."""
        return any(present is parameter for group in self._optimizer.param_groups for present in group["params"])

    def commit(self) -> None:
        """Put the new parameters in the old places, with their state."""
        for group in self._optimizer.param_groups:
            for index, parameter in enumerate(group["params"]):
                if (change := self._changes.get(id(parameter))) is not None:
                    group["params"][index] = change.new
        for old in self._old_state:
            del self._optimizer.state[old]
        self._optimizer.state.update(self._new_state)

    def insert(self, name: str, parameter: nn.Parameter, neighbour: Tensor, *, behind: bool) -> None:
        """Let a wholly new parameter join the group of its neighbour, just behind or just before it."""
        for group in self._optimizer.param_groups:
            for index, present in enumerate(group["params"]):
                if present is neighbour:
                    group["params"].insert(index + behind, parameter)
                    if "param_names" in group:
                        group["param_names"].insert(index + behind, name)
                    return

    def roll_back(self) -> None:
        """Put everything back as it was."""
        for group, old in zip(self._optimizer.param_groups, self._old_groups, strict=True):
            for key, values in old.items():
                group[key][:] = values
        for new in self._new_state:
            self._optimizer.state.pop(new, None)
        self._optimizer.state.update(self._old_state)

    def _refuse_joint_state(self, carry_state: CarryState | None) -> None:
        """Refuse optimizers that keep a history of all parameters together under one of them, as LBFGS does."""
        for parameter, state in self._optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, (list, dict)) and parameter not in self._old_state and carry_state is None:
                    change = next(iter(self._changes.values()))
                    raise self._refusal(change, key, f"a {type(value).__name__} that is kept with another parameter")

    def _carry(self, change: ParamChange, state: Mapping[str, Any], carry_state: CarryState | None) -> dict[str, Any]:
        if carry_state is not None and (answer := carry_state(self._optimizer, change, state)) is not None:
            return dict(answer)
        return {key: self._carry_value(change, key, value) for key, value in state.items()}

    def _carry_value(self, change: ParamChange, key: str, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Tensor):
            if value.shape == change.old.shape:
                like = _LIKE_OF.get((type(self._optimizer).__name__, key), _LIKE.get(key, "copy"))
                return change.carry(value, like=like)
            if value.dim() == 0:
                return value
        kind = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise self._refusal(change, key, kind)

    def _refusal(self, change: ParamChange, key: str, kind: str) -> SurgeryError:
        return SurgeryError(
            f"{type(self._optimizer).__name__} keeps state for {change.name!r} that growkit cannot carry",
            seen=f"{key!r} is {kind}",
            expected=f"scalars and tensors of the parameter's shape {tuple(change.old.shape)}",
            advice="answer the hook growkit_carry_optimizer_state in a plugin, or use another optimizer",
        )
