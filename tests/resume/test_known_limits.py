"""Where a resumed run differs from the uninterrupted one, and why; next to each, the nearest case that is exact.

Whoever removes a limit finds a failing test here, and moves the choice to the axes of `designs`.
"""

from __future__ import annotations

import pytest
from designs import Case
from programs import Program

EARLY, MIDDLE, BOUNDARY = (("a step computes", 3),), (("a step computes", 7),), (("an epoch starts", 3),)

# Each with what is different, and what is exact.
LIMITS: dict[str, tuple[Case, Case]] = {
    # Lightning does not save what it has averaged of an epoch so far.
    "a scheduler that watches the mean of a metric over the epoch": (
        Case(Program(scheduler="plateau of the mean loss"), EARLY),
        Case(Program(scheduler="plateau of the mean loss", saving="epochs"), BOUNDARY),
    ),
    # Nobody can set the random numbers of a worker process that lives on from epoch to epoch.
    "augmentation in worker processes that last": (
        Case(Program(loader="lasting worker"), MIDDLE),
        Case(Program(loader="worker"), MIDDLE),
    ),
    # The batch after the current one is loaded before the current one draws, and anew without that on resuming.
    "augmentation in a data set without a length, in the process that trains": (
        Case(Program(loader="noisy stream"), MIDDLE),
        Case(Program(loader="noisy stream in a worker"), MIDDLE),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS)
def test_known_limits(limit, runs, tmp_path):
    inexact, exact = LIMITS[limit]
    assert runs.differences(inexact, tmp_path / "inexact") != []
    assert runs.differences(exact, tmp_path / "exact") == []
