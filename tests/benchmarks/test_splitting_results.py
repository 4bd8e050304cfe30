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


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many random images as the benchmark takes, in the layout of Fashion-MNIST."""
    folder, draw = tmp_path_factory.mktemp("fashion"), np.random.default_rng(0)
    for part, count in (("train", 4000), ("t10k", 10)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", draw.integers(256, size=(count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", draw.integers(10, size=count))
    return folder


def command(folder: Path, fashion: Path) -> str:
    environment = {**os.environ, "GROWKIT_DATA": str(fashion), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(ROOT / "benchmarks/splitting_results"), str(folder), "--quick", "--seeds", "1"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, fashion: Path) -> Path:
    folder = tmp_path_factory.mktemp("results")
    command(folder, fashion)
    return folder


def runs(folder: Path) -> dict[tuple[str, ...], list[dict[str, str]]]:
    found = defaultdict(list)
    with (folder / "splitting.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["task"], row["equal"], row["method"], row["seed"]].append(row)
    return found


def test_the_page_shows_every_method_and_plot(results):
    text = (results / "splitting.md").read_text()
    for method in {key[2] for key in runs(results)}:
        assert f"| {method} |" in text
    for plot in ("loss", "gain", "index"):
        assert f"({plot}.png)" in text
        assert (results / f"{plot}.png").stat().st_size < 150_000
    assert "nan, p" not in text.replace("(nan)", "")


def test_methods_share_their_start_and_keep_to_the_budget(results):
    """Equal parameters: less than a unit below uniform widening, as many steps; nothing differs before growth."""
    for task in ("toy", "digits", "fashion"):
        found = {key[2]: rows for key, rows in runs(results).items() if key[:2] == (task, "equal parameters")}
        scratch, uniform = found.pop("from scratch"), found["new random units"]
        assert len(found) >= 6
        for rows in found.values():
            assert rows[0] == {**uniform[0], "method": rows[0]["method"]}
            assert [row["steps"] for row in rows] == [row["steps"] for row in uniform]
            for row, limit in zip(rows[1:], uniform[1:], strict=True):
                assert int(row["parameters"]) <= int(limit["parameters"])
        assert [row["parameters"] for row in scratch] == [uniform[-1]["parameters"]]
        assert scratch[-1]["steps"] == uniform[-1]["steps"]


def test_equal_flops_are_equal_to_within_a_batch(results):
    """And scratch, which is large from the beginning, takes fewer steps."""
    for task, updates in (("toy", 50), ("digits", 1), ("fashion", 1)):
        found = {key[2]: rows[-1] for key, rows in runs(results).items() if key[:2] == (task, "equal FLOPs")}
        spent = {method: float(row["flops"]) for method, row in found.items()}
        steps = {method: int(row["steps"]) for method, row in found.items()}
        batch = updates * max(spent[method] / steps[method] for method in spent)
        assert steps["from scratch"] < steps["new random units"]
        cheap = [flops for method, flops in spent.items() if "split" not in method]
        assert max(cheap) - min(cheap) < 2 * batch


def test_an_interrupted_command_goes_on_where_it_was(results, fashion):
    path = results / "splitting.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))  # the last run was written in part
    assert "1 of 1 runs" in command(results, fashion)
    assert sorted(path.read_text().splitlines()) == sorted(line.rstrip("\n") for line in lines)
