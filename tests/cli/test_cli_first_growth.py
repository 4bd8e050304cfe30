"""`growkit run first-growth`, the whole of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from commands import Row, invoke, metrics, table, works
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import growkit
from growkit import Journal
from growkit_plugins.classification import MLP, Classifier, Digits


class Run(NamedTuple):
    folder: Path
    out: str
    rows: dict[str, Row]
    journal: Journal


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("first-growth") / "run"
    result = invoke("run", "first-growth", "--folder", folder)
    assert (result.code, result.err) == (0, "")
    return Run(folder, result.out, table(result.out), Journal.from_json((folder / "journal.json").read_text()))


def fresh() -> Classifier:
    """The network of the recipe before any growth."""
    return Classifier(MLP(64, [4, 4], 10))


START, SCRATCH = "start network, never grown", "final architecture, from scratch"


def test_it_grows_at_least_three_times(run):
    assert len(run.journal) >= 3
    sizes = [4, *(entry.note["after"]["widths"]["network.hidden.0"] for entry in run.journal.entries)]
    assert all(before <= after for before, after in itertools.pairwise(sizes))


def test_it_ends_above_94_percent(run):
    step, accuracy = metrics(run.folder / "metrics.csv", "val_accuracy")[-1]
    assert step == run.rows["end"].step - 1
    assert accuracy > 0.94
    assert run.rows["end"].accuracy == pytest.approx(accuracy, abs=5e-5)


def test_the_table_shows_start_every_event_end_and_the_comparisons(run):
    events = [f"growth event {number + 1}" for number in range(len(run.journal))]
    assert list(run.rows) == ["start", *events, "end", START, SCRATCH]
    assert all(run.rows[name].accuracy is not None for name in [*events, "end", START, SCRATCH])
    assert (run.rows["start"].step, run.rows["start"].widths) == (0, [4, 4])


def test_the_table_says_what_the_journal_says(run):
    for number, entry in enumerate(run.journal.entries):
        row = run.rows[f"growth event {number + 1}"]
        assert row.step == entry.note["step"]
        assert row.parameters == entry.note["after"]["parameters"]
        assert row.widths == list(entry.note["after"]["widths"].values())[: len(row.widths)]


def test_the_budget_of_the_recipe_is_kept(run):
    assert run.rows["end"].parameters <= 6000


def test_the_comparisons_take_as_many_steps(run):
    assert run.rows[START].step == run.rows[SCRATCH].step == run.rows["end"].step == 80 * 20


def test_the_comparisons_have_the_first_and_the_last_architecture(run):
    assert (run.rows[START].parameters, run.rows[START].widths) == (330, [4, 4])
    assert run.rows[SCRATCH].parameters == run.rows["end"].parameters > 330
    assert run.rows[SCRATCH].widths == run.rows["end"].widths


def test_training_from_scratch_does_not_begin_with_what_the_run_learned(run):
    assert f"{run.rows[SCRATCH].accuracy:.4f}" != f"{run.rows['end'].accuracy:.4f}"
    assert run.rows[SCRATCH].accuracy > run.rows[START].accuracy


def test_training_flops_are_three_forward_passes_a_step(run):
    notes = [entry.note for entry in run.journal.entries]
    steps = [0, *(note["step"] for note in notes), run.rows["end"].step]
    flops = [notes[0]["before"]["flops"], *(note["after"]["flops"] for note in notes)]
    costs = [
        3 * forward * (after - before)
        for forward, (before, after) in zip(flops, itertools.pairwise(steps), strict=True)
    ]
    assert run.rows["end"].cost == pytest.approx(sum(costs), rel=0.005)
    assert run.rows[SCRATCH].cost == pytest.approx(3 * flops[-1] * steps[-1], rel=0.005)
    assert run.rows[START].cost == pytest.approx(3 * flops[0] * steps[-1], rel=0.005)


def test_each_event_is_announced(run):
    for entry in run.journal.entries:
        assert f"step {entry.note['step']}: Splitting grew network.hidden.0 " in run.out


def test_the_folder_has_everything_and_the_output_says_so(run):
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"checkpoint.ckpt", "growth.png", "journal.json", "metrics.csv", "recipe.yaml", "tensorboard"}
    last = " ".join(run.out.split("results in")[1].split())
    assert all(name in last for name in names)


def test_the_checkpoint_gives_the_network_that_the_table_speaks_of(run):
    module = growkit.load(run.folder / "checkpoint.ckpt", fresh()).eval()
    assert sum(parameter.numel() for parameter in module.parameters()) == run.rows["end"].parameters
    images, labels = Digits().val_dataloader().dataset.tensors
    with torch.no_grad():
        accuracy = (module(images).argmax(dim=1) == labels).float().mean().item()
    assert accuracy == pytest.approx(metrics(run.folder / "metrics.csv", "val_accuracy")[-1][1], abs=1e-6)


def test_the_journal_gives_its_structure_to_a_fresh_network(run):
    module = fresh()
    run.journal.replay(module, example=(torch.zeros(2, 1, 8, 8),))
    saved = torch.load(run.folder / "checkpoint.ckpt", weights_only=True)["state_dict"]
    shapes = {name: value.shape for name, value in saved.items() if not name.startswith("growkit: ")}
    assert {name: value.shape for name, value in module.state_dict().items()} == shapes


def test_the_metrics_cover_every_epoch(run):
    for name in ("val_accuracy", "val_loss", "train_accuracy", "train_loss"):
        steps = [step for step, _ in metrics(run.folder / "metrics.csv", name)]
        assert steps == list(range(19, 1600, 20))


def test_the_tensorboard_logs_hold_the_same_accuracies(run):
    (file,) = (run.folder / "tensorboard").glob("events.out.tfevents.*")
    log = EventAccumulator(str(file))
    log.Reload()
    logged = [(event.step, event.value) for event in log.Scalars("val_accuracy")]
    written = metrics(run.folder / "metrics.csv", "val_accuracy")
    assert [step for step, _ in logged] == [step for step, _ in written]
    assert [value for _, value in logged] == pytest.approx([value for _, value in written])


def test_the_picture_is_one(run):
    content = (run.folder / "growth.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.rstrip().endswith(b"IEND\xaeB`\x82")
    assert len(content) > 10_000


def test_the_recipe_in_the_folder_is_valid(run):
    assert works("validate", run.folder / "recipe.yaml") == "recipe: valid\n"
