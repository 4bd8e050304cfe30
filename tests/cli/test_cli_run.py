"""`growkit run`: overrides, recipes of one's own, folders, the picture, and going on after an interruption."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import matplotlib.figure
import pytest
import pytorch_lightning as pl
import torch
from commands import SHORT, edited, invoke, metrics, plain, refused, snapshot, table, training_state, works

from growkit import Journal
from growkit.cli.folder import read_metrics
from growkit.cli.main import main
from growkit.cli.picture import draw

SIX = ("--trainer.max_epochs", "6", *SHORT[2:])
FOUR = ("--trainer.max_epochs", "4", *SHORT[2:])


def steps_of(folder: Path, name: str = "val_loss") -> list[int]:
    return [step for step, _ in metrics(folder / "metrics.csv", name)]


def journal_of(folder: Path) -> Journal:
    return Journal.from_json((folder / "journal.json").read_text())


# ---------------------------------------------------------------- settings


def test_an_option_overrides_the_recipe():
    works("run", "first-growth", "--trainer.max_epochs", "3", "--compare", "[]", "--folder", "out")
    assert steps_of(Path("out")) == [19, 39, 59]
    assert "max_epochs: 3" in Path("out/recipe.yaml").read_text()


@pytest.mark.parametrize("option", ["--growth.plugins.init_args.fraction", "--growth.plugins.fraction"])
def test_a_setting_of_a_plugin_can_be_overridden(option):
    """The first spelling is the one that `growkit --help` and docs/recipes.md show."""
    works("run", "first-growth", *SHORT, "--folder", "out", option, "0.125")
    assert "fraction: 0.125" in Path("out/recipe.yaml").read_text()
    (first, *_) = journal_of(Path("out")).entries
    assert first.note["after"]["widths"]["network.hidden.0"] == 5  # one of eight neurons


@pytest.mark.parametrize("option", ["--growth.plugins", "--growth.plugins+"])
def test_plugins_by_their_short_names(option):
    given = "Net2Net" if option.endswith("+") else "[{class_path: RandomUnits, init_args: {fraction: 0.5}}]"
    works("run", "first-growth", *SHORT, "--folder", "out", option, given)
    asked = {name for entry in journal_of(Path("out")).entries for name in entry.note["plugins"]}
    assert asked & {"Net2Net", "RandomUnits"}


def test_a_recipe_of_ones_own_with_a_short_class_name():
    Path("mine.yaml").write_text(edited(("growkit_plugins.splitting.Splitting", "Splitting")))
    out = works("run", "mine.yaml", *SHORT)
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"mine-\d{8}-\d{6}", folder.name)
    assert str(folder) in out
    assert len(journal_of(folder)) == 2


def test_the_recipe_in_the_folder_repeats_the_run():
    works("run", "first-growth", *SHORT, "--folder", "one")
    works("run", "one/recipe.yaml", "--folder", "other")
    assert training_state(Path("other/checkpoint.ckpt")) == training_state(Path("one/checkpoint.ckpt"))


def test_without_growth_all_comparisons_equal_the_run():
    rows = table(works("run", "first-growth", "--trainer.max_epochs", "2", "--folder", "out"))
    assert list(rows) == ["start", "end", "start network, never grown", "final architecture, from scratch"]
    assert rows["end"] == rows["start network, never grown"] == rows["final architecture, from scratch"]


@pytest.mark.filterwarnings("ignore:.*configure_optimizers. will be overridden")
def test_the_comparisons_use_the_optimizer_of_the_recipe_too():
    """LightningCLI takes a section `optimizer` in place of the model's own."""
    given = ("--optimizer", "torch.optim.Adam", "--optimizer.lr", "0.0001")
    rows = table(works("run", "first-growth", "--trainer.max_epochs", "2", *given, "--folder", "out"))
    assert rows["end"] == rows["start network, never grown"] == rows["final architecture, from scratch"]


