"""Warm the learning rate up again after a growth event, beside whatever schedule there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Ramp", "Rewarm"]


@dataclass(frozen=True)
class Rewarm:
    """A learning rate that starts low after an event and comes back to what the schedule says.

    Optimizer step k after the event, counted from 0, is made with the scheduled rate times
    `start + (1 - start) * k / steps`; from step `steps` on with the scheduled rate.

    Args:
        steps: length, at least 1.
        start: factor of the first step, in [0, 1].
    """

    steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.start <= 1:
            raise ValueError(f"Rewarm takes steps >= 1 and start in [0, 1], not steps={self.steps}, start={self.start}")

    def factor(self, step: int) -> float:
        """Return by what to multiply the rate of the given step after the event."""
        return min(1.0, self.start + (1 - self.start) * step / self.steps)


class Ramp:
    """Multiplies learning rates for the time of each optimizer step, so that schedulers and monitors never see it.

    Args:
        rewarm: how.
        optimizers: whose rates.
        taken: steps that each has taken since the event.
    """

    def __init__(self, rewarm: Rewarm, optimizers: Sequence[Optimizer], taken: Sequence[int] = ()) -> None:
        self.rewarm = rewarm
        self._optimizers = list(optimizers)
        self._taken = list(taken) or [0] * len(self._optimizers)
        self._scheduled: dict[int, list[Any]] = {}
        self._hooks = []
        for number, optimizer in enumerate(self._optimizers):
            self._hooks.append(optimizer.register_step_pre_hook(partial(self._lower, number)))
            self._hooks.append(optimizer.register_step_post_hook(partial(self._raise, number)))

    def state_dict(self) -> dict[str, Any]:
        """Return the settings and how far each optimizer has come."""
        return {"steps": self.rewarm.steps, "start": self.rewarm.start, "taken": list(self._taken)}

    @classmethod
    def from_state(cls, state: dict[str, Any], optimizers: Sequence[Optimizer]) -> Ramp:
        """Go on from what `state_dict` returned."""
        return cls(Rewarm(state["steps"], state["start"]), optimizers, state["taken"])

    def end(self) -> None:
        """Let go of the optimizers; the rates are those of the schedule."""
        for number in list(self._scheduled):
            self._put_back(number)
        for hook in self._hooks:
            hook.remove()

    def _lower(self, number: int, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._put_back(number)  # of a step that failed
        factor = self.rewarm.factor(self._taken[number])
        if factor < 1:
            self._scheduled[number] = [_copied(group["lr"]) for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"].mul_(factor) if isinstance(group["lr"], Tensor) else group["lr"] * factor

    def _raise(self, number: int, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._put_back(number)
        self._taken[number] += 1

    def _put_back(self, number: int) -> None:
        for group, rate in zip(self._optimizers[number].param_groups, self._scheduled.pop(number, ()), strict=False):
            group["lr"] = group["lr"].copy_(rate) if isinstance(rate, Tensor) else rate


def _copied(rate: Any) -> Any:
    return rate.clone() if isinstance(rate, Tensor) else rate
