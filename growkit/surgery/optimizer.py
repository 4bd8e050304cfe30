"""Optimizers follow a change: new parameters take the old places, and their state is carried.

`growkit_carry_optimizer_state` is asked first. Without an answer, state goes through the change as
`growkit.surgery.state` says: what has the parameter's shape is carried as the optimizer would have it, had the network
been this wide all along, or as `Widen.state` asks; scalars stay; Adafactor's factors follow; averages of the weights
follow the weights, and have those of new units. LBFGS is not asked about: its history belongs to all parameters
together, and is dropped. Any other state is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import LBFGS, Optimizer, SparseAdam

from growkit.surgery.carry import ParamChange
from growkit.surgery.state import carried, like_of, refusal

__all__ = ["CarryState", "OptimizerPlan", "with_inner"]

CarryState = Callable[[Optimizer, ParamChange, Mapping[str, Any]], "Mapping[str, Any] | None"]

_MUON = getattr(optim, "Muon", ())  # from torch 2.9 on


def with_inner(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """Return optimizers and those that they hold in an attribute, as Lookahead and SAM do; each once, outer first."""
    found: dict[int, Optimizer] = {}
    waiting = list(optimizers)
    for optimizer in waiting:
        if id(optimizer) not in found:
            found[id(optimizer)] = optimizer
            waiting += _inner(optimizer)
    return list(found.values())


def _inner(optimizer: Optimizer) -> Iterator[Optimizer]:
    for value in vars(optimizer).values():
        held = value if isinstance(value, (list, tuple)) else [value]
        yield from (each for each in held if isinstance(each, Optimizer))


class OptimizerPlan:
    """What will become of one optimizer. Building it changes nothing, and `roll_back` puts everything back.

    Attributes:
        dropped: what the optimizer lost, once it did.

    Args:
        optimizer: any torch optimizer.
        changes: the changed parameters.
        carry_state: returns the new state of a parameter, or None if it does not know the optimizer.

    Raises:
        SurgeryError: some state can neither be carried nor dropped, and nobody else carries it.
    """

    def __init__(
        self, optimizer: Optimizer, changes: Iterable[ParamChange], carry_state: CarryState | None = None
    ) -> None:
        self.dropped: tuple[str, ...] = ()
        self._optimizer, self._carry_state = optimizer, carry_state
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._changes = {id(change.old): change for change in changes if id(change.old) in held}
        self._old_groups = [
            {key: list(group[key]) for key in ("params", "param_names") if key in group}
            for group in optimizer.param_groups
        ]
        self._old_state = dict(optimizer.state)
        self._numel = getattr(optimizer, "_numel_cache", None)
        self._averages: list[tuple[ParamChange, Tensor]] = []
        self._new_state: dict[Tensor, dict[str, Any]] = {}
        if self._changes and not isinstance(optimizer, LBFGS):
            self._refuse_joint_state(next(iter(self._changes.values())))
            for change in self._changes.values():
                if change.old in self._old_state:
                    self._new_state[change.new] = self._carry(change, self._old_state[change.old])

    @property
    def name(self) -> str:
        """The name of the optimizer's class."""
        return type(self._optimizer).__name__

    @property
    def groups(self) -> Sequence[dict[str, Any]]:
        """The parameter groups of the optimizer."""
        return self._optimizer.param_groups

    def holds(self, parameter: Tensor) -> bool:
        """Say whether the optimizer updates a parameter."""
        return any(present is parameter for group in self.groups for present in group["params"])

    def takes(self, parameter: Tensor) -> bool:
        """Say whether the optimizer can train a wholly new parameter: Muon takes matrices, SparseAdam no dense one."""
        return not isinstance(self._optimizer, SparseAdam) and (
            parameter.dim() == 2 or not isinstance(self._optimizer, _MUON)
        )

    def commit(self) -> None:
        """Put the new parameters in the old places, with their state; they have their values by now."""
        for group in self.groups:
            for index, parameter in enumerate(group["params"]):
                if (change := self._changes.get(id(parameter))) is not None:
                    group["params"][index] = change.new
        for change in self._changes.values():
            self._optimizer.state.pop(change.old, None)
        for change, average in self._averages:
            fresh = change.carry(torch.ones_like(change.old, device=average.device), like="copy") == 0
            average[fresh] = change.new.detach().to(average)[fresh]
        self._optimizer.state.update(self._new_state)
        if self._changes:
            self._drop_history()

    def insert(self, name: str, parameter: nn.Parameter, group: dict[str, Any], index: int) -> None:
        """Let a wholly new parameter join a group."""
        if all(present is not parameter for present in group["params"]):
            group["params"].insert(index, parameter)
            if "param_names" in group:
                group["param_names"].insert(index, name)
        self._drop_history()

    def roll_back(self) -> None:
        """Put everything back as it was."""
        for group, old in zip(self.groups, self._old_groups, strict=True):
            for key, values in old.items():
                group[key][:] = values
        self._optimizer.state.clear()
        self._optimizer.state.update(self._old_state)
        if isinstance(self._optimizer, LBFGS):
            self._optimizer._numel_cache = self._numel

    def _carry(self, change: ParamChange, state: Mapping[str, Any]) -> dict[str, Any]:
        if self._carry_state is not None:
            answer = self._carry_state(self._optimizer, change.for_state, state)
            if answer is not None:
                return dict(answer)
        result = carried(self._optimizer, change.for_state, state)
        self._averages += [(change, value) for key, value in result.items() if like_of(key, state) == "weight"]
        return result

    def _refuse_joint_state(self, change: ParamChange) -> None:
        """Refuse optimizers that keep a history of all parameters together under one of them."""
        changed = {change.old for change in self._changes.values()}
        for parameter, state in self._old_state.items():
            for key, value in state.items():
                if isinstance(value, (list, dict)) and parameter not in changed and self._carry_state is None:
                    kind = f"a {type(value).__name__} that is kept with another parameter"
                    raise refusal(self._optimizer, change, f"{key!r} is {kind}")

    def _drop_history(self) -> None:
        """Let LBFGS start anew: what it remembers is of all its parameters, and they are others now."""
        if not isinstance(self._optimizer, LBFGS):
            return
        states = [state for state in self._old_state.values() if "func_evals" in state]
        lengths = [len(state["old_dirs"]) + 1 for state in states if "old_dirs" in state]
        self.dropped = tuple(f"{self.name}: its history of {length} step{'s' * (length > 1)}" for length in lengths)
        self._optimizer._numel_cache = None
        self._optimizer.state.clear()
        for state in states:
            self._optimizer.state[self.groups[0]["params"][0]] = {"func_evals": state["func_evals"]}
