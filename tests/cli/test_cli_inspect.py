"""`growkit inspect` of any importable model: table, tree, JSON, inputs, and one error for each wrong form."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import OrderedDict
from io import StringIO
from pathlib import Path

import pytest
import torch
from commands import explained, invoke, refused, snapshot, works
from rich.console import Console
from torch import nn

import growkit
from growkit.cli.tree import CHANGES, facts_of, gather, show_table, show_tree

MODELS = """
import torch
from torch import nn

def make():
    print("making it")
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

def cnn():
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)) for _ in range(4))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)

class Kinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.free, self.mean, self.top, self.one, self.two = (nn.Linear(3, n) for n in (4, 5, 6, 7, 8))
        self.norm, self.joint = nn.LayerNorm(5), nn.LayerNorm(15)
        self.ends = nn.ModuleList(nn.Linear(n, 2) for n in (4, 5, 6, 15))

    def forward(self, x):
        hidden = [self.free(x).relu(), self.norm(self.mean(x))]
        top = self.top(x)
        hidden += [top - top.amax(1, keepdim=True), self.joint(torch.cat([self.one(x), self.two(x)], 1))]
        return sum(end(units) for end, units in zip(self.ends, hidden))

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.size = 2, 3
        self.qkv, self.out = nn.Linear(4, 18), nn.Linear(6, 4)

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) * self.size ** -0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(*x.shape[:2], self.heads * self.size))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.end = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, ids, mask=None, *, weight=None):
        assert ids.dtype == torch.int64 and (mask is None or mask.dtype == torch.bool)
        words = self.embed(ids)
        words = words if mask is None else words * mask[..., None]
        return self.end((words if weight is None else words * weight[..., None]).sum(1))

class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.place = nn.Parameter(torch.randn(1, 6, 4))
        self.embed, self.hidden, self.end = nn.Linear(3, 4), nn.Linear(4, 7), nn.Linear(7, 2)

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], dim=1) + self.place
        return self.end(self.hidden(x).relu().mean(1))

class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.end = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        assert x.shape[0] == 1
        return self.end(self.hidden(x).relu())

class Exampled(One):
    example_input_array = torch.zeros(1, 3)

class Loose(One):
    def forward(self, *inputs, **options):
        return super().forward(inputs[0])

def half():
    return nn.Linear(3, 4).to(torch.bfloat16)

def needs(size):
    return nn.Linear(size, size)

def leaves():
    raise SystemExit("usage: train.py")

def talks():
    raise ValueError("first line\\nsecond line")

class Nested:
    inner = staticmethod(cnn)
