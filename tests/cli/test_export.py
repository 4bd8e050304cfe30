"""`growkit export`: plain models that load where there is no growkit."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from commands import SHORT, invoke, refused, snapshot, works
from torch import nn

import growkit
from growkit import randomness
from growkit.lightning.checkpoint import STATE_KEY, pack

MODELS = """
import pytorch_lightning as pl
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x, scale):
        return self.head(self.norm(self.stem(x) * scale).relu())

class Reads(Branches):
    def forward(self, x, scale):
        return super().forward(x, scale) / self.stem.out_features

class Lightning(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = make()
        self.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1)

    def forward(self, x):
        return self.body(x)

class Unpicklable(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.act = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), lambda x: x.relu()

    def forward(self, x):
        return self.body(self.act(x))

class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    def forward(self, x):
        y = self.body(x)
        return y if y.sum() > 0 else -y

class Fixed(Decides):
    def forward(self, x):
        return self.body(x) + torch.arange(4.0).view(2, 2)

def other():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
"""

WITHOUT_GROWKIT = """
import sys
sys.path.insert(0, {folder!r})

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(f"no {{name}} here")

sys.meta_path.insert(0, Blocked())
import torch
outputs = {{}}
for name, inputs in torch.load("inputs.pt", weights_only=True).items():
    program = name.endswith(".pt2")
    model = torch.export.load(name).module() if program else torch.load(name, weights_only=False)
    assert not any("growkit" in str(key) for key in vars(model)), vars(model)
    outputs[name] = [model(*each) for each in inputs]
