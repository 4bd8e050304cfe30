"""What each verb prints: ls, cat, cp, plugins, validate, inspect."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import RECIPE, edited, invoke, refused, snapshot, works

VERBS = ("ls", "cat", "cp", "validate", "run", "export", "inspect", "plugins")

MODELS = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

def fails():
    raise KeyError("a key of its own")

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.both = nn.Linear(3, 4), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, left, right):
        return self.both((self.left(left) + self.right(right)).relu())

model = make()
number = 3
"""


def lines(out: str) -> dict[str, list[str]]:
    """The cells of each line, by the first of them."""
    split = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    return {cells[0]: cells[1:] for cells in split}


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "growkit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_module_can_be_run_and_its_help_shows_every_verb():
    done = shell("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(re.search(rf"^    {verb} ", done.stdout, re.MULTILINE) for verb in VERBS)


def test_a_reader_that_goes_away_is_no_error():
    command = [sys.executable, "-m", "growkit", "ls"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    assert f"usage: growkit {verb}" in works(verb, "--help")


@pytest.mark.parametrize("arguments", [(), ("grow",), ("ls", "--all"), ("cat",), ("cp", "first-growth")])
def test_wrong_usage(arguments):
    result = invoke(*arguments)
    assert result.code == 2
    assert result.err.startswith("usage: growkit")
    assert result.err.count("growkit: error: ") + result.err.count(": error: the following") >= 1


# ---------------------------------------------------------------- recipes


def test_ls_shows_each_recipe_with_what_it_does():
    found = lines(works("ls"))
    assert found["first-growth"] == [
        "an MLP on scikit-learn's digits grows from 4 hidden units a layer while it trains.",
        "recipes",
    ]
    assert found["splitting-fashion"][0].startswith("a small BatchNorm CNN on Fashion-MNIST")


def test_cat_prints_the_recipe_as_it_is():
    assert works("cat", "first-growth") == RECIPE


def test_cat_prints_a_file():
    Path("mine.yaml").write_text("# mine\n")
    assert works("cat", "mine.yaml") == "# mine\n"


def test_cat_of_a_file_that_is_no_text():
    Path("mine.yaml").write_bytes(b"\xff\xfe\x00")
    refused("cat", "mine.yaml")


def test_cp_writes_the_recipe_and_says_how_to_run_it():
    assert "growkit run mine.yaml" in works("cp", "first-growth", "mine.yaml")
    assert Path("mine.yaml").read_text() == RECIPE


def test_cp_never_overwrites():
    Path("mine.yaml").write_text("precious")
    parts = refused("cp", "first-growth", "mine.yaml")
    assert "mine.yaml" in parts.what
    assert "exists" in parts.seen
    assert Path("mine.yaml").read_text() == "precious"


@pytest.mark.parametrize("target", [".", "absent/mine.yaml"])
def test_cp_to_where_no_file_can_be(target):
    refused("cp", "first-growth", target)
    assert snapshot() == {}


@pytest.mark.parametrize("arguments", [("cat",), ("cp", "mine.yaml"), ("validate",), ("run",), ("inspect",)])
def test_unknown_recipe(arguments):
    verb, *rest = arguments
    parts = refused(verb, "first-groth", *rest)
    assert "first-groth" in parts.what
    assert "first-growth, splitting-cifar10-small" in parts.expected
    assert parts.advice == "did you mean 'first-growth'?"
    assert snapshot() == {}


@pytest.mark.parametrize("name", ["absent.yaml", ".", "growkit"])
def test_no_recipe_and_nothing_near(name):
    assert "growkit ls" in refused("validate", name).advice


@pytest.mark.parametrize("recipe", ["first-growth", "splitting-fashion"])
def test_the_recipes_are_valid_and_checking_them_leaves_no_trace(recipe):
    assert works("validate", recipe) == f"{recipe}: valid\n"
    assert snapshot() == {}


def test_validate_builds_what_the_recipe_names():
    Path("mine.yaml").write_text(edited(("fraction: 0.5", "fraction: 1.5")))
    assert "fraction in (0, 1]" in refused("validate", "mine.yaml").seen


# ---------------------------------------------------------------- plugins


def test_plugins_shows_hooks_distribution_and_classes():
    found = lines(works("plugins"))
    here = f"growkit {version('growkit')}"
    assert found["splitting"] == [here, "growkit_plugin_classes", "Splitting"]
    assert found["baselines"] == [here, "growkit_plugin_classes", "Net2Net, RandomSplit, RandomUnits"]
    assert found["knapsack"] == [here, "growkit_plugin_classes", "Knapsack"]
    assert found["recipes"] == [here, "growkit_recipes"]


# ---------------------------------------------------------------- inspect


def test_inspect_shows_what_a_unit_costs_and_what_is_frozen(module):
    module("cli_models", MODELS)
    out = works("inspect", "cli_models:make", "--input", "2,3")
    found = lines(out.partition("outputs:")[0])
    assert found["0"] == ["4", "6", "10", "freely"]  # 3 weights, 1 bias, 2 outgoing weights; 2 * (3 + 2) FLOPs
    assert found["2"] == ["2", "5", "8", "outputs"]
    assert "\n  2\n    is axis 1 of the model's output\n" in out
    assert "26 parameters, 40 FLOPs per sample" in out


@pytest.mark.parametrize("name", ["cli_models:model", "cli_models:make"])
def test_inspect_takes_a_model_or_what_makes_it(module, name):
    module("cli_models", MODELS)
    assert "freely" in works("inspect", name, "--input", "2,3")


def test_inspect_takes_several_inputs(module):
    module("cli_models", MODELS)
    shown = lines(works("inspect", "cli_models:Pair", "--input", "2,3", "--input", "2,5"))
    assert ["4", "12", "20", "freely"] in shown.values()


def test_inspect_of_a_recipe():
    found = lines(works("inspect", "first-growth").partition("outputs:")[0])
    assert found["network.hidden.0"] == ["4", "69", "136", "freely"]
    assert found["network.classifier"] == ["10", "5", "8", "outputs"]
    assert snapshot() == {}


def test_inspect_of_a_recipe_takes_overrides():
    out = works("inspect", "first-growth", "--model.init_args.network.init_args.widths", "[6]")
    assert lines(out)["network.hidden.0"][0] == "6"


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("cli_models:absent", "absent"),
        ("cli_models:number", "a int"),
        ("cli_models:fails", "a key of its own"),
        ("cli_models_absent:make", "cli_models_absent"),
        ("torch.nn:Linear", "in_features"),
        (":make", ":make"),
    ],
)
def test_inspect_of_what_is_no_model(module, name, seen):
    module("cli_models", MODELS)
    parts = refused("inspect", name, "--input", "2,3")
    assert name in parts.what
    assert seen in parts.seen


@pytest.mark.parametrize("given", [(), ("--input", "2,x"), ("--input", ""), ("--input=-1,3",), ("--input", "0,3")])
def test_inspect_without_usable_inputs(module, given):
    module("cli_models", MODELS)
    assert "--input" in refused("inspect", "cli_models:make", *given).expected


def test_inspect_with_inputs_that_the_model_does_not_take(module):
    module("cli_models", MODELS)
    assert "2x5" in refused("inspect", "cli_models:make", "--input", "2,5").seen


def test_inspect_of_a_factory_takes_no_overrides(module):
    module("cli_models", MODELS)
    result = invoke("inspect", "cli_models:make", "--input", "2,3", "--imput", "5")
    assert result.code != 0
    assert "imput" in result.err
