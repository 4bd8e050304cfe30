"""Averages of the weights, and other copies of the module that callbacks keep, follow growth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from fits import Net, Validated, batches, differences, fit, growing, make, outcome, plain
from growth.stubs import Asks, Follows, Proposes, widen
from pytorch_lightning.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

import growkit
from growkit.growth import Ranks
from growkit_plugins.baselines import Net2Net
from growkit_plugins.splitting import Splitting

pytestmark = pytest.mark.filterwarnings(
    *("ignore:The dirpath has changed", "ignore:Checkpoint directory .* exists", "ignore:SWA is initializing after"),
)


class Kept(pl.Callback):
    """A user's own averages: a copy of the module and an `AveragedModel`, updated after each step."""

    def on_fit_start(self, trainer, pl_module):
        self.copy = copy.deepcopy(pl_module)
        self.average = AveragedModel(pl_module, avg_fn=get_ema_avg_fn(0.9))

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for mean, weight in zip(self.copy.parameters(), pl_module.parameters(), strict=True):
            mean.lerp_(weight, 0.1)
        self.average.update_parameters(pl_module)


KINDS: dict[str, tuple[Callable[[], pl.Callback], Callable[[Any], nn.Module]]] = {
    "mean": (WeightAveraging, lambda callback: callback._average_model.module),
    "mean of parameters": (lambda: WeightAveraging(use_buffers=False), lambda callback: callback._average_model.module),
    "moving mean": (lambda: EMAWeightAveraging(decay=0.9), lambda callback: callback._average_model.module),
    "stochastic": (lambda: StochasticWeightAveraging(0.01, 0.5), lambda callback: callback._average_model),
    "a copy": (Kept, lambda callback: callback.copy),
    "an average": (Kept, lambda callback: callback.average.module),
}


