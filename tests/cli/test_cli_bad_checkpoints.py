"""`--resume` with what is no checkpoint, or with one of something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import SHORT, refused, snapshot, works

CHECKPOINT = "given.ckpt"
GOING_ON = ("run", "first-growth", *SHORT[2:], "--trainer.max_epochs", "4", "--resume", CHECKPOINT, "--folder", "out")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("good") / "run"
    works("run", "first-growth", *SHORT, "--folder", folder)
    return (folder / "checkpoint.ckpt").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_short(good, share):
    Path(CHECKPOINT).write_bytes(good[: int(share * len(good))])
    before = snapshot()
    assert CHECKPOINT in refused(*GOING_ON).what
    assert snapshot() == before


@pytest.mark.parametrize("content", [b"hello", b'{"json": 1}', bytes(range(256)), bytes(1000), b"PK\x03\x04 no zip"])
def test_a_file_of_another_kind(content):
    Path(CHECKPOINT).write_bytes(content)
    before = snapshot()
    assert CHECKPOINT in refused(*GOING_ON).what
    assert snapshot() == before


def test_no_file():
    assert "No such file" in refused(*GOING_ON).seen
    assert snapshot() == {}


def test_a_folder():
    Path(CHECKPOINT).mkdir()
    assert "directory" in refused(*GOING_ON).seen
    assert snapshot() == {CHECKPOINT: None}


def test_a_checkpoint_that_would_run_code():
    class Malicious:
        def __reduce__(self):
            return Path.touch, (Path("ran"),)

    torch.save({"state_dict": Malicious()}, CHECKPOINT)
    refused(*GOING_ON)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "other",
    [
        ("--model.init_args.network.init_args.widths", "[5, 4]"),
        ("--model.init_args.network.init_args.widths", "[4]"),
        ("--model.init_args.network.init_args.widths", "[4, 4, 4]"),
        ("--model.init_args.network.init_args.classes", "11"),
        ("--model.init_args.optimizer", "torch.optim.Adam"),
    ],
    ids=["wider", "shallower", "deeper", "more classes", "another optimizer"],
)
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_checkpoint_of_another_network(good, other):
    Path(CHECKPOINT).write_bytes(good)
    refused(*GOING_ON, *other)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_checkpoint_that_is_further_than_the_recipe_goes(good):
    Path(CHECKPOINT).write_bytes(good)
    refused(*GOING_ON, "--trainer.max_epochs", "1")


def without(*path: str) -> Callable[[dict[str, Any]], Any]:
    def change(saved: dict[str, Any]) -> dict[str, Any]:
        inner = saved
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return saved

    return change


def of_a_later_growkit(saved: dict[str, Any]) -> dict[str, Any]:
    saved["callbacks"]["growkit.Growth"]["format"] = 99
    return saved


def with_a_broken_journal(saved: dict[str, Any]) -> dict[str, Any]:
    saved["callbacks"]["growkit.Growth"]["journal"] = "{}"
    return saved


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "weights alone": lambda saved: saved["state_dict"],
    "a list": lambda saved: [1, 2],
    "a tensor": lambda saved: torch.ones(2),
    "no weights": without("state_dict"),
    "no optimizer": without("optimizer_states"),
    "no version": without("pytorch-lightning_version"),
    "no growth": without("callbacks", "growkit.Growth"),
    "half a growth": without("callbacks", "growkit.Growth", "random_states"),
    "a later growkit": of_a_later_growkit,
    "a broken journal": with_a_broken_journal,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_readable_file_that_is_no_checkpoint_of_such_a_run(good, change, tmp_path):
    Path(CHECKPOINT).write_bytes(good)
    torch.save(CHANGES[change](torch.load(CHECKPOINT, weights_only=True)), CHECKPOINT)
    refused(*GOING_ON)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_checkpoint_that_does_not_fit_leaves_no_folder(good):
    Path(CHECKPOINT).write_bytes(good)
    torch.save(of_a_later_growkit(torch.load(CHECKPOINT, weights_only=True)), CHECKPOINT)
    before = snapshot()
    refused(*GOING_ON)
    assert snapshot() == before