def test_the_comparisons_do_not_change_the_run():
    options = ("run", "first-growth", *SHORT[:-2])
    works(*options, "--compare", "[]", "--folder", "without")
    works(*options, "--compare", "[start, scratch]", "--folder", "with")
    assert training_state(Path("with/checkpoint.ckpt")) == training_state(Path("without/checkpoint.ckpt"))
    assert Path("with/metrics.csv").read_bytes() == Path("without/metrics.csv").read_bytes()


def test_the_comparisons_begin_with_the_weights_of_the_run_and_with_new_ones(monkeypatch):
    begun, fit = [], pl.Trainer.fit

    def spy(trainer, model, *arguments, **options):
        begun.append({name: value.clone() for name, value in model.state_dict().items()})
        fit(trainer, model, *arguments, **options)

    monkeypatch.setattr(pl.Trainer, "fit", spy)
    works("run", "first-growth", *SHORT[:-1], "[start, scratch]", "--folder", "out")
    run, start, scratch = begun
    assert plain(start) == plain(run)
    for name, weight in scratch.items():
        if name.endswith(".weight"):
            assert len(weight.unique(dim=0)) == len(weight) > 4, f"units of {name} are copies"
            assert 0.5 < weight.abs().max() * weight.shape[1] ** 0.5 <= 1, f"{name} was not drawn for its size"


@pytest.mark.parametrize("option", ["--trainer.max_epochs", "--trainer.max_steps"])
def test_a_run_of_no_steps(option):
    refused("run", "first-growth", option, "0", "--compare", "[]", "--folder", "out")


def test_on_a_terminal_the_bar_shows_parameters_and_the_last_growth(monkeypatch):
    terminal = StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["run", "first-growth", *SHORT, "--folder", "out"]) == 0
    shown = " ".join(re.sub(r"\x1b\[[\d;?]*[A-Za-z]", " ", terminal.getvalue()).split())
    (*_, last) = journal_of(Path("out")).entries
    assert f"parameters: {last.note['after']['parameters']:,}" in shown
    assert f"last growth: step {last.note['step']}" in shown


# ---------------------------------------------------------------- folders


def test_an_occupied_folder_is_refused():
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("precious")
    parts = refused("run", "first-growth", *SHORT, "--folder", "out")
    assert "out" in parts.what
    assert parts.seen == "thesis.txt"
    assert "--folder" in parts.advice
    assert snapshot() == {"out": None, "out/thesis.txt": b"precious"}


@pytest.mark.parametrize("folder", ["a-file", "a-file/below"])
def test_a_folder_that_cannot_be(folder):
    Path("a-file").write_text("precious")
    assert folder in refused("run", "first-growth", *SHORT, "--folder", folder).what
    assert snapshot() == {"a-file": b"precious"}


@pytest.mark.parametrize("folder", ["empty", "new/and/deep"])
def test_an_empty_or_a_new_folder_is_taken(folder):
    Path("empty").mkdir()
    works("run", "first-growth", "--trainer.max_epochs", "1", "--compare", "[]", "--folder", folder)
    assert Path(folder, "checkpoint.ckpt").is_file()


# ---------------------------------------------------------------- the picture


