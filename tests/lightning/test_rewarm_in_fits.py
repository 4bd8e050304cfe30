"""Learning rates that warm up again after growth, in real fits."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from fits import Net, differences, fit, growing, make, outcome
from growth.stubs import Proposes, has_four_parts, widen
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

import growkit

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


class Answers(growkit.Plugin):
    """Says how to warm up after each event, in turn."""

    def __init__(self, *answers) -> None:
        self.answers, self.steps = list(answers), []

    @growkit.hookimpl
    def growkit_rewarm(self, event):
        self.steps.append(event.note["step"])
        return self.answers[len(self.steps) - 1]


class Effective(pl.Callback):
    """The rate with which plain SGD moved, seen on one entry of the last bias."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        bias = pl_module.last.bias
        self._before, self._gradient = bias[0].item(), bias.grad[0].item()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rates.append((self._before - pl_module.last.bias[0].item()) / self._gradient)


class Plain(Net):
    """Plain SGD in double precision, with a rate that halves after every fourth step."""

    def __init__(self) -> None:
        super().__init__()
        self.double()

    def loss(self, batch) -> Tensor:
        return super().loss((batch[0].double(), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        config = {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": config}


def example(batch):
    return (batch[0][:2].double(),)


def scheduled(step: int) -> float:
    return 0.5 * 0.5 ** (step // 4)


def test_every_step_of_a_fit_has_the_rate_that_was_promised():
    effective = Effective()
    growth = growing(
        *(Proposes(widen("first", 0)),),
        when=growkit.every(steps=6),
        rewarm=growkit.Rewarm(4, start=0.2),
        example=example,
    )
    fit(make(Plain), growth, effective)
    after = [step - max((s for s in (6, 12) if s <= step), default=-9) for step in range(16)]
    promised = [scheduled(step) * min(1.0, 0.2 + 0.8 * since / 4) for step, since in enumerate(after)]
    assert effective.rates == pytest.approx(promised, rel=1e-6)


def test_the_answer_of_a_plugin_has_precedence():
    plugin, effective = Answers(growkit.Rewarm(2), None), Effective()
    growth = growing(
        *(plugin, Proposes(widen("first", 0))),
        when=growkit.every(steps=6),
        rewarm=growkit.Rewarm(2, start=0.5),
        example=example,
    )
    fit(make(Plain), growth, effective)
    assert plugin.steps == [6, 12]
    factors = [rate / scheduled(step) for step, rate in enumerate(effective.rates)]
    assert factors == pytest.approx([1.0] * 6 + [0.0, 0.5, 1, 1, 1, 1] + [0.5, 0.75, 1, 1], abs=1e-6)


def test_an_answer_that_is_no_rewarm_is_an_error_that_names_the_plugin():
    with pytest.raises(growkit.PluginError, match=r"(?s)'Answers'.*growkit\.Rewarm.*'soon'") as caught:
        fit(make(), growing(Answers("soon"), Proposes(widen("first", 0))))
    assert has_four_parts(caught.value)


def test_schedulers_and_monitors_see_nothing(tmp_path):
    """The rates that are logged and that the scheduler reports are those of a run without the ramp."""

    def run(part: str, rewarm: growkit.Rewarm | None):
        seen = []

        class Looks(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
                (config,) = trainer.lr_scheduler_configs
                seen.append((trainer.optimizers[0].param_groups[0]["lr"], config.scheduler.get_last_lr()))

            def on_before_optimizer_step(self, trainer, pl_module, optimizer):
                seen.append(optimizer.param_groups[0]["lr"])

        growth = growing(Proposes(widen("first", 0)), rewarm=rewarm, example=example)
        logger = CSVLogger(tmp_path, name=part, version=0)
        fit(make(Plain), growth, LearningRateMonitor("step"), Looks(), logger=logger, log_every_n_steps=1)
        with Path(logger.log_dir, "metrics.csv").open() as file:
            return seen, [row["lr-SGD"] for row in csv.DictReader(file) if row["lr-SGD"]]

    with_ramp, without = run("with", growkit.Rewarm(3)), run("without", None)
    assert with_ramp == without
    assert [float(rate) for rate in with_ramp[1]] == [scheduled(step) for step in range(16)]


@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_that_is_interrupted_on_a_ramp_goes_on_bit_for_bit(stop, tmp_path):
    def run(part: str, epochs: int, ckpt_path=None):
        module = make(Plain)
        growth = growing(Proposes(widen("first", 0)), rewarm=growkit.Rewarm(6, start=0.1), example=example)
        saver = ModelCheckpoint(tmp_path / part, save_last=True, every_n_train_steps=1)
        trained = fit(module, growth, saver, epochs=epochs, ckpt_path=ckpt_path, seed=2 if ckpt_path is None else 77)
        return outcome(trained, module, growth), growth

    whole, growth = run("whole", 5)
    assert [entry.note["step"] for entry in growth.journal.entries] == [4, 8, 12, 16]
    run("parts", stop)
    resumed, _ = run("parts", 5, tmp_path / "parts" / "last.ckpt")
    assert differences(whole, resumed) == []


def test_the_checkpoint_of_a_failure_on_a_ramp_knows_of_it_and_has_the_scheduled_rates(tmp_path):
    class Fails(Plain):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 6:
                raise InterruptedError
            return super().training_step(batch, batch_idx)

    saver = ModelCheckpoint(tmp_path, save_on_exception=True, filename="saved", save_top_k=0)
    growth = growing(Proposes(widen("first", 0)), rewarm=growkit.Rewarm(4), example=example)
    with pytest.raises(InterruptedError):
        fit(make(Fails), growth, saver)
    (path,) = tmp_path.glob("*.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["callbacks"]["growkit.Growth"]["rewarm"] == {"steps": 4, "start": 0.0, "taken": [2]}
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == scheduled(6)


class TwoOptimizers(Plain):
    """Steps one optimizer in every batch, the other in every second."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        often, seldom = self.optimizers()
        for optimizer in (often, seldom) if batch_idx % 2 else (often,):
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self):
        body = [p for name, p in self.named_parameters() if not name.startswith("last")]
        return torch.optim.SGD(self.last.parameters(), lr=0.5), torch.optim.SGD(body, lr=0.5)


def test_two_optimizers_of_a_fit_are_on_the_ramp_each_for_its_own_steps():
    taken = []

    class Counts(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            state = growth.state_dict()["rewarm"]
            taken.append(state and state["taken"])

    growth = growing(
        *(Proposes(widen("first", 0)),),
        when=growkit.every(epochs=2),
        rewarm=growkit.Rewarm(3),
        example=example,
        loss=lambda module, batch: module.loss(batch),
    )
    fit(make(TwoOptimizers), growth, Counts(), epochs=3)
    assert taken == [None] * 8 + [[1, 0], [2, 1], [3, 1], [4, 2]]
    assert growth.state_dict()["rewarm"] is not None, "a checkpoint may be saved after the fit"
    fit(make(TwoOptimizers), growth, epochs=1)
    assert growth.state_dict()["rewarm"] is None, "a ramp belongs to one run"
