"""Learning-rate schedules that begin anew after growth, in real fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
from fits import Net, Validated, batches, differences, fit, growing, make, outcome
from growth.stubs import Follows, Proposes, has_four_parts, widen
from pytorch_lightning.callbacks import ModelCheckpoint, StochasticWeightAveraging
from test_rewarm_in_fits import Answers
from torch.optim import lr_scheduler as lrs

import growkit

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")

RESTART = growkit.Rewarm(restart=True)
# What makes the scheduler of an SGD with rate 0.05 and momentum 0.9, and when it steps.
SCHEDULERS: dict[str, tuple[Callable[..., Any], str]] = {
    "cosine by epoch": (lambda o: lrs.CosineAnnealingLR(o, 3), "epoch"),
    "steps by epoch": (lambda o: lrs.MultiStepLR(o, [1, 2]), "epoch"),
    "cosine by step": (lambda o: lrs.CosineAnnealingLR(o, 12), "step"),
    "one cycle": (lambda o: lrs.OneCycleLR(o, 0.1, total_steps=30), "step"),
    "lambda by step": (lambda o: lrs.LambdaLR(o, lambda step: 0.9**step), "step"),
    "warm-up and decay": (
        lambda o: lrs.SequentialLR(o, [lrs.LinearLR(o, 0.1, total_iters=4), lrs.ExponentialLR(o, 0.9)], [4]),
        "step",
    ),
    "plateau": (lambda o: lrs.ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=0.9), "epoch"),
}


class Settings(pl.Callback):
    """The rate and the momentum with which every step is made."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        (group,) = optimizer.param_groups
        self.seen.append((group["lr"], group["momentum"]))


def module(name: str, kind: type[Net] = Validated) -> Net:
    scheduler, interval = SCHEDULERS[name]
    return make(kind, scheduler=scheduler, interval=interval)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_round_has_the_settings_of_the_first(name):
    """Rounds of three epochs of four steps each."""
    watch = Settings()
    fit(
        *(module(name), growing(Proposes(widen("first", 0)), when=growkit.every(epochs=3), rewarm=RESTART), watch),
        epochs=9,
    )
    first, second, third = watch.seen[:12], watch.seen[12:24], watch.seen[24:]
    assert len(set(first)) >= 2
    assert first == second == third


def test_an_event_within_an_epoch_restarts_schedules_by_epoch_there():
    watch = Settings()
    growth = growing(Proposes(widen("first", 0)), when=growkit.every(steps=6), rewarm=RESTART)
    fit(module("steps by epoch"), growth, watch, epochs=4)
    rates = [round(rate, 6) for rate, _ in watch.seen]
    assert rates == [0.05] * 4 + [0.005] * 2 + [0.05] * 2 + [0.005] * 4 + [0.05] * 4


def test_a_ramp_goes_with_a_restart():
    watch = Settings()
    rewarm = growkit.Rewarm(2, start=0.5, restart=True)
    module_ = module("lambda by step")
    growth = growing(Proposes(widen("first", 0)), when=growkit.every(steps=8), rewarm=rewarm)
    fit(module_, growth, watch)
    assert watch.seen[8:16] == watch.seen[:8]  # what schedulers and monitors see
    assert growth.state_dict()["rewarm"] == {"steps": 2, "start": 0.5, "taken": [8]}


def test_a_plugin_says_when():
    watch, plugin = Settings(), Answers(None, RESTART, None)
    fit(module("steps by epoch"), growing(plugin, Proposes(widen("first", 0))), watch, epochs=4)
    rates = [round(rate, 6) for rate, _ in watch.seen[::4]]
    assert rates == [0.05, 0.005, 0.05, 0.005]


def test_a_restart_alone_ends_the_ramp_of_the_event_before():
    plugin, states = Answers(growkit.Rewarm(50), RESTART, None), []
    follows = Follows(lambda event, model: states.append(growth.state_dict()["rewarm"]))
    growth = growing(plugin, Proposes(widen("first", 0)), follows)
    fit(module("steps by epoch"), growth)
    assert [state and state["taken"] for state in states] == [None, [4], None]


