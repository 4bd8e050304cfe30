"""What becomes of learning rates after a growth event: they warm up again, their schedules restart, or both."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.optim import Optimizer

from growkit.errors import PluginError
from growkit.plugins import Plugins, Watched

__all__ = ["Ramp", "Rewarm", "rewarm_after"]


@dataclass(frozen=True)
class Rewarm:
    """What learning rates do after an event: start low and come back to their schedule, begin their schedule anew.

    Optimizer step k after the event, counted from 0, is made with the scheduled rate times
    `start + (1 - start) * k / steps`; from step `steps` on with the scheduled rate.

    Args:
        steps: length of the ramp, at least 1; with `restart` also 0, for none.
        start: factor of the first step, in [0, 1].
        restart: whether all learning-rate schedulers of the trainer begin anew: with the next step, their states and
            the settings of their optimizers (rates, momenta) are what they were when the fit began.
    """

    steps: int = 0
    start: float = 0.0
    restart: bool = False

    def __post_init__(self) -> None:
        if self.steps < (0 if self.restart else 1) or not 0 <= self.start <= 1:
            raise ValueError(
                f"Rewarm takes steps >= 1 (0 with restart) and start in [0, 1], not steps={self.steps}, "
                f"start={self.start}, restart={self.restart}"
            )

    def factor(self, step: int) -> float:
        """Return by what to multiply the rate of the given step after the event."""
        return 1.0 if step >= self.steps else self.start + (1 - self.start) * step / self.steps


def rewarm_after(event: Any, plugins: Plugins, default: Rewarm | None, watch: Watched = nullcontext) -> Rewarm | None:
    """Return what learning rates shall do after an event: what a plugin says, else the default.

    Args:
        event: that happened.
        plugins: who are asked.
        default: what holds if they leave it.
        watch: see `Plugins.call`.

    Raises:
        PluginError: a plugin failed, or answered with something else.
    """
    for name, answer in plugins.call("growkit_rewarm", watch=watch, event=event):
        if not isinstance(answer, Rewarm):
            raise PluginError(
                f"{plugins.describe(name)} returned something else than a growkit.Rewarm from growkit_rewarm",
                seen=repr(answer),
                expected="a growkit.Rewarm, or None to leave it to others",
                advice="return growkit.Rewarm(steps=100), say",
            )
        return answer
    return default


class Ramp:
    """Multiplies learning rates while an optimizer updates, so that schedulers, monitors and user code never see it.

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
            self._hooks.append(optimizer.register_step_pre_hook(partial(self._before, number)))
            self._hooks.append(optimizer.register_step_post_hook(partial(self._after, number)))

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

    def _before(self, number: int, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        self._put_back(number)  # of a step that failed
        if self.rewarm.factor(self._taken[number]) == 1:
            return None
        self._lower(number)
        own, *rest = args
        closure, *others = rest or [kwargs.get("closure")]
        if closure is None:
            return None

        def outside() -> Any:
            """Run what belongs to the training loop with the rates of the schedule, which it may set."""
            self._put_back(number)
            result = closure()
            self._lower(number)
            return result

        return ((own, outside, *others), kwargs) if rest else (args, {**kwargs, "closure": outside})

    def _after(self, number: int, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._put_back(number)
        self._taken[number] += 1

    def _lower(self, number: int) -> None:
        groups = self._optimizers[number].param_groups
        self._scheduled[number] = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = group["lr"] * self.rewarm.factor(self._taken[number])

    def _put_back(self, number: int) -> None:
        for group, rate in zip(self._optimizers[number].param_groups, self._scheduled.pop(number, ()), strict=False):
            group["lr"] = rate
