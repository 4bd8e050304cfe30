"""How to grow: splitting as shipped, and what it must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasks import Task

import growkit
from growkit_plugins.baselines import Net2Net, RandomSplit, RandomUnits
from growkit_plugins.splitting import Splitting

__all__ = ["CONTROL", "METHODS", "SCRATCH", "SPLITTING", "methods_of"]

SCRATCH = "from scratch"
CONTROL = "random split"
PER_PARAMETER = "splitting, per parameter"
SPLITTING = ["splitting, fast", "splitting, exact", PER_PARAMETER, "signed splitting"]


class BestFirst(growkit.Plugin):
    """Takes candidates by their gain, as the papers do, as long as the budget lasts; growkit ranks by gain per cost."""

    @growkit.hookimpl
    def growkit_select(
        self, candidates: Sequence[growkit.Candidate], budget: growkit.Budget, context: growkit.Context
    ) -> list[growkit.Candidate]:
        """Choose those that fit, best first."""
        chosen: list[growkit.Candidate] = []
        sizes: dict[str, int] = {}
        for candidate in sorted(candidates, key=lambda each: -each.gain):
            width = candidate.edit.width
            grown = sizes | {width: candidate.edit.new_size(sizes.get(width, context.structure[width].size))}
            if context.structure.parameters(grown) <= (budget.parameters or 0):
                chosen.append(candidate)
                sizes = grown
        return chosen


_FINE = 0.01  # relative residual of the fast eigenpairs

# Those that rank or draw among all units propose all, and the budget cuts; the others widen uniformly.
METHODS: dict[str, Callable[[Task], list[growkit.Plugin]]] = {
    "splitting, fast": lambda task: [Splitting(1.0, task.step, task.batches, tolerance=_FINE), BestFirst()],
    "splitting, exact": lambda task: [Splitting(1.0, task.step, task.batches, method="exact"), BestFirst()],
    PER_PARAMETER: lambda task: [Splitting(1.0, task.step, task.batches, tolerance=_FINE)],
    "signed splitting": lambda task: [
        Splitting(1.0, task.step, task.batches, tolerance=_FINE, mass=3.0, offspring=task.offspring),
        BestFirst(),
    ],
    CONTROL: lambda task: [RandomSplit(1.0, task.step)],
    "uniform random split": lambda task: [RandomSplit(task.fraction, task.step, even=True)],
    "Net2Net copies": lambda task: [Net2Net(task.fraction, noise=0.05)],
    "new random units": lambda task: [RandomUnits(task.fraction)],
}


def methods_of(task: Task) -> list[str]:
    """Return the methods that differ on a task: in a single width all units cost the same."""
    left_out = {"uniform random split", PER_PARAMETER} if len(task.start) == 1 else set()
    return [method for method in (*METHODS, SCRATCH) if method not in left_out]
