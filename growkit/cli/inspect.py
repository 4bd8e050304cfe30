"""Show the widths of a model: sizes, what each unit costs, what grows together, and what is frozen and why."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from inspect import Parameter
from textwrap import shorten
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from growkit.cli.console import output
from growkit.cli.models import current_folder, doubled, imported, is_recipe, line_of, refuse_options, signature_of
from growkit.cli.parser import build, quiet
from growkit.cli.recipes import find
from growkit.cli.tree import Facts, facts_of, show_table, show_tree
from growkit.errors import RecipeError, StructureError, suggestion
from growkit.lightning.batches import example_of
from growkit.plugins import Plugins
from growkit.structure import Slice, Structure, trace_example
from growkit.structure.forward import Example

__all__ = ["FORMAT", "TAKES_OVERRIDES", "add_arguments", "command", "document"]

TAKES_OVERRIDES = True

FORMAT = 1  # of the JSON document

_LISTED = 8  # more arguments than that are no help in a message
_OPTIONS = ("--input", "--only", "--tree", "--json", "--positions")
_TYPES = ("float", "int", "bool")
_SHAPE = '--input "2,3,224,224" (real numbers), "2,16:int:1000" (whole ones below 1000), "2,16:bool" or "name=2,16"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, its inputs, and what to show."""
    parser.add_argument("model", help="a recipe, or package.module:factory (or :model) to import")
    add = functools.partial(parser.add_argument, action="append", default=[])
    add("--input", metavar="INPUT", help=f"an input of an imported model, once for each: {_SHAPE.partition(' ')[2]}")
    add("--only", metavar="PATTERN", help="show only these widths, such as 'encoder.*'")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--tree", action="store_true", help="show for each width what grows together")
    form.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--positions", action="store_true", help="with --json: list the positions of each unit")


def command(options: argparse.Namespace) -> None:
    """Trace the model and show its widths."""
    if options.positions and not options.json:
        raise RecipeError(
            "positions are listed in JSON only",
            seen="--positions without --json",
            expected="--json --positions",
            advice="add --json, or leave --positions out",
        )
    # What a factory prints must not get into the document.
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        structure = _structure(options)
        facts = facts_of(structure, options.only)
    if options.json:
        print(json.dumps(document(structure, facts, options.model, positions=options.positions), indent=2))
    else:
        (show_tree if options.tree else show_table)(structure, facts, output())


def document(structure: Structure, facts: Sequence[Facts], source: str, *, positions: bool = False) -> dict[str, Any]:
    """Return what is known about widths as plain data; `docs/inspect.md` says what the keys mean.

    Args:
        structure: of the model.
        facts: of the widths to include.
        source: how the model was named.
        positions: whether to list every position of each unit.
    """
    return {
        "format": FORMAT,
        "source": source,
        "model": type(structure.model).__name__,
        "parameters": structure.parameters(),
        "flops_per_sample": structure.flops(),
        "widths": [
            {
                "name": width.name,
                "size": width.size,
                "changes": change,
                "frozen": width.frozen,
                "advice": width.advice,
                "uniform": width.uniform,
                "copies_only": width.copies_only,
                "parameters_per_unit": cost.parameters,
                "flops_per_unit": cost.flops,
                "incoming": [_plain(piece, positions) for piece in width.incoming],
                "outgoing": [_plain(piece, positions) for piece in width.outgoing],
                "attributes": [{"owner": attribute.owner, "attribute": attribute.name} for attribute in attributes],
            }
            for width, change, _, cost, attributes in facts
        ],
    }


def _plain(piece: Slice, positions: bool) -> dict[str, Any]:
    plain = {"parameter": piece.parameter, "axis": piece.axis, "positions_per_unit": piece.multiplicity}
    return {**plain, "positions": piece.index.tolist()} if positions else plain


def _structure(options: argparse.Namespace) -> Structure:
    if is_recipe(options.model):
        if options.input:
            raise RecipeError(
                f"{options.model!r} is taken for a recipe, which brings its own inputs",
                seen=f"--input {' --input '.join(options.input)}",
                expected="package.module:factory with --input, or a recipe without",
                advice="put a colon before the name of the factory if you mean one, else leave --input out",
            )
        return trace_example(*_recipe(options.model, options.overrides))
    refuse_options(options.overrides, _OPTIONS)
    with current_folder():
        model = imported(options.model)
        return _traced(model, _example(model, options.input))


