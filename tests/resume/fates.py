"""Moments of a training run, and the death of a process at one of them."""

from __future__ import annotations

import functools
import io
import os
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

import growkit
from growkit.growth import Event
from growkit.lightning.files import WholeFiles
from growkit.surgery import Operation
from growkit.surgery.optimizer import OptimizerPlan
from growkit.surgery.sites import Sites


class Fate:
    """Counts how often a moment is reached, and kills the process at the last time it shall live to see.

    Args:
        moment: its name; empty for a long life.
        times: how often it is reached.
    """

    def __init__(self, moment: str = "", times: int = 0) -> None:
        self.moment, self.times = moment, times

    def reached(self, moment: str) -> None:
        if moment == self.moment:
            self.times -= 1
            if self.times == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def __deepcopy__(self, memo: dict[int, Any]) -> Fate:
        """Copies of a module, which growth asks for statistics, are no part of the run."""
        return Fate()


class Before(pl.Callback):
    """What happens in the training loop, seen before `Growth` sees it and before checkpoints are saved."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate

    def on_train_epoch_start(self, *_: Any) -> None:
        self.fate.reached("an epoch starts")

    def on_train_batch_start(self, *_: Any) -> None:
        self.fate.reached("a batch starts")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.fate.reached("before an optimizer step")

    def on_train_batch_end(self, *_: Any) -> None:
        self.fate.reached("after an optimizer step")

    def on_validation_end(self, *_: Any) -> None:
        self.fate.reached("a validation ends")

    def on_train_epoch_end(self, *_: Any) -> None:
        self.fate.reached("an epoch ends")


class After(pl.Callback):
    """What `Growth` has left behind when a batch starts."""

    def __init__(self, fate: Fate, growth: growkit.Growth) -> None:
        self.fate, self.growth, self.seen = fate, growth, 0

    def on_train_batch_start(self, *_: Any) -> None:
        if len(self.growth.events) > self.seen:
            self.seen = len(self.growth.events)
            self.fate.reached("after an event")


class Within(growkit.Plugin):
    """What plugins see of a growth event."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate

    @growkit.hookimpl
    def growkit_propose(self, context: growkit.Context) -> None:
        self.fate.reached("plugins propose")

    @growkit.hookimpl
    def growkit_grown(self, event: Event) -> None:
        self.fate.reached("plugins follow")


def lie_in_wait(fate: Fate) -> None:
    """Wrap what has no hook, for the rest of the life of this process."""
    _wrap(Sites, "exchange", fate, "a tensor is exchanged")
    _wrap(OptimizerPlan, "commit", fate, "an optimizer follows")
    _wrap(Operation, "_verified", fate, "an edit is verified")
    _wrap(Path, "replace", fate, "a checkpoint is in no place yet")
    _wrap(WholeFiles, "save_checkpoint", fate, "a checkpoint was saved", before=False)
    _tear(fate)


def _wrap(owner: Any, name: str, fate: Fate, moment: str, before: bool = True) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        if before:
            fate.reached(moment)
        result = original(*arguments, **options)
        if not before:
            fate.reached(moment)
        return result

    setattr(owner, name, wrapper)


def _tear(fate: Fate) -> None:
    """Write checkpoints in two halves, with a moment in between."""

    class Halves(io.BufferedWriter):
        def write(self, data: Any) -> int:
            half = len(data) // 2
            written = super().write(data[:half])
            self.flush()
            fate.reached("half a checkpoint is written")
            return written + super().write(data[half:])

    original = Path.open

    def open_in_halves(path: Path, *arguments: Any, **options: Any) -> Any:
        return Halves(io.FileIO(path, "wb")) if path.suffix == ".partial" else original(path, *arguments, **options)

    Path.open = open_in_halves


ALWAYS = (
    "an epoch starts",
    "a batch starts",
    "a step computes",
    "before an optimizer step",
    "after an optimizer step",
    "half a checkpoint is written",
    "a checkpoint is in no place yet",
    "a checkpoint was saved",
    "an epoch ends",
)
IN_EVENTS = (
    "plugins propose",
    "a tensor is exchanged",
    "an optimizer follows",
    "an edit is verified",
    "plugins follow",
    "after an event",
)
IN_VALIDATIONS = ("a validation computes", "a validation ends")
MOMENTS = (*ALWAYS, *IN_EVENTS, *IN_VALIDATIONS)