"""


@pytest.fixture(autouse=True)
def models(module):
    module("cli_inspected", MODELS)


def read(name: str, *arguments: str) -> dict:
    """The JSON document; a factory may print to standard error meanwhile."""
    result = invoke("inspect", f"cli_inspected:{name}", *arguments, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def widths(name: str, *arguments: str) -> dict[str, dict]:
    return {width["name"]: width for width in read(name, *arguments)["widths"]}


def blocks(out: str) -> dict[str, list[str]]:
    """The lines of each width of a tree, without guides, by its name."""
    found: dict[str, list[str]] = {}
    for line in out.splitlines()[1:]:
        text = line.lstrip("│├└─ \xa0")
        if re.match(r"[├└]", line):
            found[text.split("  ")[0]] = lines = []
        elif not re.match(r"[│ ]", line):
            break
        lines.append(text)
    return found


# ---------------------------------------------------------------- what is shown


def test_table_says_how_each_width_can_change_growable_ones_first_and_why_not_freely():
    out = works("inspect", "cli_inspected:Kinds", "--input", "2,3")
    table, *_ = out.partition("equally:")
    rows = [line.split() for line in table.splitlines()[4:] if line.split()]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("free", "4", "freely"),
        ("mean", "5", "equally"),
        ("top", "6", "copies"),
        ("ends.0", "2", "outputs"),
        ("one", "7", "inexactly"),
        ("two", "8", "inexactly"),
        ("free.weight[1]", "3", "frozen"),
    ]
    assert f"equally: {CHANGES['equally']}\n  mean\n    aten.native_layer_norm in 'norm' (LayerNorm) averages" in out
    assert "\n  ends.0\n    is axis 1 of the model's output\n" in out
    assert "\n  one, two\n" in out, "one reason is given once"
    assert "7 widths, 3 can grow" in out


def test_a_unit_costs_what_grows_with_it():
    found = widths("cnn", "--input", "2,1,6,6")
    # 9 weights, a bias, 2 of the norm, 16 columns of 3: the convolution makes 4 x 4 images
    assert (found["0"]["parameters_per_unit"], found["0"]["flops_per_unit"]) == (9 + 1 + 2 + 48, 2 * (9 * 16 + 48))


def test_tree_groups_what_grows_together_by_module():
    found = blocks(works("inspect", "cli_inspected:cnn", "--input", "2,1,6,6", "--tree"))
    assert found["0"] == [
        "0  6 units, freely",
        "a unit: 60 parameters, 384 FLOPs",
        "incoming",
        "0  weight[0], bias[0]",
        "1  weight[0], bias[0], running_mean[0], running_var[0]",
        "outgoing",
        "4  weight[1] x16",
    ]
    assert "outputs: is axis 1 of the model's output" in found["4"]


def test_tree_writes_repeated_blocks_once():
    found = blocks(works("inspect", "cli_inspected:Residual", "--input", "2,3", "--tree"))
    assert {"blocks.{0..3}.2  weight[0], bias[0]", "blocks.{0..3}.0  weight[1]"} < set(found["stem"])


def test_tree_names_the_attributes_that_follow():
    found = blocks(works("inspect", "cli_inspected:Heads", "--input", "2,5,4", "--tree"))
    assert found["qkv"][-2:] == ["sets", "heads"]
    assert found["qkv.weight"][-2:] == ["sets", "size"]
    assert "sets" not in found["out"], "that a linear layer has so many out_features says nothing new"


def test_a_parameter_of_the_model_itself_needs_no_module():
    found = blocks(works("inspect", "cli_inspected:Patches", "--input", "2,5,3", "--tree"))
    assert "token[2], place[2]" in found["token"]


def test_tree_explains_its_words():
    out = works("inspect", "cli_inspected:Kinds", "--input", "2,3", "--tree")
    assert all(re.search(rf"^{word} +{re.escape(meaning)} *$", out, re.MULTILINE) for word, meaning in CHANGES.items())


@pytest.mark.parametrize("show", [show_table, show_tree])
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_nothing_is_cut_off_in_a_narrow_terminal(show, columns):
    long = "a_module_whose_name_does_not_fit_into_a_column_of_any_table"
    model = nn.Sequential(OrderedDict([(long, nn.Linear(3, 4)), (f"norm_of_{long}", nn.LayerNorm(4))]))
    structure = growkit.trace(model, torch.randn(2, 3))
    text = StringIO()
    show(structure, facts_of(structure), Console(file=text, width=columns))
    assert all(len(line) <= columns for line in text.getvalue().splitlines())
    everything = re.sub(r"[\s│├└─]", "", text.getvalue())
    assert "…" not in everything
    assert "isaxis1ofthemodel'soutput" in everything


def test_a_model_without_widths():
    out = works("inspect", "torch.nn:Identity", "--input", "2,3")
    assert out == "Identity: 0 parameters, 0 FLOPs per sample, no widths\n"
    assert works("inspect", "torch.nn:Identity", "--input", "2,3", "--tree").rstrip() == out.rstrip()


@pytest.mark.parametrize(
    ("names", "gathered"),
    [
        (["a.0.b", "a.1.b", "a.2.b"], ["a.{0..2}.b"]),
        (["a.0", "a.1", "a.3", "a.5", "a.6", "a.7"], ["a.{0,1,3,5..7}"]),
        (["a.10", "a.9"], ["a.{9,10}"]),
        (["a.0.b.0", "a.0.b.1", "a.1.b.0", "a.1.b.1"], ["a.{0,1}.b.{0,1}"]),
        (["a.0.b.0", "a.1.b.1"], ["a.0.b.0", "a.1.b.1"]),
        (["a.x", "a.0", "b.0"], ["a.x", "a.0", "b.0"]),
        ([], []),
    ],
)
def test_gathered_names_say_the_same_in_less(names, gathered):
    assert gather((name, "weight[0]") for name in names) == [(name, "weight[0]") for name in gathered]


def test_names_of_which_different_things_are_said_stay_apart():
    assert gather([("a.0", "weight[0]"), ("a.1", "weight[1]")]) == [("a.0", "weight[0]"), ("a.1", "weight[1]")]


# ---------------------------------------------------------------- JSON


def test_json_of_a_small_network():
    document = read("make", "--input", "2,3")
    assert list(document) == ["format", "source", "model", "parameters", "flops_per_sample", "widths"]
    assert document | {"widths": None} == {
        "format": 1,
        "source": "cli_inspected:make",
        "model": "Sequential",
        "parameters": 26,
        "flops_per_sample": 40,
        "widths": None,
    }
    hidden, inputs, outputs = (
        next(width for width in document["widths"] if width["name"] == name) for name in ("0", "0.weight[1]", "2")
    )
    assert hidden == {
        "name": "0",
        "size": 4,
        "changes": "freely",
        "frozen": None,
        "advice": None,
        "uniform": None,
        "copies_only": None,
        "parameters_per_unit": 6,
        "flops_per_unit": 10,
        "incoming": [
            {"parameter": "0.weight", "axis": 0, "positions_per_unit": 1},
            {"parameter": "0.bias", "axis": 0, "positions_per_unit": 1},
        ],
        "outgoing": [{"parameter": "2.weight", "axis": 1, "positions_per_unit": 1}],
        "attributes": hidden["attributes"],
    }
    assert {"owner": "2", "attribute": "in_features"} in hidden["attributes"]
    assert (inputs["changes"], inputs["frozen"]) == ("frozen", "is axis 1 of the model's input 0")
    assert (outputs["changes"], outputs["frozen"]) == ("outputs", "is axis 1 of the model's output")


def test_json_is_all_there_is_on_standard_output():
    result = invoke("inspect", "cli_inspected:make", "--input", "2,3", "--json")
    assert result.err == "making it\n"
    assert json.loads(result.out)["model"] == "Sequential"


def test_json_lists_positions_on_demand():
    assert "positions" not in widths("cnn", "--input", "2,1,6,6")["0"]["outgoing"][0]
    (piece,) = widths("cnn", "--input", "2,1,6,6", "--positions")["0"]["outgoing"]
    assert piece["positions"] == [list(range(16 * unit, 16 * unit + 16)) for unit in range(6)]


def test_json_gives_reasons():
    found = widths("Kinds", "--input", "2,3")
    assert "averages over" in found["mean"]["uniform"]
    assert "extreme over" in found["top"]["copies_only"]
    assert "together with other units" in found["one"]["frozen"]
    assert found["one"]["advice"] == (
        "normalise what is joined part by part; or pass exact=False if the output may change"
    )


def test_json_names_the_owner_of_an_attribute():
    found = widths("Heads", "--input", "2,5,4")
    assert {"owner": "", "attribute": "heads"} in found["qkv"]["attributes"]


def test_json_of_a_recipe():
    document = json.loads(works("inspect", "first-growth", "--json"))
    assert (document["source"], document["model"], document["parameters"]) == ("first-growth", "Classifier", 330)
    assert not [name for name in snapshot() if not name.startswith("modules")]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["stem"], ["stem"]),
        (["stem.weight[1]"], ["stem.weight[1]"]),
        (["blocks.[12].*"], ["blocks.1.0", "blocks.2.0"]),
        (["head", "stem"], ["stem", "head"]),
    ],
)
def test_only_some_widths(patterns, names):
    options = [text for pattern in patterns for text in ("--only", pattern)]
    assert sorted(widths("Residual", "--input", "2,3", *options)) == sorted(names)
    out = works("inspect", "cli_inspected:Residual", "--input", "2,3", "--tree", *options)
    assert sorted(blocks(out)) == sorted(names)


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    "inputs",
    [
        ["2,3:int:10"],
        ["2, 3 : int : 10"],
        ["2,3:int"],
        ["ids=2,3:int:10"],
        ["2,3:int:10", "2,3:bool"],
        ["2,3:int:10", "mask=2,3:bool"],
        ["mask=2,3:bool", "2,3:int:10"],
        ["weight=2,3", "mask=2,3:bool", "ids=2,3:int:10"],
        ["weight=2,3:float", "2,3:int:10"],
        ["1,3:int:10", "weight=1,3"],
    ],
)
def test_inputs_of_every_kind_in_order_and_by_name(inputs):
    given = [text for shape in inputs for text in ("--input", shape)]
    assert widths("Words", *given)["embed"]["changes"] == "freely"


def test_real_inputs_have_the_type_of_the_model():
    assert read("half", "--input", "2,3")["parameters"] == 16


@pytest.mark.parametrize(("name", "rest"), [("Patches", "5,3"), ("cnn", "1,6,6"), ("Heads", "5,4")])
def test_a_batch_of_one_shows_what_a_batch_of_two_does(name, rest):
    assert read(name, "--input", f"1,{rest}") == read(name, "--input", f"2,{rest}")


def test_a_model_that_takes_one_sample_only():
    assert widths("One", "--input", "1,3")["hidden"]["size"] == 4


def test_a_lightning_module_may_bring_its_example():
    assert widths("Exampled")["hidden"]["size"] == 4


def test_a_forward_pass_that_takes_anything():
    assert widths("Loose", "--input", "1,3")["hidden"]["size"] == 4
    assert widths("Loose", "--input", "1,3", "--input", "1,5")["hidden"]["size"] == 4


def test_a_name_with_dots():
    assert widths("Nested.inner", "--input", "2,1,6,6")["0"]["size"] == 6


def test_inputs_are_the_same_each_time_and_leave_the_random_state_alone():
    before = torch.get_rng_state()
    assert works("inspect", "torch.nn:Identity", "--input", "2,3") == works(
        "inspect", "torch.nn:Identity", "--input", "2,3"
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_a_hugging_face_model(module, monkeypatch):
    pytest.importorskip("transformers")
    module(
        "cli_faces",
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "small = dict(hidden_size=8, num_attention_heads=2, intermediate_size=12, num_hidden_layers=3, vocab_size=50)\n"
        "def bert():\n    return BertForSequenceClassification(BertConfig(**small))\n",
    )
    inputs = ("--input", "input_ids=1,6:int:50", "--input", "attention_mask=1,6:int")
    result = invoke("inspect", "cli_faces:bert", *inputs, "--tree")
    assert result.code == 0, result.err
    found = blocks(result.out)
    assert found["bert.embeddings.word_embeddings"][0].endswith("8 units, equally")
    assert "bert.encoder.layer.{0..2}.output.dense  weight[0], bias[0]" in found["bert.embeddings.word_embeddings"]
    assert (
        "bert.encoder.layer.1.attention.output.dense  weight[1] x4"
        in found["bert.encoder.layer.1.attention.self.query"]
    )


# ---------------------------------------------------------------- the current folder


def test_the_installed_script_sees_modules_in_the_current_folder():
    Path("mine.py").write_text("import torch\nimport beside\nmake = beside.make\n")
    Path("beside.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(3, 4)\n")
    command = [Path(sys.executable).with_name("growkit"), "inspect", "mine:make", "--input", "2,3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["parameters"] == 16


def test_the_search_path_is_put_back(monkeypatch):
    before = list(sys.path)
    works("inspect", "torch.nn:Identity", "--input", "2,3")
    refused("inspect", "cli_inspected:talks", "--input", "2,3")
    assert sys.path == before


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("given", "seen", "advice"),
    [
        ([], "no --input", "batch first"),
        ([""], "sizes ''", "whole numbers"),
        (["2,x"], "sizes '2,x'", "whole numbers"),
        (["2,"], "sizes '2,'", "whole numbers"),
        (["0,3"], "sizes '0,3'", "whole numbers"),
        (["2.5,3"], "sizes '2.5,3'", "whole numbers"),
        (["2x3"], "sizes '2x3'", "commas"),
        (["2,3:"], "type ''", "int, float or bool"),
        (["2,3:flot"], "type 'flot'", "did you mean 'float'?"),
        (["2,3:int:0"], "bound '0'", "above every entry"),
        (["2,3:int:x"], "bound 'x'", "above every entry"),
        (["2,3:int:"], "bound ''", "above every entry"),
        (["2,3:int:5:6"], "bound '5:6'", "above every entry"),
        (["2,3:float:3"], "bound '3'", "is for int"),
        (["2,3:bool:2"], "bound '2'", "is for int"),
        (["=2,3"], "''", "name of an argument"),
        (["1x=2,3"], "'1x'", "name of an argument"),
        (["a=b=2,3"], "'a=b'", "name of an argument"),
        (["ids=2,3:int", "ids=2,3:int"], "'ids'", "each once"),
        ([f"{10**11},{10**8}"], "RuntimeError", "smaller sizes"),
        ([f"{10**30},3"], "Error", "smaller sizes"),
        (["9" * 5000], "Error", "smaller sizes"),
        ([f"2,3:int:{10**30}"], "Error", "smaller sizes"),
    ],
)
def test_inputs_that_cannot_be_read(given, seen, advice):
    parts = refused("inspect", "cli_inspected:Words", *(text for shape in given for text in ("--input", shape)))
    assert seen in parts.seen
    assert len(parts.seen) < 320
    assert '--input "2,3,224,224"' in parts.expected
    assert advice in parts.advice


@pytest.mark.parametrize(
    ("given", "seen", "advice"),
    [
        (["mask=2,3:bool"], "'ids'", "NAME=SIZES"),
        (["idz=2,3:int"], "'ids'", "did you mean 'ids'?"),
        (["2,3:int", "msak=2,3:bool"], "'msak'", "did you mean 'mask'?"),
        (["2,3:int", "ids=2,3:int"], "multiple values", "NAME=SIZES"),
        (["2,3:int", "2,3:bool", "2,3"], "too many positional", "NAME=SIZES"),
    ],
)
def test_inputs_that_forward_does_not_take(given, seen, advice):
    parts = refused("inspect", "cli_inspected:Words", *(text for shape in given for text in ("--input", shape)))
    assert parts.what == "the inputs do not fit Words.forward"
    assert seen in parts.seen
    assert "ids, mask, weight" in parts.expected
    assert advice in parts.advice


def test_inputs_without_a_name_beside_others_must_have_a_place():
    parts = refused("inspect", "cli_inspected:Loose", "--input", "1,3", "--input", "x=1,3")
    assert "without a name beside" in parts.seen


@pytest.mark.parametrize(
    ("name", "shape", "seen"),
    [
        ("Words", "2,3:int:100", "index out of range"),
        ("Patches", "1,5,4", "5x4"),
        ("One", "2,3", "AssertionError"),
    ],
)
def test_inputs_on_which_the_model_does_not_run(name, shape, seen):
    parts = refused("inspect", f"cli_inspected:{name}", "--input", shape)
    assert f"forward pass of {name} failed" in parts.what
    assert seen in parts.seen
    assert ":int:1000" in parts.expected


@pytest.mark.parametrize(
    ("name", "seen", "advice"),
    [
        ("cli_inspected:makes", "'makes'", "did you mean 'make'?"),
        ("cli_inspcted:make", "No module named 'cli_inspcted'", "current folder"),
        ("cli_inspected:needs", "'size'", "takes no arguments"),
        ("cli_inspected:leaves", "SystemExit: usage: train.py", "GROWKIT_TRACEBACK"),
        ("cli_inspected:talks", "ValueError: first line second line", "GROWKIT_TRACEBACK"),
        ("cli_inspected:", "a module", "name a model"),
        ("cli_inspected:torch.float32", "a dtype", "name a model"),
        ("./cli_inspected.py:make", "invalid format", "current folder"),
    ],
)
def test_what_is_no_model(name, seen, advice):
    parts = refused("inspect", name, "--input", "2,3")
    assert parts.what == f"{name!r} gives no model"
    assert seen in parts.seen
    assert advice in parts.advice


@pytest.mark.parametrize("name", ["first-growth", "cli_inspected.make"])
def test_a_recipe_takes_no_inputs(name):
    parts = refused("inspect", name, "--input", "2,3")
    assert name in parts.what
    assert "package.module:factory" in parts.expected
    assert "colon" in parts.advice


def test_no_such_width():
    parts = refused("inspect", "cli_inspected:Residual", "--input", "2,3", "--only", "stme")
    assert "'stme'" in parts.what
    assert parts.advice == "did you mean 'stem'?"


def test_positions_are_for_json():
    assert "--json" in refused("inspect", "cli_inspected:make", "--input", "2,3", "--positions").advice


def test_a_mistyped_option():
    parts = explained(invoke("inspect", "cli_inspected:make", "--input", "2,3", "--jsn"))
    assert parts.advice == "did you mean '--json'?"


def test_tree_or_json():
    assert invoke("inspect", "cli_inspected:make", "--input", "2,3", "--tree", "--json").code == 2
