"""Means over seeds, and differences of pairs that share a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon
from store import Key
from tasks import Task

__all__ = ["Runs", "Difference", "difference", "error", "events", "values"]

Runs = Mapping[Key, list[dict[str, Any]]]


@dataclass(frozen=True)
class Difference:
    """One method less another, pair by pair.

    Attributes:
        mean: of the differences.
        error: of the mean.
        p: of the Wilcoxon signed-rank test, two-sided.
    """

    mean: float
    error: float
    p: float


def values(runs: Runs, task: Task, equal: str, method: str, round: int, name: str) -> dict[int, float]:
    """Return a number of each seed; of the toy, the root of losses.

    Args:
        runs: all.
        task: which.
        equal: which comparison.
        method: which.
        round: after which event, 0 for before the first.
        name: of the column.
    """
    found = {}
    for (its_task, its_equal, its_method, seed), rows in runs.items():
        if (its_task, its_equal, its_method) == (task.name, equal, method):
            for row in rows:
                if row["round"] == round and row[name] is not None:
                    root = task.regression and name.endswith("loss")
                    found[seed] = math.sqrt(row[name]) if root else row[name]
    return found


def difference(these: Mapping[int, float], those: Mapping[int, float]) -> Difference:
    """Compare the seeds that both have."""
    pairs = np.array([these[seed] - those[seed] for seed in sorted(these.keys() & those.keys())])
    p = float(wilcoxon(pairs).pvalue) if pairs.any() else 1.0
    return Difference(float(pairs.mean()), error(pairs), p)


def error(sample: NDArray[np.float64]) -> float:
    """Return the standard error of the mean."""
    return float(sample.std(ddof=1) / math.sqrt(len(sample))) if len(sample) > 1 else math.nan


def events(runs: Runs, task: Task, method: str) -> NDArray[np.float64]:
    """Return the predicted and the realised decrease of the loss of every event, shape (2, events)."""
    found = [
        (now["gain"], before["train_loss"] - now["grown_loss"])
        for key, phases in runs.items()
        if (key[0], key[2]) == (task.name, method)
        for before, now in pairwise(phases)
        if now["gain"] is not None
    ]
    return np.array(found).reshape(-1, 2).T
