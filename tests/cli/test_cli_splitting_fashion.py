"""`growkit run splitting-fashion`, on a data set of forty images."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import explained, invoke, metrics, refused, snapshot, table, works
from test_classification import write_tiny

from growkit import Journal

SMALL = (
    *("--trainer.max_epochs", "3", "--trainer.accelerator", "cpu", "--growth.when.init_args.epochs", "1"),
    *("--data.batch_size", "8", "--data.held_out", "10"),
)


def test_it_grows_and_the_data_is_found_in_data_root():
    write_tiny(Path("images"), packed=True)
    rows = table(works("run", "splitting-fashion", *SMALL, "--data.root", "images", "--folder", "out"))
    journal = Journal.from_json(Path("out/journal.json").read_text())
    assert len(journal) == 2
    assert list(rows) == ["start", "growth event 1", "growth event 2", "end"]
    assert rows["end"].parameters > rows["start"].parameters
    assert [sum(rows[name].widths) > 24 for name in rows] == [False, True, True, True]
    assert [step for step, _ in metrics(Path("out/metrics.csv"), "val_accuracy")] == [3, 7, 11]
    assert Path("out/growth.png").is_file()


def test_the_data_is_found_in_growkit_data(monkeypatch):
    write_tiny(Path("images/FashionMNIST/raw"), packed=False)
    monkeypatch.setenv("GROWKIT_DATA", "images")
    works("run", "splitting-fashion", *SMALL, "--folder", "out")
    assert len(Journal.from_json(Path("out/journal.json").read_text())) == 2


def test_both_ways_of_naming_the_data_train_the_same(monkeypatch):
    write_tiny(Path("images"), packed=False)
    works("run", "splitting-fashion", *SMALL, "--data.root", "images", "--folder", "one")
    monkeypatch.setenv("GROWKIT_DATA", "images")
    works("run", "splitting-fashion", *SMALL, "--folder", "other")
    assert Path("one/metrics.csv").read_bytes() == Path("other/metrics.csv").read_bytes()


def test_no_data_and_no_network():
    parts = refused("run", "splitting-fashion", *SMALL, "--folder", "out")
    assert "could not be downloaded" in parts.what
    assert "no route to host" in parts.seen
    assert all(way in parts.advice for way in ("--data.root", "GROWKIT_DATA", "zalandoresearch/fashion-mnist"))


@pytest.mark.parametrize("verb", ["run", "inspect"])
@pytest.mark.parametrize("how", ["root", "GROWKIT_DATA"])
def test_a_named_folder_without_the_data(monkeypatch, verb, how):
    monkeypatch.setenv("GROWKIT_DATA", "absent")
    options = ("--data.root", "absent") if how == "root" else ()
    parts = refused(verb, "splitting-fashion", *SMALL, *options)
    assert f"the folder that {how} names" in parts.what
    assert "absent is no folder" in parts.seen


def test_a_data_set_that_is_not_whole():
    write_tiny(Path("images"), packed=False)
    Path("images/train-labels-idx1-ubyte").unlink()
    parts = refused("run", "splitting-fashion", *SMALL, "--data.root", "images", "--folder", "out")
    assert "lacks train-labels-idx1-ubyte" in parts.seen


def test_a_broken_file_of_the_data_set():
    write_tiny(Path("images"), packed=True)
    Path("images/train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b and no more")
    parts = refused("run", "splitting-fashion", *SMALL, "--data.root", "images", "--folder", "out")
    assert "train-images-idx3-ubyte.gz" in parts.what


def test_missing_data_leaves_no_folder_and_the_next_try_may_use_it():
    write_tiny(Path("images"), packed=False)
    before = snapshot()
    command = ("run", "splitting-fashion", *SMALL, "--folder", "out", "--data.root")
    explained(invoke(*command, "absent"))
    assert snapshot() == before
    works(*command, "images")
