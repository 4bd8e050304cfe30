"""Number formats: growth in each of them, with weights and optimizer state that keep theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from fits import Net, Validated, batches, differences, fit, growing, make, outcome, plain
from growth.stubs import Asks, Proposes, widen
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision

import growkit
from growkit_plugins.baselines import Net2Net, RandomUnits
from growkit_plugins.splitting import Splitting

pytestmark = pytest.mark.filterwarnings(
    *("ignore:The dirpath has changed", "ignore:Checkpoint directory .* exists", "ignore:Be aware that when using")
)

# The type of the weights, and that of what the layers compute in training.
FORMATS: dict[str, tuple[torch.dtype, torch.dtype]] = {
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "bf16-true": (torch.bfloat16, torch.bfloat16),
    "16-true": (torch.float16, torch.float16),
    "64-true": (torch.float64, torch.float64),
}
METHODS: dict[str, Callable[[], growkit.Plugin]] = {
    "copies": lambda: Net2Net(0.3, noise=0.05),
    "new units": lambda: RandomUnits(0.3),
    "splits": lambda: Splitting(0.3, step=0.05, batches=2),
}


class Adam(Net):
    """Adam whose epsilon is above the smallest number of half precision."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01, eps=1e-3)


class Watch(pl.Callback):
    """Looks at the types of weights, states and computed numbers in every step, and keeps the losses."""

    def __init__(self) -> None:
        self.weights: set[torch.dtype] = set()
        self.states: set[torch.dtype] = set()
        self.computed: set[torch.dtype] = set()
        self.losses: list[float] = []

    def on_fit_start(self, trainer, pl_module):
        def look(module, args, output):
            if trainer.training and module.training:
                self.computed.add(output.dtype)

        self._hook = pl_module.second.register_forward_hook(look)

    def on_fit_end(self, trainer, pl_module):
        self._hook.remove()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights |= {parameter.dtype for parameter in pl_module.parameters()}
        (optimizer,) = trainer.optimizers
        for state in optimizer.state.values():
            self.states |= {value.dtype for value in state.values() if value.dim()}
        self.losses.append(float(outputs["loss"]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", FORMATS)
def test_training_goes_on_through_growth_and_every_number_keeps_its_type(precision, method):
    growth, watch = growing(METHODS[method]()), Watch()
    fit(make(Adam), growth, watch, precision=precision, epochs=6)
    weights, computed = FORMATS[precision]
    assert len(growth.journal) == 5
    assert (watch.weights, watch.states, watch.computed) == ({weights}, {weights}, {computed})
    assert sum(watch.losses[-8:]) < sum(watch.losses[:8])


@pytest.mark.parametrize("stop", [8, 10], ids=["end of an epoch", "middle of an epoch"])
@pytest.mark.parametrize(
    "method", ["splits", *(pytest.param(method, marks=pytest.mark.slow) for method in ("copies", "new units"))]
)
@pytest.mark.parametrize("precision", FORMATS)
def test_a_resumed_run_equals_the_uninterrupted_one(precision, method, stop, tmp_path):
    def run(part: str, ckpt_path: Any = None) -> dict[str, Any]:
        module, growth = make(Adam), growing(METHODS[method]())
        saver = ModelCheckpoint(tmp_path / part, every_n_train_steps=stop, save_top_k=-1)
        seed = 2 if ckpt_path is None else 77
        options = {"precision": precision, "ckpt_path": ckpt_path, "seed": seed}
        return outcome(fit(module, growth, saver, **options), module, growth)

    whole = run("whole")
    (path,) = (tmp_path / "whole").glob(f"*step={stop}.ckpt")
    assert differences(whole, run("parts", path)) == []


@pytest.mark.parametrize("precision", FORMATS)
def test_a_checkpoint_loads_for_validation(precision, tmp_path):
    grown = make(Validated)
    fit(grown, growing(Net2Net(0.5)), ModelCheckpoint(tmp_path, save_last=True), precision=precision)
    fresh = make(Validated, seed=3)
    run = pl.Trainer(
        accelerator="cpu",
        precision=precision,
        callbacks=[growing()],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    run.validate(fresh, batches(False), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert plain(fresh.state_dict()) == plain(grown.state_dict())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "16-true", "64-true"])
def test_a_checkpoint_loads_without_a_trainer_into_the_format_of_the_module(precision, tmp_path):
    grown = make(Validated)
    fit(grown, growing(Net2Net(0.5)), ModelCheckpoint(tmp_path, save_last=True), precision=precision)
    loaded = growkit.load(tmp_path / "last.ckpt", make(Validated, seed=4))
    for name, weight in grown.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.to(loaded.state_dict()[name].dtype))


class Default(Net):
    """Makes tensors of the default type on its way, which do not mix with other types in a product."""

    def forward(self, x):
        hidden = F.softplus(self.norm(self.first(torch.zeros(len(x), 6) + x)))
        return self.last(self.second(hidden).tanh())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_may_rely_on_the_default_type(precision, method):
    plugin = METHODS[method]()
    plugin.widths = ("first",)
    module, growth = make(Default), growing(plugin)
    fit(module, growth, precision=precision)
    assert len(growth.journal) == 3
    assert module.first.out_features > 4
    assert torch.get_default_dtype() == torch.float32


class Notes(Net):
    """Notes the type of what the layers compute, and whether that is under autocast."""

    def forward(self, x):
        hidden = self.first(x)
        notes.append((hidden.dtype, torch.is_autocast_enabled("cpu"), self._trainer is None or bool(growing_now)))
        return self.last(self.second(self.norm(hidden)))


notes: list[tuple[torch.dtype, bool, bool]] = []
growing_now: list[bool] = []


def test_under_mixed_precision_growth_computes_in_full():
    """The probe compares outputs to seven digits; half precision has three."""
    notes.clear()

    class Marks(growkit.Growth):
        def _grow(self, *arguments):
            growing_now.append(True)
            super()._grow(*arguments)
            growing_now.clear()

    fit(make(Notes), Marks([Splitting(0.3)], when=growkit.every(epochs=2)), precision="bf16-mixed")
    assert {kinds[:2] for kinds in notes if kinds[2]} == {(torch.float32, False)}
    assert {kinds[:2] for kinds in notes if not kinds[2]} == {(torch.bfloat16, True)}


def test_an_exact_event_under_mixed_precision_is_exact_to_seven_digits():
    growth = growing(Proposes(widen("first", 0, new=1), widen("second", 1)))
    fit(make(), growth, precision="bf16-mixed")
    assert max(entry.note["moved"] for entry in growth.journal.entries) < 1e-6


def test_statistics_have_at_least_single_precision_and_the_loss_that_of_the_model():
    seen = []

    def look(context):
        (batch,) = context.batches(1)
        seen.append((batch[0].dtype, context.loss(batch).dtype))

    fit(make(), growing(Asks(look)), precision="bf16-true", epochs=2)
    fit(make(), growing(Asks(look)), precision="bf16-mixed", epochs=2)
    assert seen == [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)]