@pytest.fixture
def drawn(monkeypatch) -> list[matplotlib.figure.Figure]:
    """Every picture, as it was drawn."""
    figures = []
    original = matplotlib.figure.Figure.savefig

    def savefig(figure, *arguments, **options):
        figures.append(figure)
        original(figure, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return figures


def curve(axes: matplotlib.axes.Axes, label: str) -> list[float]:
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return [float(x) for x in line.get_xdata()]


def test_the_picture_shows_curves_events_widths_and_parameters(drawn):
    works("run", "first-growth", *SHORT, "--folder", "out")
    (figure,) = drawn
    losses, accuracies, widths, parameters = figure.axes
    events = [entry.note["step"] for entry in journal_of(Path("out")).entries]
    assert events == [20, 40]
    assert curve(losses, "val_loss") == curve(losses, "train_loss") == [19, 39, 59]
    assert curve(accuracies, "val_accuracy") == [19, 39, 59]
    for axes in (losses, accuracies, widths):
        assert [line.get_xdata()[0] for line in axes.get_lines() if list(line.get_ydata()) == [0, 1]] == events
    assert curve(widths, "network.hidden.0") == [0, 20, 40, 59]
    (line,) = parameters.get_lines()
    notes = [entry.note for entry in journal_of(Path("out")).entries]
    assert list(line.get_ydata())[:-1] == [330, *(note["after"]["parameters"] for note in notes)]


def test_a_picture_without_growth_says_so(drawn):
    works("run", "first-growth", "--trainer.max_epochs", "1", "--compare", "[]", "--folder", "out")
    (figure,) = drawn
    assert "nothing grew" in [text.get_text() for axes in figure.axes for text in axes.texts]


# ---------------------------------------------------------------- going on


class Runs(NamedTuple):
    whole: Path
    parts: Path
    whole_out: str
    parts_out: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    """Six epochs at once; and six in the same way, stopped after four."""
    folder = tmp_path_factory.mktemp("runs")
    whole, parts = folder / "whole", folder / "parts"
    whole_out = works("run", "first-growth", *SIX[:-1], "[start, scratch]", "--folder", whole)
    works("run", "first-growth", *FOUR, "--folder", parts)
    assert torch.load(parts / "checkpoint.ckpt", weights_only=True)["global_step"] == 80
    going_on = ("--resume", parts / "checkpoint.ckpt", "--folder", parts)
    parts_out = works("run", "first-growth", *SIX[:-1], "[start, scratch]", *going_on)
    return Runs(whole, parts, whole_out, parts_out)


@pytest.mark.parametrize("part", ["state_dict", "optimizer_states", "lr_schedulers", "growth", "epoch", "global_step"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(runs, part):
    whole, parts = (training_state(folder / "checkpoint.ckpt") for folder in runs[:2])
    assert parts[part] == whole[part]


def test_the_journals_are_the_same_and_grow_on_both_sides_of_the_interruption(runs):
    assert (runs.parts / "journal.json").read_bytes() == (runs.whole / "journal.json").read_bytes()
    steps = [entry.note["step"] for entry in journal_of(runs.whole).entries]
    assert min(steps) < 80 <= max(steps)


def test_the_tables_are_the_same(runs):
    assert table(runs.parts_out) == table(runs.whole_out)
    assert len(table(runs.whole_out)) == len(journal_of(runs.whole)) + 4


def test_the_metrics_of_both_parts_are_found(runs):
    assert read_metrics(runs.parts) == read_metrics(runs.whole)
    assert steps_of(runs.parts) == [99, 119]


def test_the_picture_shows_both_parts(runs, drawn, tmp_path):
    draw(runs.parts, journal_of(runs.parts), tmp_path / "growth.png")
    (figure,) = drawn
    assert curve(figure.axes[0], "val_loss") == [19, 39, 59, 79, 99, 119]
    assert curve(figure.axes[1], "val_accuracy") == [19, 39, 59, 79, 99, 119]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resuming_into_the_folder_of_another_run_is_refused():
    works("run", "first-growth", *SHORT, "--folder", "one")
    works("run", "first-growth", *SHORT, "--seed_everything", "1", "--folder", "other")
    before = snapshot(Path("other"))
    refused("run", "first-growth", *FOUR, "--resume", "one/checkpoint.ckpt", "--folder", "other")
    assert snapshot(Path("other")) == before


@pytest.mark.parametrize(
    "mistake",
    [
        ("--trainer.max_epoch", "9"),
        ("--model.init_args.network.init_args.widths", "[5, 4]"),
        ("--model.init_args.optimizer.init_args.lr", "-1"),
    ],
    ids=["unknown key", "another network", "refused value"],
)
def test_a_mistake_when_resuming_leaves_the_run_as_it_was(mistake):
    works("run", "first-growth", *SHORT, "--folder", "out")
    before = snapshot()
    result = invoke("run", "first-growth", *FOUR, *mistake, "--resume", "out/checkpoint.ckpt", "--folder", "out")
    assert result.code == 1
    after = snapshot()
    for name in ("checkpoint.ckpt", "journal.json", "metrics.csv", "recipe.yaml", "growth.png"):
        assert after.get(f"out/{name}") == before[f"out/{name}"], name
