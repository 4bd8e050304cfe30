"""Run the command line in this process, and read what it printed and left behind."""

from __future__ import annotations

import csv
import re
import traceback
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from growkit.cli.main import main

RECIPE = files("growkit_recipes").joinpath("first-growth.yaml").read_text(encoding="utf-8")

# `first-growth` in about a second, with growth events.
SHORT = ("--trainer.max_epochs", "3", "--growth.when.init_args.epochs", "1", "--compare", "[]")


class Result(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


class Parts(NamedTuple):
    """The four parts of a message."""

    what: str
    seen: str
    expected: str
    advice: str


class Row(NamedTuple):
    """A line of the closing table."""

    step: int
    parameters: int
    cost: float
    accuracy: float | None
    widths: list[int]


def invoke(*arguments: object) -> Result:
    """Run `growkit` with these arguments; an exception that escapes it counts as it would in a shell."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leaving:  # from argparse
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
    return Result(code, out.getvalue(), err.getvalue())


def works(*arguments: object) -> str:
    """Run a command that must succeed, and return what it printed."""
    result = invoke(*arguments)
    assert result.err == ""
    assert result.code == 0
    return result.out


def explained(result: Result) -> Parts:
    """Require exit code 1 and nothing on standard error but one message of four parts; return them."""
    lines = r"growkit: error: (.+)\n  seen:     (.+)\n  expected: (.+)\n  advice:   (.+)\n"
    match = re.fullmatch(lines, result.err)
    assert match, f"not one error of four parts:\n{result.err}"
    assert result.code == 1
    return Parts(*match.groups())


def refused(*arguments: object) -> Parts:
    """Run a command that must end with one error, and return the parts of its message."""
    return explained(invoke(*arguments))


def edited(*edits: tuple[str, str]) -> str:
    """Return the recipe `first-growth` with each text replaced by another."""
    text = RECIPE
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def table(out: str) -> dict[str, Row]:
    """Read the closing table, by the names of its lines."""
    found = {}
    for line in out.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) in (6, 8) and re.fullmatch(r"[\d,]+", cells[1]):
            name, step, parameters, _, cost, *metrics, widths = cells
            accuracy = float(metrics[1]) if metrics else None
            sizes = [int(width) for width in widths.split()]
            found[name] = Row(
                int(step.replace(",", "")), int(parameters.replace(",", "")), float(cost), accuracy, sizes
            )
    return found


def metrics(path: Path, name: str) -> list[tuple[int, float]]:
    """Return (step, value) of a metric from a `metrics.csv`."""
    with path.open(newline="") as file:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row[name]]


def snapshot(folder: Path = Path()) -> dict[str, bytes | None]:
    """Return every file below a folder with its content, and every folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def training_state(checkpoint: Path) -> dict[str, Any]:
    """Return what must not depend on an interruption, with bytes in place of tensors."""
    saved = torch.load(checkpoint, weights_only=True)
    kept = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers")
    return plain({key: saved[key] for key in kept} | {"growth": saved["callbacks"]["growkit.Growth"]})


def plain(value: Any) -> Any:
    """Replace tensors by bytes, so that == compares bit for bit."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
