"""How to grow: splitting as shipped, and what it must beat."""

from __future__ import annotations

from collections.abc import Callable

from tasks import Task

import growkit
from growkit_plugins.baselines import Net2Net, RandomSplit, RandomUnits
from growkit_plugins.splitting import Splitting

__all__ = ["CONTROL", "METHODS", "SCRATCH", "SPLITTING", "methods_of"]

SCRATCH = "from scratch"
CONTROL = "random split"
SPLITTING = ["splitting, fast", "splitting, exact", "signed splitting"]

# Those that rank or draw among all units propose all, and the budget cuts; the others widen uniformly.
METHODS: dict[str, Callable[[Task], growkit.Plugin]] = {
    "splitting, fast": lambda task: Splitting(1.0, task.step, task.batches),
    "splitting, exact": lambda task: Splitting(1.0, task.step, task.batches, method="exact"),
    "signed splitting": lambda task: Splitting(1.0, task.step, task.batches, mass=3.0, offspring=task.offspring),
    CONTROL: lambda task: RandomSplit(1.0, task.step),
    "uniform random split": lambda task: RandomSplit(task.fraction, task.step, even=True),
    "Net2Net copies": lambda task: Net2Net(task.fraction, noise=0.05),
    "new random units": lambda task: RandomUnits(task.fraction),
}


def methods_of(task: Task) -> list[str]:
    """Return the methods that differ on a task: with a single width every random split is uniform."""
    left_out = {"uniform random split"} if len(task.start) == 1 else set()
    return [method for method in (*METHODS, SCRATCH) if method not in left_out]
