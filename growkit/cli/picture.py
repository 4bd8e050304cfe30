"""`growth.png`: loss and accuracy over steps with growth events marked; widths and parameters below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from growkit.cli.folder import read_metrics
from growkit.surgery import Journal

__all__ = ["draw"]


def draw(folder: Path, journal: Journal, target: Path) -> None:
    """Draw the picture of a run from its `metrics.csv` and journal. Without matplotlib it says so and draws nothing.

    Args:
        folder: of the run.
        journal: of the run.
        target: PNG file to write.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print("growkit: growth.png was not drawn; it needs pip install 'growkit[report]'")
        return
    series = read_metrics(folder)
    notes = [entry.note for entry in journal.entries]
    last = max((step for values in series.values() for step, _ in values), default=1)
    figure = Figure(figsize=(9, 8), layout="constrained")
    losses, accuracies, widths = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 2))
    _curves(losses, {name: values for name, values in series.items() if name.endswith("loss")})
    losses.set(ylabel="loss", yscale="log")
    _curves(accuracies, {name: values for name, values in series.items() if name.endswith("accuracy")})
    accuracies.set(ylabel="accuracy")
    _sizes(widths, notes, last)
    for axes in (losses, accuracies, widths):
        for number, note in enumerate(notes):
            label = "growth event" if number == 0 and axes is losses else None
            axes.axvline(note["step"], color="0.6", linestyle=":", linewidth=1, label=label)
    if losses.get_legend_handles_labels()[0]:
        losses.legend(fontsize="small")
    widths.set(xlabel="optimizer steps")
    figure.savefig(target, dpi=120)


def _curves(axes: Any, series: dict[str, list[tuple[int, float]]]) -> None:
    for name, values in sorted(series.items()):
        steps, numbers = zip(*values, strict=True)
        axes.plot(steps, numbers, label=name, linestyle="-" if name.startswith("val") else "--")
    if series:
        axes.legend(fontsize="small")


def _sizes(axes: Any, notes: list[Any], last: int) -> None:
    """Draw widths as steps, and the number of parameters on an axis of its own."""
    if not notes:
        axes.text(0.5, 0.5, "nothing grew", ha="center", va="center", transform=axes.transAxes)
        return
    steps = [0, *(note["step"] for note in notes), last]
    states = [notes[0]["before"], *(note["after"] for note in notes)]
    states.append(states[-1])
    for name in states[0]["widths"]:
        axes.step(steps, [state["widths"].get(name) for state in states], where="post", label=name)
    axes.set(ylabel="width (units)")
    axes.legend(fontsize="small", loc="upper left")
    parameters = axes.twinx()
    parameters.step(steps, [state["parameters"] for state in states], where="post", color="black", linewidth=2)
    parameters.set(ylabel="parameters (black)")
