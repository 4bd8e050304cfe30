"""The page of results: tables made from the numbers of the runs, and what they say of the paper's order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np
import pytorch_lightning as pl
import torch
from methods import CONTROL, PER_PARAMETER, SCRATCH, SPLITTING, methods_of
from pairs import Runs, difference, error, events, values
from tasks import Task
from trial import FLOPS, PARAMETERS

__all__ = ["page"]

_OPENING = """# Splitting, and what it must beat

Made by `python benchmarks/splitting_results docs/results`. The numbers of every run are in [splitting.csv](splitting.csv).

Every network is trained by the Lightning `Trainer`, grown by `growkit.Growth`, and scored by the plugins as they ship. All methods of a seed share the initial weights and the order of the data. Growth takes place in rounds; the learning rate begins anew in each. After each round a method has the parameters of the uniformly widened network or, where units do not fit exactly, less than one unit fewer; which units get them is the method's affair. Nothing was tuned for any method: what is not said here is as in the notes of the papers or the plugins' defaults.

| method | what it does | what it is there for |
| --- | --- | --- |
| splitting, fast | splits the units with the best predicted gain along their splitting gradients, found by descent | the method, with the papers' order of units |
| splitting, exact | the same from whole splitting matrices | whether the descent finds what there is to find |
| splitting, per parameter | the same as fast, but units are chosen by predicted gain per parameter | growkit's default choice under a budget |
| signed splitting | offspring with weights of either sign, of total magnitude 3 | the method of the third paper |
| random split | splits random units of all layers together, each along a random direction, by the same step | choice and direction of splitting |
| uniform random split | the same, but every layer grows by the same share | where units go: uniform widening |
| Net2Net copies | every layer grows by the same share; copies with noise of 5 % of the layer's weights | widening without opposite offspring |
| new random units | every layer grows by the same share; fresh incoming weights, zero outgoing ones | splitting at all |
| from scratch | the uniformly widened network, trained from its own initial weights with one schedule | growth at all |

Two comparisons. *Equal parameters*: every phase has the same number of steps, and the network from scratch takes the steps of all phases. *Equal FLOPs*: phases end when training, growth events included, has cost as much as uniform widening costs in the first comparison (to within a batch); three forward passes a sample and step, and events as torch's `FlopCounterMode` counts them, eigendecompositions left out. The network from scratch, which is large from the beginning, takes fewer steps then.

Judged by the training loss, which is what splitting promises to lower: on tasks this small a lower one may go with more overfitting. p: Wilcoxon's signed-rank test of the pairs, two-sided, not corrected for the number of comparisons."""  # noqa: E501


def page(runs: Runs, tasks: Sequence[Task]) -> str:
    """Return the page.

    Args:
        runs: all; of every task, comparison and method at least one.
        tasks: of which there are runs.
    """
    seeds = {key[3] for key in runs}
    versions = f"torch {torch.__version__}, Lightning {pl.__version__}"
    sections = [
        _OPENING,
        f"{len(seeds)} seeds; one thread a run, {versions}.",
        "## Does the paper's order appear?",
        _claims(runs, tasks),
        "![Training loss by round](loss.png)",
    ]
    for task in tasks:
        sections += [f"## {task.title}", _settings(task)]
        for equal in (PARAMETERS, FLOPS):
            sections += [f"### {equal[0].upper()}{equal[1:]}", _losses(runs, task, equal), _ends(runs, task, equal)]
            sections += ["Differences to random split:", _differences(runs, task, equal)]
    sections += ["## What splitting predicts", _predictions(runs, tasks)]
    sections += ["![Predicted and realised decrease of the loss](gain.png)", "![Best index by round](index.png)"]
    return "\n\n".join(sections) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _settings(task: Task) -> str:
    kind = "root mean squared error" if task.regression else "cross entropy in nats"
    return (
        f"Losses: {kind}. {task.about} Rounds: {task.rounds}; steps a phase: {task.steps}; widths of uniform widening: "
        f"{', '.join('-'.join(map(str, task.uniform(rounds))) for rounds in range(task.rounds + 1))}. "
        f"Splits step by {task.step}; splitting looks at {task.batches} batch{'es' * (task.batches > 1)}."
    )


