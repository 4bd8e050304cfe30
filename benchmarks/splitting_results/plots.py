"""The plots of the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from methods import METHODS, SCRATCH, SPLITTING, methods_of
from pairs import Runs, error, events, values
from tasks import Task
from trial import FLOPS, PARAMETERS

__all__ = ["draw"]

COLOURS = {method: f"C{number}" for number, method in enumerate((*METHODS, SCRATCH))}


def draw(runs: Runs, tasks: Sequence[Task], folder: Path) -> None:
    """Write `loss.png`, `gain.png` and `index.png`.

    Args:
        runs: all.
        tasks: of which there are runs.
        folder: where to.
    """
    _losses(runs, tasks).savefig(folder / "loss.png", dpi=80)
    _gains(runs, tasks).savefig(folder / "gain.png", dpi=80)
    _indices(runs, tasks).savefig(folder / "index.png", dpi=80)
    plt.close("all")


def _losses(runs: Runs, tasks: Sequence[Task]) -> plt.Figure:
    figure, axes = plt.subplots(len(tasks), 2, figsize=(10, 3.2 * len(tasks)), squeeze=False, layout="constrained")
    for row, task in zip(axes, tasks, strict=True):
        for axis, equal in zip(row, (PARAMETERS, FLOPS), strict=True):
            for method in methods_of(task):
                samples = {
                    after: np.array(list(found.values()))
                    for after in range(task.rounds + 1)
                    if (found := values(runs, task, equal, method, after, "train_loss"))
                }
                heights = [sample.mean() for sample in samples.values()]
                errors = [error(sample) for sample in samples.values()]
                mark = "*" if method == SCRATCH else "o-"
                axis.errorbar(list(samples), heights, errors, fmt=mark, color=COLOURS[method], ms=4, lw=1, label=method)
            axis.set(title=f"{task.name}, {equal}", yscale="log", xlabel="round", ylabel="training loss")
            axis.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes[-1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _gains(runs: Runs, tasks: Sequence[Task]) -> plt.Figure:
    figure, axes = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 3.6), squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        for method in [each for each in SPLITTING if each in methods_of(task)]:
            predicted, realised = events(runs, task, method)
            axis.plot(predicted, realised, ".", color=COLOURS[method], ms=3, label=method)
        ends = np.array(axis.get_xlim()).clip(min=0)
        axis.plot(ends, ends, "k-", lw=0.5)
        axis.axhline(0, color="k", lw=0.3)
        axis.set(title=task.name, xlabel="predicted decrease of the loss", ylabel="realised")
    axes[0][0].legend(fontsize=7)
    return figure


def _indices(runs: Runs, tasks: Sequence[Task]) -> plt.Figure:
    """Draw the value that the best split of each round had: of positive splits, the smallest splitting index."""
    figure, axes = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 3.6), squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        for number, method in enumerate([each for each in SPLITTING if each in methods_of(task)]):
            for after in range(1, task.rounds + 1):
                gains = np.array(list(values(runs, task, PARAMETERS, method, after, "best_gain").values()))
                low, middle, high = np.quantile(2 * gains / task.step**2, [0.25, 0.5, 0.75]) if len(gains) else [0] * 3
                label = method if after == 1 else None
                spread = [[middle - low], [high - middle]]
                axis.errorbar(after + 0.1 * number, middle, spread, fmt="o", color=COLOURS[method], ms=4, label=label)
        axis.set(title=task.name, yscale="log", xlabel="round", ylabel="size of the best index, median and quartiles")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0][0].legend(fontsize=7)
    return figure
