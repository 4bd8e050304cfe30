"""`growkit run` of the splitting recipes, for a few steps on tiny data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from commands import refused, snapshot, table, training_state, works
from test_cifar10 import write_tiny
from test_language import write as write_text

from growkit import Journal

CIFAR = ("splitting-cifar10", "splitting-cifar10-vgg19", "splitting-cifar10-small")
GPU = ("splitting-cifar10", "splitting-cifar10-vgg19")

FEW = ("--growth.when.init_args.epochs", "1", "--trainer.max_epochs")
TINY = {
    **dict.fromkeys(
        CIFAR, ("--data.root", "data", "--data.held_out", "10", "--data.batch_size", "8", "--data.limit", "16")
    ),
    "splitting-toy": ("--data.batches", "3"),
    "splitting-digits": (),
    "splitting-transformer": ("--data.root", "data", "--data.batches", "3", "--data.batch_size", "2"),
}


def run(recipe: str, epochs: int, *options: str, folder: str = "out") -> str:
    if recipe in CIFAR and not Path("data").exists():
        write_tiny(Path("data/cifar-10-batches-py"))
    if recipe == "splitting-transformer":
        write_text(Path("data"), b"What light through yonder window breaks? " * 40)
    device = ("--trainer.accelerator", "cpu") if recipe in GPU else ()
    return works("run", recipe, *TINY[recipe], *FEW, str(epochs), *device, *options, "--folder", folder)


def weights(folder: str = "out") -> dict[str, torch.Tensor]:
    return torch.load(Path(folder, "checkpoint.ckpt"), weights_only=True)["state_dict"]


def grown(folder: str = "out") -> list[set[str]]:
    """The widths that grew, of each event."""
    entries = Journal.from_json(Path(folder, "journal.json").read_text()).entries
    return [{edit.width for edit in entry.edits} for entry in entries]


@pytest.mark.parametrize("recipe", TINY)
def test_it_is_valid_and_says_what_it_costs(recipe):
    assert works("validate", recipe) == f"{recipe}: valid\n"
    text = works("cat", recipe)
    for part in (f"# {recipe}: ", f"#   growkit run {recipe}", "# Data: ", "# Cost: ", "# Source: ", "# Expected: "):
        assert part in text
    assert snapshot() == {}


def test_the_toy_grows_one_neuron_at_each_of_five_events():
    run("splitting-toy", 8)
    assert grown() == 5 * [{"network.hidden"}]
    assert weights()["network.hidden.weight"].shape == (8, 1)


def test_learning_rates_begin_anew_after_an_event():
    run("splitting-toy", 3)
    [scheduler] = torch.load(Path("out/checkpoint.ckpt"), weights_only=True)["lr_schedulers"]
    assert scheduler["last_epoch"] == 1, "epochs since the event before the last epoch"


def test_the_perceptron_splits_three_tenths_of_its_neurons_in_each_of_four_rounds():
    rows = table(run("splitting-digits", 6))
    sizes = [sum(row.widths) for row in rows.values()]
    assert sizes == [12, 16, 21, 27, 35, 35]


def test_the_transformer_grows_its_mlps_alone():
    run("splitting-transformer", 3)
    assert len(grown()) == 2
    assert set.union(*grown()) <= {"network.blocks.0.mlp.hidden", "network.blocks.1.mlp.hidden"}
    assert weights()["network.blocks.0.attention.inputs.weight"].shape == (96, 32)
    assert sum(weights()[f"network.blocks.{n}.mlp.hidden.weight"].shape[0] for n in (0, 1)) == 32 + 16 + 24


@pytest.mark.parametrize("recipe", ["splitting-cifar10-small", "splitting-cifar10"])
def test_mobilenet_splits_pointwise_layers_and_depthwise_ones_follow(recipe):
    run(recipe, 2)
    [widths] = grown()
    assert all(re.fullmatch(r"network\.blocks\.(0\.conv|\d+\.pointwise)", width) for width in widths)
    assert any(width.endswith("pointwise") for width in widths)
    state, before = weights(), weights()["network.blocks.0.conv.weight"].shape[0]
    blocks = 1 + max(int(name.split(".")[2]) for name in state if "pointwise" in name)
    assert blocks == {"splitting-cifar10-small": 7, "splitting-cifar10": 14}[recipe]
    for block in range(1, blocks):
        depthwise, pointwise = (state[f"network.blocks.{block}.{kind}.weight"] for kind in ("depthwise", "pointwise"))
        assert depthwise.shape == (before, 1, 3, 3)
        assert pointwise.shape[1] == before
        before = pointwise.shape[0]
    assert state["network.classifier.weight"].shape == (10, before)


def test_vgg_splits_its_layers():
    rows = table(run("splitting-cifar10-vgg19", 2))
    assert [len(row.widths) for row in rows.values()] == [16, 16, 16]
    assert sum(rows["start"].widths) == 16 * 32
    assert 0 < sum(rows["end"].widths) - 16 * 32 <= round(0.3 * 16 * 32)


def test_a_resumed_run_on_cifar_equals_the_uninterrupted_one():
    run("splitting-cifar10-small", 3, folder="whole")
    run("splitting-cifar10-small", 2, folder="parts")
    run("splitting-cifar10-small", 3, "--resume", "parts/checkpoint.ckpt", folder="parts")
    assert training_state(Path("parts/checkpoint.ckpt")) == training_state(Path("whole/checkpoint.ckpt"))
    assert len(grown("whole")) == 2


@pytest.mark.parametrize("recipe", [*CIFAR, "splitting-transformer"])
@pytest.mark.parametrize("how", ["root", "GROWKIT_DATA", "download"])
def test_data_that_is_not_there(monkeypatch, recipe, how):
    if how == "GROWKIT_DATA":
        monkeypatch.setenv("GROWKIT_DATA", "absent")
    device = ("--trainer.accelerator", "cpu") if recipe in GPU else ()
    root = ("--data.root", "absent") if how == "root" else ()
    parts = refused("run", recipe, *root, *device, "--folder", "out")
    if how == "download":
        assert "could not be downloaded" in parts.what
        assert "no route to host" in parts.seen
    else:
        assert f"the folder that {how} names" in parts.what
        assert parts.seen == "absent is no folder"
    assert "--data.root" in parts.advice
    assert not Path("out").exists()


def test_a_broken_file_of_cifar10():
    write_tiny(Path("data"))
    Path("data/data_batch_4").write_bytes(b"\x80\x02 and no more")
    parts = refused("run", "splitting-cifar10-small", "--data.root", "data", "--folder", "out")
    assert "data_batch_4 of CIFAR-10" in parts.what
    assert sorted(snapshot()) == ["data", *sorted(f"data/{path.name}" for path in Path("data").iterdir())]