def _recipe(name: str, overrides: list[str]) -> tuple[nn.Module, Example]:
    cli = build(find(name, Plugins()), overrides, folder=None)
    data: Any = cli.datamodule
    with quiet():
        data.prepare_data()
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
    return cli.model, example_of(cli.model, batch)


# ---------------------------------------------------------------- the inputs


def _example(model: nn.Module, given: Sequence[str]) -> Example:
    own = getattr(model, "example_input_array", None)  # of a LightningModule
    if not given and own is not None:
        return own if isinstance(own, (tuple, dict)) else (own,)
    if not given:
        _no_input(
            "the inputs of the model are not known", "no --input", "give the sizes of each input, the batch first"
        )
    positional: list[Tensor] = []
    named: dict[str, Tensor] = {}
    for text in given:
        name, equals, shape = text.rpartition("=")
        name = name.strip()
        if not equals:
            positional.append(_input(text, shape, model))
        elif not name.isidentifier() or name in named:
            why = "is given twice" if name in named else "has no valid name"
            _no_input(f"--input {text!r} {why}", repr(name), "write the name of an argument of forward, each once")
        else:
            named[name] = _input(text, shape, model)
    return _bound(model, positional, named)


def _input(text: str, shape: str, model: nn.Module) -> Tensor:
    """Make an input: deterministic, and real ones of the type and on the device of the model's own numbers."""
    parts = [part.strip() for part in shape.split(":")]
    sizes, kind, bound, *_ = [*parts, *["", "float", "2"][len(parts) :]]
    what, counts = f"--input {text!r} cannot be read", [size.strip() for size in sizes.split(",")]
    if not all(count.isdecimal() and count.strip("0") for count in counts):
        _no_input(what, f"sizes {sizes!r}", "give whole numbers from 1 on, with commas between them")
    if kind not in _TYPES:
        _no_input(what, f"type {kind!r}", suggestion(kind, _TYPES, otherwise="write int, float or bool"))
    if parts[2:] and (kind != "int" or not bound.isdecimal() or not bound.strip("0") or parts[3:]):
        _no_input(what, f"bound {':'.join(parts[2:])!r}", "a bound is for int: a number above every entry, from 1 on")
    numbers = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    dice = torch.Generator().manual_seed(0)
    try:
        shaped = [int(count) for count in counts]
        if kind == "float":
            return torch.randn(shaped, generator=dice).to(numbers)
        entries = torch.randint(int(bound), shaped, generator=dice)
        return entries.to(numbers.device, torch.bool if kind == "bool" else torch.int64)
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        _no_input(f"--input {text!r} cannot be made", line_of(error), "give smaller sizes: a batch of two is enough")


def _no_input(what: str, seen: str, advice: str) -> NoReturn:
    raise RecipeError(what, seen=seen, expected=_SHAPE, advice=advice)


def _bound(model: nn.Module, positional: list[Tensor], named: dict[str, Tensor]) -> Example:
    """Match the inputs with the arguments of forward; those of a mixture are all given by name."""
    known = signature_of(model.forward)
    kinds = {name: argument.kind for name, argument in known.parameters.items()}
    places = [name for name, kind in kinds.items() if kind is Parameter.POSITIONAL_OR_KEYWORD]
    words = [*places, *(name for name, kind in kinds.items() if kind is Parameter.KEYWORD_ONLY)]
    try:
        known.bind(*positional, **named)
        if named and len(positional) > len(places):
            raise TypeError("inputs without a name beside inputs with one")
    except TypeError as error:
        unknown = next((name for name in named if name not in words), "")
        raise RecipeError(
            f"the inputs do not fit {type(model).__name__}.forward",
            seen=line_of(error),
            expected=f"--input for its arguments: {', '.join(words[:_LISTED])}{', ...' * (len(words) > _LISTED)}",
            advice=suggestion(unknown, words, otherwise="--input NAME=SIZES gives an input by its name"),
        ) from error
    return dict(zip(places, positional, strict=False)) | named if named else tuple(positional)


def _traced(model: nn.Module, example: Example) -> Structure:
    for inputs in (*doubled(example), example):
        try:
            return trace_example(model, inputs)
        except StructureError as error:
            failure = error
    raise RecipeError(
        failure.what,
        seen=shorten(failure.seen, 300, placeholder=" ..."),
        expected=f"inputs that the forward pass takes: {_SHAPE}",
        advice="compare the inputs with those the model is trained on; GROWKIT_TRACEBACK=1 shows where it failed",
    ) from failure
