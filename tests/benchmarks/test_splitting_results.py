"""The command that makes the page of splitting's results, with a few steps of everything."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write bytes in the format of MNIST."""
    head = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes(), compresslevel=1))


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """As many random images as the benchmark takes, in the layout of Fashion-MNIST."""
    folder, draw = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 3300), ("t10k", 10)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", draw.integers(256, size=(count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", draw.integers(10, size=count))
    return folder


def command(folder: Path, fashion: Path, *options: str) -> str:
    environment = {**os.environ, "GROWKIT_DATA": str(fashion), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(ROOT / "benchmarks/splitting_results"), str(folder), "--quick", "--seeds", "1"]
    done = subprocess.run([*arguments, *options], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def runs(folder: Path) -> dict[tuple[str, ...], list[dict[str, str]]]:
    found = defaultdict(list)
    with (folder / "splitting.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["task"], row["equal"], row["method"], row["seed"]].append(row)
    return found


@pytest.mark.parametrize(
    "tasks", [{"toy": 50, "digits": 1}, pytest.param({"fashion": 1}, marks=pytest.mark.slow)], ids="-".join
)
def test_the_command_compares_what_is_comparable(tasks, tmp_path, fashion):
    """One run of the command, since most of what it takes is to start: tasks by name, with their updates a batch."""
    command(tmp_path, fashion, "--tasks", *tasks)
    check_page(tmp_path)
    for task, updates in tasks.items():
        check_equal_parameters(tmp_path, task)
        check_equal_flops(tmp_path, task, updates)
    check_going_on(tmp_path, fashion, *tasks)


def check_page(folder: Path) -> None:
    text = (folder / "splitting.md").read_text()
    for method in {key[2] for key in runs(folder)}:
        assert f"| {method} |" in text
    for plot in ("loss", "gain", "index"):
        assert f"({plot}.png)" in text
        assert (folder / f"{plot}.png").stat().st_size < 150_000


def check_equal_parameters(folder: Path, task: str) -> None:
    """Uniform widening is the limit, everybody takes as many steps, and nothing differs before growth."""
    found = {key[2]: rows for key, rows in runs(folder).items() if key[:2] == (task, "equal parameters")}
    scratch, uniform = found.pop("from scratch"), found["new random units"]
    assert len(found) >= 6
    for method, rows in found.items():
        assert rows[0] == {**uniform[0], "method": method}
        assert [row["steps"] for row in rows] == [row["steps"] for row in uniform]
        for row, limit in zip(rows[1:], uniform[1:], strict=True):
            assert int(row["parameters"]) <= int(limit["parameters"])
    assert [row["parameters"] for row in scratch] == [uniform[-1]["parameters"]]
    assert scratch[-1]["steps"] == uniform[-1]["steps"]


def check_equal_flops(folder: Path, task: str, updates: int) -> None:
    """Equal to within a batch, where events cost less than a phase; a network large from the start has fewer steps."""
    ends = {key[2]: rows[-1] for key, rows in runs(folder).items() if key[:2] == (task, "equal FLOPs")}
    spent = {method: float(row["flops"]) for method, row in ends.items()}
    batch = updates * max(spent[method] / int(row["steps"]) for method, row in ends.items())
    cheap = [flops for method, flops in spent.items() if "split" not in method]
    assert len(cheap) == 3
    assert max(cheap) - min(cheap) < 2 * batch
    (scratch,) = (rows for key, rows in runs(folder).items() if key[:3] == (task, "equal parameters", "from scratch"))
    assert int(ends["from scratch"]["steps"]) < int(scratch[0]["steps"])


def check_going_on(folder: Path, fashion: Path, *tasks: str) -> None:
    """A run that was written in part is run again, alone, and with the same result."""
    path = folder / "splitting.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert "1 of 1 runs" in command(folder, fashion, "--processes", "1", "--tasks", *tasks)
    assert sorted(path.read_text().splitlines(keepends=True)) == sorted(lines)