class Fails(lrs.StepLR):
    """Cannot take its state."""

    def load_state_dict(self, state_dict):
        raise KeyError("gamma")


def test_nothing_is_restarted_where_an_event_is_undone():
    """Two schedulers: the first is back at its beginning when the second fails."""

    class Two(Net):
        def configure_optimizers(self):
            optimizer = self.make_optimizer(self.parameters())
            return [optimizer], [lrs.ExponentialLR(optimizer, 0.5), Fails(optimizer, 100)]

    watch, trained = Settings(), make(Two)
    growth = growing(Proposes(widen("first", 0)), rewarm=RESTART, on_error="skip")
    fit(trained, growth, watch)
    assert len(growth.failures) == 3
    assert "the learning-rate scheduler Fails cannot begin anew" in growth.failures[0].what
    assert all(map(has_four_parts, growth.failures))
    assert trained.first.out_features == 4
    assert [rate for rate, _ in watch.seen[::4]] == [0.05, 0.025, 0.0125, 0.00625]


@pytest.mark.parametrize("stop", [2, 4])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_run_that_is_interrupted_after_a_restart_goes_on_bit_for_bit(name, stop, tmp_path):
    def run(part: str, epochs: int, ckpt_path=None):
        watch, trained = Settings(), module(name)
        growth = growing(
            *(Proposes(widen("first", 0)),),
            when=growkit.every(steps=6),
            rewarm=growkit.Rewarm(3, 0.1, restart=True),
        )
        saver = ModelCheckpoint(tmp_path / part, save_last=True, every_n_train_steps=1)
        seed = 2 if ckpt_path is None else 77
        run = fit(trained, growth, saver, watch, epochs=epochs, ckpt_path=ckpt_path, seed=seed)
        return outcome(run, trained, growth), watch.seen

    whole, settings = run("whole", 5)
    run("parts", stop)
    resumed, rest = run("parts", 5, tmp_path / "parts" / "last.ckpt")
    assert differences(whole, resumed) == []
    assert settings[4 * stop :] == rest


def test_without_schedulers_nothing_is_restarted_and_that_is_said_once(caplog):
    watch = Settings()
    growth = growing(Proposes(widen("first", 0)), rewarm=RESTART)
    with caplog.at_level("INFO", logger="growkit"):
        fit(make(), growth, watch)
    assert len(growth.events) == 3
    assert set(watch.seen) == {(0.05, 0.9)}
    assert caplog.text.count("there are no learning-rate schedulers to restart") == 1


class Manual(Net):
    """Steps its optimizer and its scheduler itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        return [optimizer], [lrs.ExponentialLR(optimizer, 0.5)]

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()
        self.lr_schedulers().step()


def test_schedulers_that_the_module_steps_itself_restart_too():
    watch = Settings()
    growth = growing(
        *(Proposes(widen("first", 0)),),
        when=growkit.every(steps=5),
        rewarm=RESTART,
        loss=lambda module, batch: module.loss(batch),
    )
    fit(make(Manual), growth, watch, epochs=3)
    assert [rate for rate, _ in watch.seen] == [0.05 * 0.5**k for k in (0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1)]


@pytest.mark.filterwarnings("ignore:Swapping scheduler")
def test_a_scheduler_that_has_taken_the_place_of_another_is_left_alone():
    watch = Settings()
    average = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=3, annealing_epochs=1, device=None)
    growth = growing(Proposes(widen("first", 0)), rewarm=RESTART)
    fit(module("steps by epoch"), growth, average, watch, epochs=5)
    rates = [round(rate, 6) for rate, _ in watch.seen[::4]]
    assert rates[:5] == [0.05, 0.05, 0.005, 0.01, 0.01]  # restarted before the second epoch, not later


def test_a_second_fit_begins_as_the_first_did():
    """The trainer goes on, with a scheduler that is built anew."""
    watch, trained = Settings(), module("steps by epoch")
    growth = growing(Proposes(widen("first", 0)), rewarm=RESTART)
    run = fit(trained, growth, watch, epochs=2)
    run.fit_loop.max_epochs = 4
    run.fit(trained, batches(), batches(False))
    assert {rate for rate, _ in watch.seen} == {0.05}
    assert len(watch.seen) == 16
