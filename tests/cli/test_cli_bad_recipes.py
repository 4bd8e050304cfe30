"""Every mistake in a recipe or an option ends with one error of four parts, exit code 1, and no folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import RECIPE, edited, invoke, refused, snapshot, works

# Where a mistake is not noticed, the run it begins should at least be a short one.
BRIEF = ("--compare", "[]", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1")

RUN = ("run", "mine.yaml", "--folder", "out", *BRIEF)

# What is edited, the key that nothing takes, and the key that was meant.
UNKNOWN_KEYS = {
    "top level": (("compare:", "comapre:"), "comapre", "compare"),
    "top level, an empty section": (("compare:", "growht: {}\n\ncompare:"), "growht", "growth"),
    "top level, without a value": (("compare:", "growht:\n\ncompare:"), "growht", "growth"),
    "growth": (("budget:", "budgett:"), "budgett", "budget"),
    "growth, an empty section": (("  budget:", "  budgett: {}\n  budget:"), "budgett", "budget"),
    "trainer": (("max_epochs:", "max_epoch:"), "max_epoch", "max_epochs"),
    "trainer, an empty section": (("  max_epochs:", "  calbacks: {}\n  max_epochs:"), "calbacks", "callbacks"),
    "model": (("    network:", "    netwrk:"), "netwrk", "network"),
    "network": (("{inputs:", "{imputs:"), "imputs", "inputs"),
    "optimizer": (("nesterov:", "nestrov:"), "nestrov", "nesterov"),
    "data": (("batch_size:", "batchsize:"), "batchsize", "batch_size"),
    "data, an empty section": (("batch_size: 64", "batch_size: 64, sead: {}"), "sead", "seed"),
    "plugin": (("fraction:", "fractoin:"), "fractoin", "fraction"),
    "schedule": (("epochs: 4", "epoch: 4"), "epoch", "epochs"),
    "budget": (("{parameters:", "{parameter:"), "parameter", "parameters"),
}

UNKNOWN_OPTIONS = {
    "--comapre=[]": ("comapre", "compare"),
    "--growth.budgett.parameters=9": ("budgett", "budget"),
    "--growth.budget.parameter=9": ("parameter", "parameters"),
    "--growth.plugins.init_args.fractoin=0.2": ("fractoin", "fraction"),
    "--growth.when.init_args.epoch=2": ("epoch", "epochs"),
    "--trainer.max_epoch=3": ("max_epoch", "max_epochs"),
    "--data.batchsize=3": ("batchsize", "batch_size"),
    "--data.init_args.batchsize=3": ("batchsize", "batch_size"),
    "--model.init_args.network.init_args.width=[3]": ("width", "widths"),
    "--model.init_args.optimizer.init_args.nestrov=true": ("nestrov", "nesterov"),
}

# What is edited, and something of it that the message must show.
REFUSED = {
    "wrong type in the trainer": (("max_epochs: 80", "max_epochs: many"), "many"),
    "wrong type in a plugin": (("fraction: 0.5", "fraction: half"), "half"),
    "wrong type in the data": (("batch_size: 64", "batch_size: [64]"), "[64]"),
    "no such module": (("growkit_plugins.splitting.Splitting", "growkit_plugins.spliting.Splitting"), "spliting"),
    "no such class": (("growkit_plugins.splitting.Splitting", "growkit_plugins.splitting.Spliting"), "Spliting"),
    "no such short name": (("growkit_plugins.splitting.Splitting", "Spliting"), "Spliting"),
    "a class of another kind as plugin": (
        ("growkit_plugins.splitting.Splitting", "torch.nn.Linear"),
        "torch.nn.Linear",
    ),
    "a class of another kind as model": (("growkit_plugins.classification.Classifier", "torch.nn.Linear"), "nn.Linear"),
    "no such network": (("growkit_plugins.classification.MLP", "growkit_plugins.classification.MPL"), "MPL"),
    "refused by a plugin": (("fraction: 0.5", "fraction: 1.5"), "fraction in (0, 1]"),
    "refused by a schedule": (("epochs: 4", "epochs: 0"), "epochs=0"),
    "refused by a network": (("widths: [4, 4]", "widths: [4, -4]"), "-4"),
    "refused by the trainer": (("accelerator: cpu", "accelerator: abacus"), "abacus"),
    "refused by an optimizer": (("lr: 0.1", "lr: -0.1"), "-0.1"),
    "refused by the data": (("batch_size: 64", "batch_size: 0"), "batch_size"),
    "no such comparison": (("[start, scratch]", "[strat]"), "strat"),
}

UNREADABLE = {
    "not closed": b"model: [1, 2\ntrainer: {",
    "tabs": b"model:\n\t- a: b: c\n",
    "empty": b"",
    "nothing but a comment": b"# nothing\n",
    "a list": b"- 1\n- 2\n",
    "a word": b"hello\n",
    "binary": bytes(range(256)) * 4,
    "zeros": bytes(64),
    "without a model": RECIPE[RECIPE.index("data:\n") :].encode(),
    "without data": edited((RECIPE[RECIPE.index("data:\n") : RECIPE.index("trainer:")], "")).encode(),
}


@pytest.mark.parametrize("place", UNKNOWN_KEYS)
def test_an_unknown_key_is_named_with_the_one_that_was_meant(place):
    edit, key, meant = UNKNOWN_KEYS[place]
    Path("mine.yaml").write_text(edited(edit))
    parts = refused(*RUN)
    assert "mine.yaml" in parts.what
    assert key in parts.seen
    assert parts.advice == f"did you mean '{meant}'?"


@pytest.mark.parametrize("option", UNKNOWN_OPTIONS)
def test_an_unknown_option_is_named_with_the_one_that_was_meant(option):
    key, meant = UNKNOWN_OPTIONS[option]
    parts = refused("validate", "first-growth", option)
    assert key in parts.seen
    assert parts.advice == f"did you mean '{meant}'?"


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_value_that_cannot_be_is_shown(mistake):
    edit, shown = REFUSED[mistake]
    Path("mine.yaml").write_text(edited(edit))
    parts = refused(*RUN)
    assert "mine" in parts.what
    assert shown in parts.seen


@pytest.mark.parametrize("section", ["trainer", "growth", "model", "data", "compare", "seed_everything"])
@pytest.mark.parametrize("value", ["nonsense", "[1, 2]"])
def test_a_section_of_the_wrong_type(section, value):
    lines = RECIPE.splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{section}:"))
    rest = (number for number in range(start + 1, len(lines)) if lines[number].strip() and lines[number][0] != " ")
    lines[start : next(rest, len(lines))] = [f"{section}: {value}\n"]
    Path("mine.yaml").write_text("".join(lines))
    refused("validate", "mine.yaml")


@pytest.mark.parametrize("verb", ["validate", "run", "inspect"])
@pytest.mark.parametrize("content", UNREADABLE)
def test_a_file_that_is_no_recipe(verb, content):
    Path("mine.yaml").write_bytes(UNREADABLE[content])
    assert "mine.yaml" in refused(verb, "mine.yaml").what


@pytest.mark.parametrize(
    "options",
    [
        ("--trainer.max_epochs",),
        ("--trainer.max_epochs", "many"),
        ("stray",),
        ("--config", "absent.yaml"),
        ("--data", "5"),
    ],
)
def test_options_that_cannot_be(options):
    refused("validate", "first-growth", *options)


def test_the_same_plugin_twice():
    again = "\n    - class_path: Splitting\n\ncompare:"
    Path("mine.yaml").write_text(edited(("\ncompare:", again)))
    parts = refused(*RUN)
    assert "'Splitting'" in parts.what
    assert "twice" in parts.what


def test_a_plugin_given_as_the_name_of_its_class_is_an_instance():
    listed = RECIPE[RECIPE.index("    - class_path: growkit_plugins.splitting") : RECIPE.index("\ncompare:")]
    Path("mine.yaml").write_text(edited((listed, "    - growkit_plugins.splitting.Splitting\n")))
    assert refused("validate", "mine.yaml", "--growth.plugins.init_args.fraction", "2").seen.startswith(
        "Splitting takes"
    )


MISTAKES = {
    "unknown recipe": ("first-groth",),
    "unknown key": ("first-growth", "--trainer.max_epoch", "3"),
    "refused by a plugin": ("first-growth", "--growth.plugins.init_args.fraction", "1.5"),
    "refused by an optimizer": ("first-growth", "--model.init_args.optimizer.init_args.lr", "-1"),
    "no recipe": ("empty.yaml",),
    "unreadable checkpoint": ("first-growth", "--resume", "empty.yaml"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_run_that_never_began_leaves_no_folder(mistake):
    Path("empty.yaml").touch()
    before = snapshot()
    assert invoke("run", *MISTAKES[mistake], *BRIEF, "--folder", "out").code == 1
    assert snapshot() == before


def test_a_run_that_never_began_leaves_no_folder_of_its_own_choice():
    refused("run", *MISTAKES["unknown key"])
    assert snapshot() == {}


def test_after_a_mistake_the_same_command_put_right_runs():
    command = ("run", "first-growth", *BRIEF, "--trainer.max_epochs", "1", "--folder", "out")
    assert invoke(*command, "--model.init_args.optimizer.init_args.lr", "-1").code == 1
    works(*command)
