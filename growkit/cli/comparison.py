"""The closing table: start, each growth event, end, and what the comparisons reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import nn

from growkit.cli.folder import last_before
from growkit.cli.parser import RecipeCLI
from growkit.growth.event import sizes
from growkit.structure import trace_example
from growkit.structure.forward import Example

__all__ = ["Row", "rows_of_comparisons", "rows_of_run", "show"]

Series = Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Row:
    """A line of the closing table.

    Attributes:
        name: what it is about.
        step: optimizer steps taken.
        sizes: parameters, FLOPs per sample and widths, as in the journal.
        metrics: `val_loss` and `val_accuracy` at that step, as far as they were logged.
        cost: FLOPs of all training steps up to there, per sample of a batch, a backward pass counting as two forward
            passes.
    """

    name: str
    step: int
    sizes: Mapping[str, Any]
    metrics: Mapping[str, float]
    cost: float


def rows_of_run(cli: RecipeCLI, series: Series) -> list[Row]:
    """Return the rows of the run itself."""
    notes = [entry.note for entry in cli.growth.journal.entries]
    end = sizes(trace_example(cli.model, _example(cli)))
    states = [(0, notes[0]["before"] if notes else end), *((note["step"], note["after"]) for note in notes)]
    rows, cost = [], 0.0
    for index, (step, state) in enumerate(states):
        metrics = {name: last_before(list(series.get(name, ())), step) for name in ("val_loss", "val_accuracy")}
        known = {name: value for name, value in metrics.items() if value is not None}
        rows.append(Row("start" if index == 0 else f"growth event {index}", step, state, known, cost))
        until = states[index + 1][0] if index + 1 < len(states) else cli.trainer.global_step
        cost += 3 * state["flops"] * (until - step)
    return [*rows, Row("end", cli.trainer.global_step, end, _metrics(cli.trainer), cost)]


def rows_of_comparisons(cli: RecipeCLI, console: Console) -> list[Row]:
    """Train what the recipe asks to compare with, for as many steps as the run took."""
    titles = {"start": "start network, never grown", "scratch": "final architecture, from scratch"}
    rows = []
    for kind in cli.compare:
        console.print(f"for comparison: training the {titles[kind]}")
        model, data = cli.fresh()
        if kind == "scratch":
            cli.growth.journal.replay(model, example=_example(cli))
            _initialise(model, cli)
        trainer = cli.comparison_trainer(cli.trainer.global_step)
        trainer.fit(model, data)
        size = sizes(trace_example(model, _example(cli)))
        cost = 3 * size["flops"] * trainer.global_step
        rows.append(Row(titles[kind], trainer.global_step, size, _metrics(trainer), cost))
    return rows


def _example(cli: RecipeCLI) -> Example:
    example = cli.growth.example
    assert example is not None, "training has seen a batch"
    return example


def _initialise(model: nn.Module, cli: RecipeCLI) -> None:
    """Draw all weights anew, as each layer initialises itself."""
    if isinstance(seed := cli.config["seed_everything"], int):
        pl.seed_everything(seed, workers=True, verbose=False)
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()


def _metrics(trainer: pl.Trainer) -> dict[str, float]:
    values = trainer.callback_metrics
    return {name: float(values[name]) for name in ("val_loss", "val_accuracy") if name in values}


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table."""
    table = Table(title="growth", title_justify="left", header_style="bold", box=SIMPLE)
    table.add_column("", no_wrap=True)
    for title in ("step", "params", "FLOPs", "training FLOPs", "val_loss", "val_accuracy"):
        table.add_column(title, justify="right")
    table.add_column("widths")
    for row in rows:
        metrics = [f"{row.metrics[n]:.4f}" if n in row.metrics else "" for n in ("val_loss", "val_accuracy")]
        table.add_row(
            row.name,
            f"{row.step:,}",
            f"{row.sizes['parameters']:,}",
            f"{row.sizes['flops']:.3g}",
            f"{row.cost:.3g}",
            *metrics,
            " ".join(map(str, row.sizes["widths"].values())),
            end_section=row.name == "end",
        )
    table.caption = "FLOPs: of one forward pass per sample. training FLOPs: of all steps so far, per sample of a batch."
    table.caption_justify = "left"
    console.print(table)