# ---------------------------------------------------------------- gradient scaling, which needs a GPU

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="16-mixed needs a CUDA device")


class Scales(pl.Callback):
    """The scale of the gradients after each step."""

    def __init__(self) -> None:
        self.scales: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.scales.append(trainer.precision_plugin.scaler.get_scale())


def scaling(*callbacks: pl.Callback, **options: Any) -> tuple[pl.Trainer, Net, list[float]]:
    """Fit with a scale that starts at 1024 and doubles after every three steps without an overflow."""
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0, growth_interval=3)
    scales, module = Scales(), make(Validated)
    plugin = MixedPrecision("16-mixed", "cuda", scaler)
    run = fit(module, *callbacks, scales, accelerator="cuda", devices=1, plugins=[plugin], **options)
    return run, module, scales.scales


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("method", METHODS)
def test_the_scale_of_gradients_goes_on_through_growth(method):
    growth, watch = growing(METHODS[method]()), Watch()
    _, module, scales = scaling(growth, watch)
    assert scales == [1024.0 * 2 ** (step // 3) for step in range(1, 17)]
    assert len(growth.journal) == 3
    assert (watch.weights, watch.states, watch.computed) == ({torch.float32}, {torch.float32}, {torch.float16})
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())
    assert max(entry.note["moved"] for entry in growth.journal.entries) < 1e-5


@pytest.mark.gpu
@on_gpu
def test_a_step_that_overflows_is_skipped_in_the_grown_model_as_ever():
    class Overflows(pl.Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_step == 5 and not before:  # the first step after growth is step 4
                pl_module.last.bias.grad.fill_(torch.inf)
                before.extend(parameter.detach().clone() for parameter in pl_module.parameters())

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if len(after) == 0 and before:
                after.extend(parameter.detach().clone() for parameter in pl_module.parameters())

    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    _, module, scales = scaling(growing(Net2Net(0.5)), Overflows(), epochs=2)
    assert scales[5] == scales[4] / 2
    assert all(map(torch.equal, before, after))
    assert module.first.out_features > 4


@pytest.mark.gpu
@on_gpu
def test_the_scale_of_gradients_goes_on_after_a_resume(tmp_path):
    def run(part: str, ckpt_path: Any = None):
        saver = ModelCheckpoint(tmp_path / part, every_n_train_steps=10, save_top_k=-1)
        growth = growing(Splitting(0.3, step=0.05))
        trained, module, scales = scaling(growth, saver, ckpt_path=ckpt_path, seed=2 if ckpt_path is None else 77)
        return outcome(trained, module, growth), scales

    whole, scales = run("whole")
    (path,) = (tmp_path / "whole").glob("*step=10.ckpt")
    resumed, rest = run("parts", path)
    assert rest == scales[10:]
    assert set(differences(whole, resumed)) <= {"random"}, "outside of the training loop, CUDA draws nothing"


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true"])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_on_a_gpu(precision, method):
    growth, watch = growing(METHODS[method]()), Watch()
    fit(make(Adam), growth, watch, precision=precision, epochs=6, accelerator="cuda", devices=1)
    weights, computed = FORMATS[precision]
    assert len(growth.journal) == 5
    assert (watch.weights, watch.states, watch.computed) == ({weights}, {weights}, {computed})
    assert sum(watch.losses[-8:]) < sum(watch.losses[:8])