class Small(Net):
    """Two units, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        del self.norm, self.dropout
        self.first, self.second, self.last = nn.Linear(6, 2), nn.Linear(2, 4), nn.Linear(4, 3)
        self.double()

    def forward(self, x):
        return self.last(self.second(self.first(x.double()).tanh()).tanh())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Looks(pl.Callback):
    """Keeps the average before and after the first event, and the module after it, before the step that follows."""

    def __init__(self, callback: pl.Callback, average: Callable[[Any], nn.Module]) -> None:
        self._now = lambda: {name: value.clone() for name, value in average(callback).state_dict().items()}
        self.before: dict[str, Tensor] = {}
        self.after: dict[str, Tensor] = {}
        self.module: dict[str, Tensor] = {}

    def follows(self) -> growkit.Plugin:
        """A plugin whose hook is called before the averages follow."""
        return Follows(lambda event, model: self.before or self.before.update(self._now()))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.before and not self.after:
            self.after = self._now()
            self.module = copy.deepcopy(pl_module.state_dict())


def looked_at(
    kind: str, *candidates: growkit.Candidate, module: Callable[[], Net] = Small, first: bool = True
) -> Looks:
    """Grow once, before the last of three epochs, with one kind of averages."""
    callback, average = KINDS[kind][0](), KINDS[kind][1]
    looks = Looks(callback, average)
    growth = growing(Proposes(*candidates), looks.follows(), when=growkit.every(epochs=2))
    torch.manual_seed(1)
    fit(make(module), *((growth, callback) if first else (callback, growth)), looks, epochs=3)
    assert len(growth.journal) == 1
    return looks


# ---------------------------------------------------------------- the closed form


@pytest.mark.parametrize("kind", KINDS)
def test_copies_new_units_and_offsets_in_the_average_by_hand(kind):
    """Rows of `first` are copied, and columns of `second` shared out; what was added to the weights is added."""
    offset = torch.tensor([[0.1, 0, 0, 0, 0, 0.2], [-0.1, 0, 0, 0, 0, -0.2]], dtype=torch.float64)
    looks = looked_at(kind, widen("first", 1, weight__first=offset), widen("first", new=1))
    before, after, module = looks.before, looks.after, looks.module
    rows, columns = before["first.weight"], before["second.weight"]
    fresh = module["first.weight"][3]  # as it was drawn
    torch.testing.assert_close(
        *(after["first.weight"], torch.stack([rows[0], rows[1] + offset[0], rows[1] + offset[1], fresh])),
        rtol=0,
        atol=1e-15,
    )
    bias = before["first.bias"]
    torch.testing.assert_close(after["first.bias"], torch.stack([bias[0], bias[1], bias[1], module["first.bias"][3]]))
    shared = torch.stack([columns[:, 0], columns[:, 1] / 2, columns[:, 1] / 2, torch.zeros(4, dtype=torch.float64)], 1)
    assert torch.equal(after["second.weight"], shared)
    for name in ("second.bias", "last.weight", "last.bias"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["second.weight"], module["second.weight"]), "the average is none of the weights"


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_unit_in_the_average_by_hand(kind):
    """Unit 1 goes, and unit 0 takes over its outgoing weights."""

    class Twins(Small):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                for parameter in (self.first.weight, self.first.bias):
                    parameter[1] = parameter[0]
                self.second.weight[:, 1] = self.second.weight[:, 0]

    narrow = growkit.Candidate(growkit.Narrow("first", remove=[1], into=[0]))
    looks = looked_at(kind, narrow, module=Twins)
    before, after = looks.before, looks.after
    assert torch.equal(after["first.weight"], before["first.weight"][:1])
    torch.testing.assert_close(after["second.weight"], before["second.weight"].sum(1, keepdim=True), rtol=0, atol=1e-15)


class Deep(Small):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 2), nn.Tanh()).double()


@pytest.mark.parametrize("kind", KINDS)
def test_an_inserted_block_in_the_average_is_that_of_the_module(kind):
    block = growkit.Candidate(growkit.Deepen("first.0", "linear", 2))
    looks = looked_at(kind, block, widen("second", 1), module=Deep)
    assert looks.after.keys() == looks.module.keys() != looks.before.keys()
    moved = {name: value for name, value in looks.after.items() if name.endswith("0.weight") and len(value) == 2}
    assert any(torch.equal(value, looks.before["first.0.weight"]) for value in moved.values())
    added = [name for name in looks.after if name.startswith("first.") and looks.after[name].shape != (2, 6)]
    assert any(torch.equal(looks.after[name], looks.module[name]) for name in added)
    weight = looks.before["second.weight"]
    assert torch.equal(looks.after["second.weight"], torch.cat([weight, weight[1:2]]))


def function_of(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    hidden = F.linear(inputs, weights["first.weight"], weights["first.bias"]).tanh()
    hidden = F.linear(hidden, weights["second.weight"], weights["second.bias"]).tanh()
    return F.linear(hidden, weights["last.weight"], weights["last.bias"])


@pytest.mark.parametrize("first", [True, False], ids=["growth first", "average first"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_event_preserves_the_function_of_the_average(kind, first):
    looks = looked_at(kind, widen("first", 0, 0, 1, new=2), widen("second", 3, new=1), first=first)
    inputs = torch.randn(9, 6, dtype=torch.float64)
    old, new = function_of(looks.before, inputs), function_of(looks.after, inputs)
    torch.testing.assert_close(new, old, rtol=0, atol=1e-14)
    assert not torch.allclose(function_of(looks.module, inputs), old)


# ---------------------------------------------------------------- training goes on


class Alike(pl.Callback):
    """Checks after every batch and validation that the copies have the shapes of the module."""

    def __init__(self, callback: pl.Callback, average: Callable[[Any], nn.Module]) -> None:
        self._callback, self._average, self.seen = callback, average, set()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        shapes = {name: value.shape for name, value in self._average(self._callback).state_dict().items()}
        assert shapes == {name: value.shape for name, value in pl_module.state_dict().items()}
        self.seen.add(shapes["first.weight"])

    def on_validation_end(self, trainer, pl_module):
        self.on_train_batch_end(trainer, pl_module, None, None, 0)


METHODS: dict[str, Callable[[], growkit.Plugin]] = {
    "copies": lambda: Net2Net(0.3, noise=0.05),
    "splits": lambda: Splitting(0.3, step=0.05),
}


class NoNorm(Validated):
    def __init__(self) -> None:
        super().__init__("adam")
        self.norm = nn.Identity()


def runs(tmp_path, kind: str, module: type[Net], method: str, *, first: bool = True, **options: Any):
    """Return a function that fits, whole or from a checkpoint, and returns everything that must be equal."""

    def run(part: str, ckpt_path: Any = None) -> dict[str, Any]:
        callback, average = KINDS[kind][0](), KINDS[kind][1]
        growth, alike = growing(METHODS[method]()), Alike(callback, average)
        saver = ModelCheckpoint(tmp_path / part, save_top_k=-1, **options)
        live = make(module)
        callbacks = (growth, callback, alike) if first else (callback, alike, growth)
        seed = 2 if ckpt_path is None else 77
        trained = fit(live, *callbacks, saver, epochs=5, ckpt_path=ckpt_path, seed=seed)
        assert len(alike.seen) >= 2
        counted = [value for name, value in vars(callback).items() if name == "n_averaged"]
        averages = [plain(average(callback).state_dict()), plain(counted)]
        if isinstance(average(callback), pl.LightningModule) and hasattr(callback, "_average_model"):
            averages.append(plain(callback._average_model.state_dict()))
        return {**outcome(trained, live, growth), "averages": averages}

    return run


AVERAGES = ["mean", "mean of parameters", "moving mean", "stochastic"]


@pytest.mark.parametrize(
    "module", [pytest.param(Validated, id="norm"), pytest.param(NoNorm, id="no norm", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("first", [True, False], ids=["growth first", "average first"])
def test_averaging_goes_on_and_a_resumed_run_equals_the_uninterrupted_one(kind, module, first, tmp_path):
    run = runs(tmp_path, kind, module, "splits" if first else "copies", first=first)
    whole = run("whole")
    (path,) = (tmp_path / "whole").glob("epoch=2-*.ckpt")
    assert differences(whole, run("parts", path)) == []


@pytest.mark.parametrize("kind", ["mean", "moving mean", "stochastic"])
def test_a_run_resumed_in_the_middle_of_an_epoch_equals_the_uninterrupted_one(kind, tmp_path):
    run = runs(tmp_path, kind, Validated, "splits", every_n_train_steps=10)
    whole = run("whole")
    (path,) = (tmp_path / "whole").glob("*step=10.ckpt")
    assert differences(whole, run("parts", path)) == []


@pytest.mark.parametrize("kind", AVERAGES)
def test_the_module_is_the_average_at_the_end(kind):
    callback, average = KINDS[kind][0](), KINDS[kind][1]
    module = make(NoNorm)
    fit(module, growing(Net2Net(0.3, noise=0.05)), callback, epochs=4)
    mean = dict(average(callback).named_parameters())
    assert all(torch.equal(weight, mean[name]) for name, weight in module.named_parameters())
    assert module.first.out_features > 4


def test_validation_is_that_of_the_average():
    """Lightning swaps the values of module and average for the time of a validation."""
    seen = []

    class Sees(pl.Callback):
        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            seen.append(plain(pl_module.state_dict()) == before[-1])

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            before.append(plain(averaging._average_model.module.state_dict()))

    before: list[Any] = []
    averaging = WeightAveraging()
    fit(make(Validated), growing(Net2Net(0.5, noise=0.1)), averaging, Sees())
    assert len(seen) == 16
    assert all(seen)


def test_the_checkpoint_holds_the_average_and_loads(tmp_path):
    averaging, module = WeightAveraging(), make(Validated)
    fit(module, growing(Net2Net(0.5)), averaging, ModelCheckpoint(tmp_path, save_last=True))
    loaded = growkit.load(tmp_path / "last.ckpt", make(Validated, seed=5))
    assert plain(loaded.state_dict()) == plain(averaging._average_model.module.state_dict())


@pytest.mark.parametrize("kind", [Net, NoNorm], ids=["norm", "no norm"])
def test_the_epoch_for_the_statistics_of_norms_does_not_grow(kind):
    growth, module = growing(Net2Net(0.3)), make(kind)
    run = fit(module, growth, StochasticWeightAveraging(0.01, 0.5), epochs=4)
    assert [entry.note["epoch"] for entry in growth.journal.entries] == [1, 2, 3]
    assert run.global_step == fit(make(kind), StochasticWeightAveraging(0.01, 0.5), epochs=4).global_step
    if kind is Net:
        assert module.norm.num_batches_tracked == 4, "one pass over the training data"


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_event_that_fails_leaves_the_averages_as_they_were(kind, on_error):
    callback, average = KINDS[kind][0](), KINDS[kind][1]
    held: list[Any] = []

    class Compares(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if held:
                assert held[0] is average(callback)
                assert held[1] == plain(average(callback).state_dict())
                held.clear()

    def fail(event, model):
        held[:] = [average(callback), plain(average(callback).state_dict())]
        raise RuntimeError("no")

    growth = growing(Proposes(widen("first", 0)), Follows(fail), on_error=on_error)
    if on_error == "raise":
        with pytest.raises(growkit.PluginError, match="no"):
            fit(make(), growth, callback, Compares(), epochs=3)
    else:
        fit(make(), growth, callback, Compares(), epochs=3)
        assert len(growth.failures) == 2
    assert average(callback).first.out_features == 4


def test_copies_are_put_back_where_something_fails_after_they_followed(monkeypatch):
    """In a run of several processes, say, that turn out to have different weights."""
    averaging, held = WeightAveraging(), []

    class Holds(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            held.append(averaging._average_model.module)

    class Two(Ranks):
        def __init__(self, group=None):
            super().__init__(group)
            self.size = 2

        def agree(self, about, value):
            if about == "the weights after growth":
                assert averaging._average_model.module is not held[0]
                raise growkit.SurgeryError("no", seen="a", expected="b", advice="c")

    monkeypatch.setattr("growkit.lightning.callback.ranks_of", lambda trainer: Two())
    growth = growing(Proposes(widen("first", 0)), on_error="skip")
    fit(make(), growth, averaging, Holds(), epochs=2)
    assert len(growth.failures) == 1
    assert averaging._average_model.module is held[0]


# ---------------------------------------------------------------- copies of other kinds


def test_a_teacher_of_another_shape_is_left_alone(tmp_path):
    class Teaches(pl.Callback):
        def __init__(self) -> None:
            self.teacher = make()
            growkit.apply(self.teacher, growkit.Widen("first", copies=[0]), example=(torch.zeros(2, 6),))

    teaching, saver = Teaches(), ModelCheckpoint(tmp_path, save_last=True)
    before = plain(teaching.teacher.state_dict())
    fit(make(), growing(Proposes(widen("second", 1))), teaching, saver, epochs=3)
    fit(make(), growing(Proposes(widen("second", 1))), teaching, saver, ckpt_path=tmp_path / "last.ckpt", epochs=4)
    assert plain(teaching.teacher.state_dict()) == before


def test_a_copy_keeps_its_modes_its_number_format_and_what_is_trained():
    class Keeps(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            self.copy = copy.deepcopy(pl_module).double().eval()
            self.copy.last.requires_grad_(False)
            self.copy.norm.train()

    keeps = Keeps()
    fit(make(), growing(Net2Net(0.5)), keeps, epochs=2)
    assert keeps.copy.first.out_features > 4
    assert {parameter.dtype for parameter in keeps.copy.parameters()} == {torch.float64}
    assert [name for name, p in keeps.copy.named_parameters() if not p.requires_grad] == ["last.weight", "last.bias"]
    assert [name for name, module in keeps.copy.named_modules() if module.training] == ["norm"]


def test_an_average_can_be_trained_further_and_saved(tmp_path):
    """It remembers the edits, as the module does."""
    keeps, growth = Kept(), growing(Net2Net(0.5), when=growkit.every(epochs=1))
    fit(make(), growth, keeps, epochs=3)
    average, further = keeps.average.module, growing(Net2Net(0.5))
    fit(average, further, ModelCheckpoint(tmp_path, save_last=True), epochs=2)
    loaded = growkit.load(tmp_path / "last.ckpt", make(seed=9))
    assert plain(loaded.state_dict()) == plain(average.state_dict())
    assert len(further.journal) == 3


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_an_average_keeps_its_number_format_through_growth_and_resume(precision, tmp_path):
    """Lightning copies the module before it converts it: so the average of half precision is in single."""

    def run(part: str, ckpt_path: Any = None):
        averaging, module, growth = WeightAveraging(), make(), growing(Net2Net(0.3, noise=0.05))
        saver = ModelCheckpoint(tmp_path / part, save_top_k=-1)
        options = {"precision": precision, "ckpt_path": ckpt_path, "seed": 2 if ckpt_path is None else 77}
        trained = fit(module, growth, averaging, saver, **options)
        average = averaging._average_model.module
        assert {parameter.dtype for parameter in average.parameters()} == {torch.float32}
        return {**outcome(trained, module, growth), "average": plain(average.state_dict())}

    whole = run("whole")
    (path,) = (tmp_path / "whole").glob("epoch=1-*.ckpt")
    assert differences(whole, run("parts", path)) == []


def test_batches_are_looked_at_without_the_average():
    """The loss that growth decides by is that of the module in training, not of the average."""
    losses = []

    def look(context):
        (batch,) = context.batches(1)
        live = context.structure.model
        losses.append((context.loss(batch).item(), copy.deepcopy(live).eval().loss(batch).item()))

    fit(make(Validated), growing(Asks(look)), WeightAveraging(), loader=batches(), epochs=3)
    assert len(losses) == 2
    assert all(one == pytest.approx(other) for one, other in losses)
