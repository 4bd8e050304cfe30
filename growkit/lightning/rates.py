"""The learning rates of a fit: how their schedules began, and how rates warm up again after growth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
from torch.optim import Optimizer

from growkit.growth import Ramp, Rewarm, Standing

__all__ = ["Rates", "schedulers_of"]

_log = logging.getLogger(__name__)


def schedulers_of(trainer: pl.Trainer) -> list[Any]:
    """Return the learning-rate schedulers that a trainer has now."""
    return [config.scheduler for config in trainer.lr_scheduler_configs]


class Rates:
    """Learning rates after growth events.

    Args:
        optimizers: of the fit.
        schedulers: of the fit, fresh: the states of an interrupted run are not loaded yet.
        ramp: of an interrupted run, as `state_dict` returned it.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer] = (), schedulers: Sequence[Any] = (), ramp: dict[str, Any] | None = None
    ) -> None:
        self._optimizers = optimizers
        self._beginning = Standing(schedulers)
        self._ramp = None if ramp is None else Ramp.from_state(ramp, optimizers)
        self._said = False

    def state_dict(self) -> dict[str, Any] | None:
        """Return how far the ramp has come, or None without one."""
        return None if self._ramp is None else self._ramp.state_dict()

    def restart(self, schedulers: Sequence[Any]) -> Callable[[], None]:
        """Let schedulers begin anew, those that were there from the start.

        Returns:
            A function that takes it back.

        Raises:
            SurgeryError: a scheduler cannot; all are where they were.
        """
        if not schedulers and not self._said:
            _log.info("there are no learning-rate schedulers to restart after growth")
            self._said = True
        now = Standing(schedulers)
        try:
            self._beginning.restore(schedulers)
        except BaseException:
            now.restore(schedulers)
            raise
        return lambda: now.restore(schedulers)

    def warm_up(self, rewarm: Rewarm) -> None:
        """Begin a ramp, in place of the one there is."""
        self.end()
        self._ramp = Ramp(rewarm, self._optimizers) if rewarm.steps else None

    def end(self) -> None:
        """Let go of the optimizers."""
        if self._ramp is not None:
            self._ramp.end()
