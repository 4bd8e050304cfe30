"""When to grow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Literal

from growkit.errors import CheckpointError, RecipeError, suggestion

__all__ = ["Every", "Moment", "OnPlateau", "Schedule", "every", "on_plateau", "restore_schedule"]


@dataclass(frozen=True)
class Moment:
    """A point of the training loop, just before a batch with which an optimizer step begins.

    Attributes:
        step: optimizer steps taken so far.
        epoch: epochs finished so far.
        batch: index of the coming batch in its epoch.
    """

    step: int
    epoch: int
    batch: int


class Schedule(ABC):
    """Decides when growth is due.

    Attributes:
        needs_validation: whether it can only ever be due after a validation.
        shared: whether what it says follows from the moments and metrics it was shown alone. In a data-parallel run
            all processes see the same ones, and so decide alike; otherwise the first process is asked before each step.
    """

    needs_validation = False
    shared = False

    @abstractmethod
    def due(self, moment: Moment) -> bool:
        """Say whether to grow now. Called once before each optimizer step."""

    def observe(self, metrics: Mapping[str, float]) -> None:  # noqa: B027 (most schedules ignore metrics)
        """Take note of the metrics after a validation."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved with a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (most schedules keep nothing)
        """Take up what `state_dict` returned."""


class Every(Schedule):
    """Growth at regular intervals, never at the very start.

    Args:
        epochs: grow after every so many epochs, at least 1.
        steps: grow after every so many optimizer steps, at least 1. Exactly one of the two is given. Where a batch
            takes several steps, as with several optimizers, growth comes before the batch that follows.
    """

    shared = True

    def __init__(self, epochs: int | None = None, steps: int | None = None) -> None:
        interval = epochs if steps is None else steps
        if (epochs is None) == (steps is None) or interval is None or interval < 1:
            raise ValueError(f"every() takes epochs=N or steps=N with N >= 1, not epochs={epochs}, steps={steps}")
        self.epochs, self.steps = epochs, steps
        self._asked: int | None = None  # the last step at which this was asked

    def due(self, moment: Moment) -> bool:
        """Say whether the interval is over."""
        before, self._asked = self._asked, moment.step
        if self.steps is not None:
            if before is None or before > moment.step:  # another run has begun
                before = moment.step - 1
            return moment.step > 0 and moment.step // self.steps > before // self.steps
        assert self.epochs is not None
        return moment.batch == 0 and moment.epoch > 0 and moment.epoch % self.epochs == 0

    def state_dict(self) -> dict[str, Any]:
        """Return the last step at which this was asked."""
        return {"asked": self._asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up that step; version 0.1 did not keep it."""
        asked = state.get("asked")
        self._asked = None if asked is None else int(asked)


class OnPlateau(Schedule):
    """Growth when a metric has stopped improving.

    Args:
        metric: name of a logged metric, such as "val_loss".
        patience: grow after so many validations without improvement, at least 1.
        mode: "min" if smaller is better, "max" if larger is.
    """

    needs_validation = True
    shared = True

    def __init__(self, metric: str, patience: int = 3, mode: Literal["min", "max"] = "min") -> None:
        if patience < 1 or mode not in ("min", "max"):
            raise ValueError(f"on_plateau() takes patience >= 1 and mode 'min' or 'max', not {patience}, {mode!r}")
        self.metric, self.patience, self.mode = metric, patience, mode
        self._best = math.inf
        self._waited = 0

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Count validations without improvement."""
        if self.metric not in metrics:
            raise RecipeError(
                f"growth waits for a plateau of {self.metric!r}, which nobody logs",
                seen=f"the metrics {', '.join(sorted(metrics)) or '(none)'}",
                expected=f"a metric named {self.metric!r} after each validation",
                advice=suggestion(self.metric, metrics, otherwise="log it with self.log in validation_step"),
            )
        value = metrics[self.metric] * (1.0 if self.mode == "min" else -1.0)
        if value < self._best:
            self._best, self._waited = value, 0
        else:
            self._waited += 1

    def due(self, moment: Moment) -> bool:
        """Say whether patience has run out, and if so start to wait anew."""
        if self._waited < self.patience:
            return False
        self._best, self._waited = math.inf, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the count."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the best value and the count."""
        self._best, self._waited = float(state["best"]), int(state["waited"])


def every(epochs: int | None = None, steps: int | None = None) -> Schedule:
    """Grow at regular intervals: `every(epochs=5)` or `every(steps=500)`. See `Every`."""
    return Every(epochs=epochs, steps=steps)


def on_plateau(metric: str, patience: int = 3, mode: Literal["min", "max"] = "min") -> Schedule:
    """Grow when a metric has stopped improving: `on_plateau("val_loss", patience=3)`. See `OnPlateau`."""
    return OnPlateau(metric, patience, mode)


def restore_schedule(schedule: Schedule, state: dict[str, Any]) -> None:
    """Let a schedule take up what one of its kind returned from `state_dict`.

    Raises:
        CheckpointError: the state is of another kind.
    """
    try:
        schedule.load_state_dict(state)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "the checkpoint was saved with another schedule of growth",
            seen=shorten(str(state), 400),
            expected=f"the state of a {type(schedule).__name__}",
            advice="resume with the schedule of the interrupted run",
        ) from error
