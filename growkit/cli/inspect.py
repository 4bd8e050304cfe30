"""Show the widths of a model: sizes, what each unit costs, and what is frozen and why."""

from __future__ import annotations

import argparse
import pkgutil
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import nn

from growkit.cli.console import output
from growkit.cli.parser import build, quiet
from growkit.cli.recipes import find
from growkit.errors import RecipeError, suggestion
from growkit.growth.candidate import price
from growkit.lightning.batches import example_of
from growkit.plugins import Plugins
from growkit.structure import Structure, Width, trace_example
from growkit.structure.forward import Example
from growkit.surgery import Widen

__all__ = ["TAKES_OVERRIDES", "add_arguments", "command"]

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model and its inputs."""
    parser.add_argument("model", help="a recipe, or package.module:factory of a model")
    parser.add_argument(
        "--input",
        action="append",
        metavar="SHAPE",
        help='shape of a float input of a factory\'s model, such as "2,3,224,224"; once for each input',
    )


def command(options: argparse.Namespace) -> None:
    """Trace the model and print a line for each width."""
    if ":" in options.model:
        if options.overrides:
            raise RecipeError(
                "a factory takes no options of a recipe",
                seen=" ".join(options.overrides),
                expected="--input SHAPE, once for each input",
                advice=suggestion(options.overrides[0], ["--input"], otherwise="leave them out"),
            )
        model, example = _factory(options.model), _inputs(options.input)
    else:
        model, example = _recipe(options.model, options.overrides)
    show(trace_example(model, example), output())


def show(structure: Structure, console: Console) -> None:
    """Print the widths."""
    table = Table(box=SIMPLE, header_style="bold", caption_justify="left")
    table.caption = f"{structure.parameters():,} parameters, {structure.flops():,.0f} FLOPs per sample"
    table.add_column("width", no_wrap=True)
    for title in ("units", "parameters/unit", "FLOPs/unit"):
        table.add_column(title, justify="right")
    table.add_column("changes")
    for width in structure.widths.values():
        cost = price(structure, Widen(width.name, copies=(0,)))
        table.add_row(width.name, str(width.size), f"{cost.parameters:,}", f"{cost.flops:,.0f}", _changes(width))
    console.print(table)


def _changes(width: Width) -> str:
    if width.frozen:
        return f"frozen: it {width.frozen}"
    if width.uniform:
        return f"only by copying all units equally often: {width.uniform}"
    return f"by copies only: {width.copies_only}" if width.copies_only else "freely"


def _factory(name: str) -> nn.Module:
    try:
        made = pkgutil.resolve_name(name)
        model = made() if callable(made) and not isinstance(made, nn.Module) else made
    except Exception as error:
        raise _no_model(name, f"{type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise _no_model(name, f"a {type(model).__name__}")
    return model


def _no_model(name: str, seen: str) -> RecipeError:
    return RecipeError(
        f"{name!r} gives no model",
        seen=seen,
        expected="package.module:factory, where factory() returns a torch.nn.Module",
        advice="check the name, and that the package can be imported from here",
    )


def _inputs(shapes: list[str] | None) -> Example:
    try:
        sizes = [[int(size) for size in shape.split(",")] for shape in shapes or ()]
    except ValueError:
        sizes = []
    if not sizes or any(size < 1 for shape in sizes for size in shape):
        raise RecipeError(
            "the inputs of the model are not known",
            seen=f"--input {' --input '.join(shapes)}" if shapes else "no --input",
            expected='the shape of each input, such as --input "2,3,224,224"',
            advice="give the sizes as numbers with commas between them",
        )
    return tuple(torch.randn(*shape) for shape in sizes)


def _recipe(name: str, overrides: list[str]) -> tuple[nn.Module, Example]:
    cli = build(find(name, Plugins()), overrides, folder=None)
    data: Any = cli.datamodule
    with quiet():
        data.prepare_data()
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
    return cli.model, example_of(cli.model, batch)