torch.save(outputs, "outputs.pt")
assert not any(name.split(".")[0] == "growkit" for name in sys.modules)
"""

HALF = [growkit.Widen("0", (1, 2), new=1), growkit.Deepen("0", "linear", 7, hidden=3), growkit.Widen("0", (0,))]
STEM = [growkit.Widen("stem", (1,)), growkit.Deepen("stem", "linear", 5), growkit.Deepen("stem", "linear", 5, hidden=2)]
FLAT = [growkit.Widen("body.0", (1,), new=1), growkit.Deepen("body.0", "linear", 6, residual=False)]
INPUTS: dict[str, tuple[list[growkit.Edit], tuple[torch.Tensor, ...]]] = {
    "make": (HALF, (torch.randn(2, 3),)),
    "Branches": (STEM, (torch.randn(2, 3), torch.ones(2, 1))),
    "Reads": (STEM[:2], (torch.randn(2, 3), torch.ones(2, 1))),
    "Lightning": (FLAT, (torch.randn(1, 3),)),
    "Unpicklable": (FLAT, (torch.randn(2, 3),)),
    "Decides": (FLAT, (torch.randn(2, 3),)),
    "Fixed": (FLAT, (torch.randn(2, 3),)),
}


@pytest.fixture(autouse=True)
def models(module) -> Path:
    return module("cli_exported", MODELS)


def grown(name: str, path: str = "grown.ckpt") -> nn.Module:
    """Save a checkpoint of a model that has grown; return the model."""
    edits, example = INPUTS[name]
    model, journal = getattr(import_module("cli_exported"), name)(), growkit.Journal()
    for edit in edits:
        journal.append(growkit.apply(model, edit, example=example, exact=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    state = pack(
        journal=journal,
        example=example,
        random_states=[randomness.capture()],
        **{"schedule": {}, "plugins": {}, "layout": [], "grown_at": -1},
    )
    torch.save({"state_dict": model.state_dict(), "callbacks": {STATE_KEY: state}}, path)
    return model.eval()


Batches = list[tuple[torch.Tensor, ...]]


def elsewhere(
    inputs: dict[str, Batches], folder: Path = Path("nowhere"), *, blocked: tuple[str, ...] = ()
) -> dict[str, list[torch.Tensor]]:
    """Load files in a process that has no growkit, and return what each makes of its inputs."""
    torch.save(inputs, "inputs.pt")
    code = WITHOUT_GROWKIT.format(folder=str(folder), blocked=("growkit", "growkit_plugins", *blocked))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load("outputs.pt", weights_only=True)


def batches(name: str) -> Batches:
    """Inputs like the example, for batches of several sizes."""
    return [tuple(torch.randn(size, *x.shape[1:]) for x in INPUTS[name][1]) for size in (1, 2, 5)]


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("ending", [".pt", ".pt2"])
def test_the_file_computes_the_same_where_there_is_no_growkit(ending, models):
    made = {}
    for name in ("make", "Branches", "Lightning"):
        made[name + ending] = grown(name), batches(name)
        out = works("export", "grown.ckpt", f"cli_exported:{name}", name + ending)
        assert out.splitlines()[-1].startswith(f"{name}{ending} written; load it with: torch.")
    inputs = {output: each for output, (_, each) in made.items()}
    seen = elsewhere(inputs, models, blocked=() if ending == ".pt" else ("cli_exported",))
    for output, (model, each) in made.items():
        for expected, outcome in zip((model(*batch) for batch in each), seen[output], strict=True):
            assert torch.allclose(outcome, expected, atol=1e-6)


def test_a_run_of_a_recipe_needs_no_model():
    works("run", "first-growth", *SHORT, "--folder", "run")
    works("export", "run/checkpoint.ckpt", "run/out.pt2")
    works("export", "run/checkpoint.ckpt", "run/out.pt")
    images = torch.randn(5, 1, 8, 8)
    ((seen,),) = elsewhere({"run/out.pt2": [(images,)]}).values()
    assert torch.allclose(torch.load("run/out.pt", weights_only=False)(images), seen, atol=1e-6)
    works("export", "run/checkpoint.ckpt", "first-growth", "named.pt2")
    other = ("--model.init_args.network.init_args.widths", "[5]")
    assert "Classifier" in refused("export", "run/checkpoint.ckpt", "first-growth", "x.pt", *other).what


def test_the_pickled_module_has_the_names_of_the_grown_one():
    model = grown("Branches")
    works("export", "grown.ckpt", "cli_exported:Branches", "out.pt")
    plain = torch.load("out.pt", weights_only=False)
    assert not plain.training
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in plain.state_dict().items())


def test_what_a_lightning_module_needs_for_training_alone_is_left_out_and_named():
    grown("Lightning")
    assert "left out, as they are not plain: make_optimizer of Lightning\n" in works(
        "export", "grown.ckpt", "cli_exported:Lightning", "out.pt"
    )


def test_a_model_whose_batch_cannot_vary_is_exported_for_that_of_the_example():
    model, inputs = grown("Fixed"), torch.randn(2, 3)
    works("export", "grown.ckpt", "cli_exported:Fixed", "out.pt2")
    assert torch.allclose(torch.export.load("out.pt2").module()(inputs), model(inputs), atol=1e-6)


def test_the_file_that_was_there_is_replaced():
    grown("make")
    Path("out.pt2").write_bytes(b"old")
    works("export", "grown.ckpt", "cli_exported:make", "out.pt2")
    assert set(snapshot()) >= {"grown.ckpt", "out.pt2"}
    assert not [name for name in snapshot() if "partial" in name]
    assert torch.export.load("out.pt2").example_inputs is None, "the example is training data"


# ---------------------------------------------------------------- what goes wrong


@pytest.fixture
def precious():
    """A file that a failure must leave alone, and nothing beside it."""
    for name in ("out.pt", "out.pt2"):
        Path(name).write_bytes(b"precious")
    yield
    assert Path("out.pt").read_bytes() == Path("out.pt2").read_bytes() == b"precious"
    assert not list(Path().glob(".*"))


@pytest.mark.parametrize("output", ["out", "out.onnx", "out.safetensors", "out.PT"])
def test_an_unknown_ending(output):
    parts = refused("export", "grown.ckpt", "cli_exported:make", output)
    assert output in parts.what
    assert ".pt2" in parts.expected


@pytest.mark.usefixtures("precious")
def test_no_checkpoint():
    assert "FileNotFoundError" in refused("export", "absent.ckpt", "cli_exported:make", "out.pt").seen
    Path("text.ckpt").write_text("no checkpoint")
    assert "text.ckpt" in refused("export", "text.ckpt", "cli_exported:make", "out.pt").what


@pytest.mark.usefixtures("precious")
def test_a_checkpoint_of_a_run_without_growth():
    torch.save({"state_dict": {}, "callbacks": {}}, "other.ckpt")
    assert (
        "was not saved by a run with growkit.Growth"
        in refused("export", "other.ckpt", "cli_exported:make", "out.pt").what
    )


@pytest.mark.usefixtures("precious")
def test_another_model():
    grown("make")
    assert "does not fit Sequential" in refused("export", "grown.ckpt", "cli_exported:other", "out.pt").what
    assert "gives no model" in refused("export", "grown.ckpt", "cli_exported:absent", "out.pt").what
    assert "no recipe 'absent'" in refused("export", "grown.ckpt", "absent", "out.pt").what


@pytest.mark.usefixtures("precious")
def test_no_model_and_no_recipe_beside_the_checkpoint():
    grown("make")
    parts = refused("export", "grown.ckpt", "out.pt")
    assert "recipe.yaml" in parts.seen
    assert "CHECKPOINT MODEL OUTPUT" in parts.expected


@pytest.mark.parametrize("output", ["absent/out.pt", "grown.ckpt/out.pt2", "folder.pt"])
def test_an_output_that_cannot_be_written(output):
    grown("make")
    Path("folder.pt").mkdir()
    before = snapshot()
    assert output in refused("export", "grown.ckpt", "cli_exported:make", output).what
    assert snapshot() == before


@pytest.mark.usefixtures("precious")
@pytest.mark.parametrize(
    ("name", "output", "seen"),
    [
        ("Unpicklable", "out.pt", "pickle"),
        ("Decides", "out.pt2", "data-dependent"),
        ("Reads", "out.pt", "out_features"),
    ],
)
def test_a_model_that_cannot_be_exported_to_one_kind_can_be_to_the_other(name, output, seen):
    grown(name)
    parts = refused("export", "grown.ckpt", f"cli_exported:{name}", output)
    assert seen in parts.seen
    other = "other.pt2" if output == "out.pt" else "other.pt"
    assert other[5:] in parts.advice
    works("export", "grown.ckpt", f"cli_exported:{name}", other)


def test_options():
    grown("make")
    assert "--x" in refused("export", "grown.ckpt", "cli_exported:make", "out.pt", "--x", "3").seen
    assert invoke("export", "grown.ckpt").code == 2