def _losses(runs: Runs, task: Task, equal: str) -> str:
    rounds = range(task.rounds + 1)
    rows = []
    for method in methods_of(task):
        cells = [_mean(values(runs, task, equal, method, number, "train_loss")) for number in rounds]
        last = values(runs, task, equal, method, task.rounds, "train_loss")
        rows.append([method, *cells, f"{np.median(list(last.values())):.3g}"])
    return _table(["mean training loss (standard error)", *(f"round {n}" for n in rounds), "median, last"], rows)


def _ends(runs: Runs, task: Task, equal: str) -> str:
    names = ["test_loss"] if task.regression else ["test_loss", "test_accuracy"]
    rows = []
    for method in methods_of(task):
        measured = [_mean(values(runs, task, equal, method, task.rounds, name)) for name in names]
        parameters, steps, flops = (
            fmean(values(runs, task, equal, method, task.rounds, name).values())
            for name in ("parameters", "steps", "flops")
        )
        sizes = [f"{parameters:,.0f}", f"{steps:,.0f}", f"{flops:.3g}"]
        rows.append([method, *measured, *sizes])
    head = ["after the last round", *(f"{name.replace('_', ' ')}" for name in names), "parameters", "steps", "FLOPs"]
    return _table(head, rows)


def _differences(runs: Runs, task: Task, equal: str) -> str:
    rows = []
    for method in methods_of(task):
        cells = []
        for number in range(1, task.rounds + 1):
            those = values(runs, task, equal, CONTROL, number, "train_loss")
            these = values(runs, task, equal, method, number, "train_loss")
            if these and method != CONTROL:
                found = difference(these, those)
                cells.append(f"{found.mean:+.2g} ({found.error:.1g}), p = {found.p:.2g}")
            else:
                cells.append("")
        if any(cells):
            rows.append([method, *cells])
    return _table(["mean difference (standard error)", *(f"round {n + 1}" for n in range(task.rounds))], rows)


_ORDER = [
    ("splitting, fast", CONTROL),
    ("splitting, exact", CONTROL),
    (PER_PARAMETER, CONTROL),
    ("signed splitting", "splitting, fast"),
    (CONTROL, "Net2Net copies"),
    ("splitting, fast", "new random units"),
    ("splitting, fast", SCRATCH),
]


def _claims(runs: Runs, tasks: Sequence[Task]) -> str:
    """Say of each pair that the papers order whether the first has the lower loss after the last round."""
    columns = [(task, equal) for task in tasks for equal in (PARAMETERS, FLOPS)]
    rows = []
    for better, worse in _ORDER:
        cells = []
        for task, equal in columns:
            if not {better, worse} <= set(methods_of(task)):
                cells.append("")
                continue
            these, those = (values(runs, task, equal, method, task.rounds, "train_loss") for method in (better, worse))
            found = difference(these, those)
            verdict = "open" if found.p > 0.05 else "yes" if found.mean < 0 else "**no, the reverse**"
            wins = sum(these[seed] < those[seed] for seed in these.keys() & those.keys())
            cells.append(f"{verdict} ({wins} of {len(these)}, p = {found.p:.2g})")
        rows.append([f"{better} below {worse}", *cells])
    head = ["training loss after the last round", *(f"{task.name}, {equal}" for task, equal in columns)]
    text = (
        "The papers report the orders on the left. Yes or no where p is at most 0.05, else open; in brackets in how "
        "many of the pairs the first has the lower loss."
    )
    return f"{text}\n\n{_table(head, rows)}"


def _predictions(runs: Runs, tasks: Sequence[Task]) -> str:
    rows = []
    for task in tasks:
        for method in [each for each in SPLITTING if each in methods_of(task)]:
            predicted, realised = events(runs, task, method)
            planned = sum(len(phases) - 1 for key, phases in runs.items() if key[0] == task.name and key[2] == method)
            ratio = np.median(realised / predicted) if len(predicted) else float("nan")
            lower = f"{int((realised > 0).sum())} of {len(predicted)}"
            rows.append([task.name, method, f"{len(predicted)} of {planned}", f"{ratio:.3g}", lower])
    head = ["task", "method", "rounds with growth", "realised / predicted, median", "events that lowered the loss"]
    text = (
        "Realised: training loss before the event less that right after it, of the whole training set in evaluation "
        "mode. The second derivative of ReLU is a surrogate, so its predictions rank rather than predict; and "
        "predictions are of second order in the step."
    )
    return f"{text}\n\n{_table(head, rows)}"


def _mean(sample: dict[int, float]) -> str:
    numbers = np.array(list(sample.values()))
    return f"{numbers.mean():.3g} ({error(numbers):.1g})" if len(numbers) else ""
