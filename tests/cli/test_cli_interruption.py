"""Ctrl-C while a run is under way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from commands import invoke, metrics, works

import growkit
from growkit import Journal
from growkit_plugins.classification import MLP, Classifier


class Interrupted(NamedTuple):
    folder: Path
    code: int
    err: str


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"it ended by itself: {process.communicate()}")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Interrupted:
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    endless = (
        "--trainer.max_epochs",
        "100000",
        "--growth.when.init_args.epochs",
        "1",
        "--growth.budget.parameters",
        "900",
    )
    command = [sys.executable, "-m", "growkit", "run", "first-growth", *endless, "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        journal = folder / "journal.json"
        try:
            wait_for(lambda: journal.is_file() and "copies" in journal.read_text(), process, 60)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return Interrupted(folder, process.returncode, err)


def test_the_exit_code_says_that_it_was_interrupted(interrupted):
    assert interrupted.code == 130  # as docs/recipes.md and growkit.cli.main promise


def test_it_says_so_without_a_traceback(interrupted):
    assert interrupted.err == "growkit: interrupted\n"


def test_journal_and_checkpoint_are_whole(interrupted):
    assert interrupted.code != 0
    assert len(Journal.from_json((interrupted.folder / "journal.json").read_text())) >= 1
    module = growkit.load(interrupted.folder / "checkpoint.ckpt", Classifier(MLP(64, [4, 4], 10)))
    assert module(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert not list(interrupted.folder.glob("*.part"))


def test_the_run_can_go_on(interrupted):
    checkpoint = interrupted.folder / "checkpoint.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    epochs = saved["epoch"] + 3
    options = ("--trainer.max_epochs", epochs, "--growth.when.init_args.epochs", "1", "--compare", "[]")
    works("run", interrupted.folder / "recipe.yaml", *options, "--resume", checkpoint, "--folder", interrupted.folder)
    assert [step for step, _ in metrics(interrupted.folder / "metrics.csv", "val_loss")][-1] == 20 * epochs - 1
    written = Journal.from_json((interrupted.folder / "journal.json").read_text()).edits
    before = Journal.from_json(saved["callbacks"]["growkit.Growth"]["journal"]).edits
    assert written[: len(before)] == before


@pytest.mark.slow
def test_more_devices_than_growth_can_follow():
    command = [sys.executable, "-m", "growkit", "run", "first-growth", "--trainer.devices", "2", "--folder", "out"]
    short = ["--trainer.max_epochs", "1", "--compare", "[]"]
    done = subprocess.run([*command, *short], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.count("growkit: error: ") == 1
    assert "2 processes" in done.stderr


def test_an_interruption_outside_training(monkeypatch):
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("growkit.cli.run.build", interrupt)
    result = invoke("run", "first-growth", "--folder", "out")
    assert (result.code, result.err) == (130, "growkit: interrupted\n")
