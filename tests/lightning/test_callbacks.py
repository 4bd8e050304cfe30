"""Lightning's own callbacks and options, together with growth."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from fits import Net, Validated, batches, differences, fit, growing, make, outcome, plain, samples, seed_all, trainer
from growth.stubs import Asks, Proposes, widen
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.profilers import AdvancedProfiler, SimpleProfiler
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import growkit
from growkit.lightning.progress import GrowthProgressBar
from growkit_plugins.baselines import Net2Net
from growkit_plugins.splitting import Splitting

pytestmark = pytest.mark.filterwarnings(
    *("ignore:The dirpath has changed", "ignore:Checkpoint directory .* exists"),
    *("ignore:You defined a `validation_step`", "ignore:Be aware that when using `ckpt_path`"),
    "ignore:Using ModelCheckpoint with manual optimization",
)


def steps(growth: growkit.Growth) -> list[int]:
    return [entry.note["step"] for entry in growth.journal.entries]


def splitting() -> growkit.Plugin:
    return Splitting(0.3, step=0.05)


# ---------------------------------------------------------------- ModelCheckpoint

SAVING: dict[str, dict[str, Any]] = {
    "every few steps": {"every_n_train_steps": 3, "save_top_k": -1},
    "best few": {"monitor": "val_loss", "save_top_k": 2},
    "best few by a training metric": {"monitor": "train_loss", "save_top_k": 2, "save_on_train_epoch_end": True},
    "last": {"save_last": True, "save_top_k": 1},
    "link to the last": {"save_last": "link", "save_top_k": 1},
    "by the clock": {"train_time_interval": timedelta(0), "save_top_k": -1},
    "at the end of training epochs": {"save_on_train_epoch_end": True, "save_top_k": -1},
    "weights alone": {"save_weights_only": True, "save_top_k": -1},
    "every other epoch": {"every_n_epochs": 2, "save_top_k": -1},
}


@pytest.mark.parametrize("saving", SAVING)
def test_every_file_of_every_way_to_save_loads(saving, tmp_path):
    growth, module = growing(splitting(), when=growkit.every(steps=3)), make(Validated)
    fit(module, growth, ModelCheckpoint(tmp_path, **SAVING[saving]))
    files = sorted(tmp_path.glob("*.ckpt"))
    assert files
    for file in files:
        saved = torch.load(file, weights_only=True)
        loaded = growkit.load(file, make(Validated, seed=8))
        expected = {name: value for name, value in saved["state_dict"].items() if not name.startswith("growkit")}
        assert plain(loaded.state_dict()) == plain(expected)
        grown = [step for step in steps(growth) if step < saved["global_step"]]
        assert [entry.note["step"] for entry in growkit.lightning.checkpoint.journal_of(loaded).entries] == grown


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_the_best_checkpoint_serves_every_verb(verb, tmp_path):
    saver = ModelCheckpoint(tmp_path, monitor="val_loss")
    fit(make(Validated), growing(splitting()), saver)
    saved = torch.load(saver.best_model_path, weights_only=True)["state_dict"]
    fresh = make(Validated, seed=9)
    other = trainer(growing(splitting()), enable_checkpointing=False)
    result = getattr(other, verb)(fresh, batches(False), ckpt_path=saver.best_model_path)
    assert plain(fresh.state_dict()) == plain({k: v for k, v in saved.items() if not k.startswith("growkit")})
    if verb == "validate":
        assert result[0]["val_loss"] == pytest.approx(float(saver.best_model_score), rel=1e-6)


# ---------------------------------------------------------------- other callbacks


class Falls(Validated):
    """A metric that improves for so many epochs and then stays."""

    improves = 4

    def on_validation_epoch_end(self):
        self.log("score", float(min(self.current_epoch, self.improves)))


def stopping(patience: int = 2) -> EarlyStopping:
    return EarlyStopping("score", patience=patience, mode="max")


def test_early_stopping_counts_through_growth_and_a_resume(tmp_path):
    def run(part: str, ckpt_path: Any = None) -> dict[str, Any]:
        module, growth, stop = make(Falls), growing(splitting()), stopping()
        saver = ModelCheckpoint(tmp_path / part, save_top_k=-1)
        seed = 2 if ckpt_path is None else 77
        trained = fit(module, growth, stop, saver, epochs=20, ckpt_path=ckpt_path, seed=seed)
        return {**outcome(trained, module, growth), "stopped": (stop.stopped_epoch, stop.wait_count)}

    whole = run("whole")
    assert whole["stopped"] == (6, 2)
    (path,) = (tmp_path / "whole").glob("epoch=5-*.ckpt")
    assert differences(whole, run("parts", path)) == []


def test_gradients_are_accumulated_by_a_schedule_and_growth_falls_between_steps():
    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            width = pl_module.first.out_features
            if sizes and sizes[-1] != width:
                grown_at.append((trainer.current_epoch, batch_idx))
            sizes.append(width)

    sizes: list[int] = []
    grown_at: list[tuple[int, int]] = []
    growth = growing(Proposes(widen("first", 0)), when=growkit.every(steps=1))
    run = fit(make(), growth, Watch(), GradientAccumulationScheduler({0: 1, 1: 4, 2: 2}), epochs=3)
    assert run.global_step == 4 + 1 + 2
    assert steps(growth) == [1, 2, 3, 4, 5, 6]
    assert grown_at == [(0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (2, 2)]


def test_the_monitor_of_learning_rates_logs_what_it_would_without_growth(tmp_path):
    def logged(part: str, *plugins: growkit.Plugin) -> list[str]:
        logger = CSVLogger(tmp_path, name=part, version=0)
        module = make(scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5), interval="step")
        fit(module, growing(*plugins), LearningRateMonitor("step"), logger=logger, log_every_n_steps=1)
        lines = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
        position = lines[0].split(",").index("lr-SGD")
        return [line.split(",")[position] for line in lines[1:] if line.split(",")[position]]

    rates = logged("grown", splitting())
    assert rates == logged("plain")
    assert len(rates) == 16


class Shows(GrowthProgressBar):
    shown: dict[str, Any]

    def get_metrics(self, trainer, pl_module):
        self.shown = super().get_metrics(trainer, pl_module)
        return self.shown


def test_the_progress_bar_shows_size_and_last_growth():
    growth, module = growing(Proposes(widen("first", 0))), make()
    bar = Shows(growth)
    fit(module, growth, bar, enable_progress_bar=True)
    assert bar.shown["parameters"] == f"{sum(p.numel() for p in module.parameters()):,}"
    assert bar.shown["last growth"] == "step 12"


def test_the_progress_bar_of_lightning_works_as_ever():
    growth = growing(Proposes(widen("first", 0)))
    fit(make(Validated), growth, RichProgressBar(), enable_progress_bar=True)
    assert steps(growth) == [4, 8, 12]


@pytest.mark.parametrize("kind", [SimpleProfiler, AdvancedProfiler])
def test_profilers_show_what_growth_takes(kind, tmp_path):
    profiler = kind(dirpath=tmp_path, filename="profile")
    fit(make(), growing(Proposes(widen("first", 0))), profiler=profiler)
    (file,) = tmp_path.glob("*profile*")
    assert "[growkit]growth_event" in file.read_text()
    if kind is SimpleProfiler:
        assert len(profiler.recorded_durations["[growkit]growth_event"]) == 3


def test_the_statistics_of_a_device_do_not_mind(tmp_path):
    pytest.importorskip("psutil")
    monitor = pl.callbacks.DeviceStatsMonitor(cpu_stats=True)
    growth = growing(Proposes(widen("first", 0)))
    fit(make(), growth, monitor, logger=CSVLogger(tmp_path), log_every_n_steps=1, epochs=2)
    assert steps(growth) == [4]


# ---------------------------------------------------------------- clipping


class Gradients(pl.Callback):
    """The gradients with which each step is made."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.largest: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        gradients = [parameter.grad for parameter in pl_module.parameters()]
        self.norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        self.largest.append(max(gradient.abs().max().item() for gradient in gradients))


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_of_the_grown_model_are_clipped(algorithm):
    """A copied unit has its gradient shared out, so the norm before clipping is another one; the bound holds."""
    growth, gradients = growing(splitting()), Gradients()
    fit(make(), growth, gradients, gradient_clip_val=0.05, gradient_clip_algorithm=algorithm)
    assert steps(growth) == [4, 8, 12]
    bounded = gradients.norms if algorithm == "norm" else gradients.largest
    assert max(bounded) <= 0.05 + 1e-6
    assert max(bounded) == pytest.approx(0.05, rel=1e-4)  # torch adds 1e-6 to the norm that it divides by


# ---------------------------------------------------------------- options of the trainer


def test_fast_dev_run_trains_one_batch_and_grows_nothing():
    growth = growing(Proposes(widen("first", 0)), when=growkit.every(steps=1))
    run = fit(make(Validated), growth, fast_dev_run=True)
    assert run.global_step == 1
    assert len(growth.journal) == 0


def test_fast_dev_run_of_some_batches_grows():
    growth = growing(Proposes(widen("first", 0)), when=growkit.every(steps=1))
    fit(make(Validated), growth, fast_dev_run=3)
    assert steps(growth) == [1, 2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"overfit_batches": 2}, [2, 4, 6]),
        ({"limit_train_batches": 3}, [3, 6, 9]),
        ({"limit_train_batches": 0.5}, [2, 4, 6]),
        ({"max_steps": 6}, [4]),
        ({"max_time": {"hours": 1}}, [4, 8, 12]),
        ({"min_epochs": 4, "epochs": 3}, [4, 8]),
        ({"val_check_interval": 2}, [4, 8, 12]),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, [4, 8, 12]),
        ({"check_val_every_n_epoch": 2}, [4, 8, 12]),
        ({"reload_dataloaders_every_n_epochs": 1}, [4, 8, 12]),
        ({"detect_anomaly": True}, [4, 8, 12]),
        ({"use_distributed_sampler": False, "benchmark": False, "deterministic": True}, [4, 8, 12]),
        ({"inference_mode": False}, [4, 8, 12]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:You have turned on `Trainer.detect_anomaly", "ignore:You requested to overfit")
def test_growth_follows_the_steps_that_are_taken(options, expected):
    growth = growing(splitting())
    fit(make(Validated), growth, **options)
    assert steps(growth) == expected


class Sees(growkit.Schedule):
    """Due after every validation."""

    needs_validation = shared = True
    seen = False

    def observe(self, metrics):
        self.seen = True

    def due(self, moment):
        seen, self.seen = self.seen, False
        return seen


def test_validations_in_the_middle_of_an_epoch_count_for_schedules():
    growth = growing(Proposes(widen("first", 0)), when=Sees())
    fit(make(Validated), growth, val_check_interval=2)
    assert steps(growth) == [2, 4, 6, 8, 10, 12, 14]


def test_training_ends_when_the_time_is_up_and_the_module_is_whole():
    growth, module = growing(Proposes(widen("first", 0)), when=growkit.every(steps=1)), make()
    run = fit(module, growth, max_time={"seconds": 0})
    assert run.global_step <= 1
    assert "on_load_checkpoint" not in vars(module)


# ---------------------------------------------------------------- data


class Data(pl.LightningDataModule):
    """Another order of the samples after each reload; remembers how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def train_dataloader(self):
        self.asked += 1
        order = torch.randperm(32, generator=torch.Generator().manual_seed(self.asked)).tolist()
        return DataLoader(torch.utils.data.Subset(samples(), order), batch_size=8, shuffle=True)

    def val_dataloader(self):
        return batches(False)

    def state_dict(self):
        return {"asked": self.asked}

    def load_state_dict(self, state):
        self.asked = state["asked"] - self.again

    again = 0  # how often a resumed run asks for what the interrupted one had already


class Stream(IterableDataset):
    def __iter__(self):
        return iter(samples())


class Sized(Stream):
    def __len__(self) -> int:
        return 32


LOADERS: dict[str, Any] = {
    "a datamodule": Data,
    "a stream": lambda: DataLoader(Stream(), batch_size=8),
    "a stream with a length": lambda: DataLoader(Sized(), batch_size=8),
    "two loaders": lambda: CombinedLoader({"a": batches(), "b": batches()}, "min_size"),
    "two loaders of different length": lambda: CombinedLoader(
        {"a": batches(), "b": batches(count=16)}, "max_size_cycle"
    ),
    "a list of loaders": lambda: [batches(), batches(count=24)],
}


class Anything(Validated):
    """Takes the batches of one loader, or of several."""

    def loss(self, batch) -> Tensor:
        if isinstance(batch, dict):
            return super().loss(batch["a"]) + super().loss(batch["b"])
        if isinstance(batch[0], (list, tuple)):
            return sum(super(Anything, self).loss(each) for each in batch if each is not None)
        return super().loss(batch)


def first_inputs(batch):
    while not isinstance(batch, Tensor):
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return (batch[:2],)


def run_on(loader: Any, folder: Path, ckpt_path: Any = None, every: int = 5, epochs: int = 4, **options: Any):
    module, growth = make(Anything), growing(splitting(), example=first_inputs)
    saver = ModelCheckpoint(folder, every_n_train_steps=every, save_top_k=-1)
    seed_all(2 if ckpt_path is None else 77)
    run = trainer(growth, saver, epochs=epochs, **options)
    data = {"datamodule": loader} if isinstance(loader, Data) else {"train_dataloaders": loader}
    run.fit(module, **data, ckpt_path=ckpt_path)
    return outcome(run, module, growth), growth


@pytest.mark.filterwarnings("ignore:.*IterableDataset.* has `__len__` defined")
@pytest.mark.parametrize("stop", ["middle of an epoch", "end of an epoch"])
@pytest.mark.parametrize("kind", LOADERS)
def test_growth_and_exact_resume_with_data_of_every_kind(kind, stop, tmp_path):
    every = 5 if stop == "middle of an epoch" else 8
    whole, growth = run_on(LOADERS[kind](), tmp_path / "whole", every=every)
    assert len(growth.journal) == 3
    loader = LOADERS[kind]()
    if isinstance(loader, Data):
        loader.again = 1
    (path,) = (tmp_path / "whole").glob(f"*step={every}.ckpt")
    assert differences(whole, run_on(loader, tmp_path / "parts", path, every=every)[0]) == []


@pytest.mark.parametrize("every", [6, 8], ids=["middle of an epoch", "end of an epoch"])
def test_loaders_that_are_made_anew_for_each_epoch(every, tmp_path):
    options = {"reload_dataloaders_every_n_epochs": 1}
    whole, growth = run_on(Data(), tmp_path / "whole", every=every, **options)
    assert steps(growth) == [4, 8, 12]
    loader = Data()
    loader.again = 1
    (path,) = (tmp_path / "whole").glob(f"*step={every}.ckpt")
    resumed, _ = run_on(loader, tmp_path / "parts", path, every=every, **options)
    assert differences(whole, resumed) == []


# ---------------------------------------------------------------- several optimizers, and one of a kind


class Adversarial(pl.LightningModule):
    """Two networks that play against each other, by hand: two steps in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.maker = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 6))
        self.judge = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x):
        return self.judge(self.maker(x))

    def training_step(self, batch, batch_idx):
        inputs, _ = batch
        for_maker, for_judge = self.optimizers()
        for optimizer, loss in (
            (for_judge, lambda: F.softplus(self.judge(self.maker(inputs).detach()) - self.judge(inputs)).mean()),
            (for_maker, lambda: F.softplus(-self(inputs)).mean()),
        ):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return torch.optim.Adam(self.maker.parameters(), lr=0.01), torch.optim.RMSprop(self.judge.parameters(), lr=0.01)


def adversaries(folder: Path, ckpt_path: Any = None, **when: int):
    module = make(Adversarial)
    growth = growing(
        # `forward` does not show that what the maker puts out and the data meet in the judge.
        *(Net2Net(0.3, noise=0.05, widths=["maker.0", "judge.0"]),),
        when=growkit.every(**when),
        loss=lambda module, batch: F.softplus(-module(batch[0])).mean(),
    )
    saver = ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1)
    run = fit(module, growth, saver, ckpt_path=ckpt_path, seed=2 if ckpt_path is None else 77)
    return outcome(run, module, growth), growth, run


def test_two_optimizers_by_hand_grow_at_every_multiple_of_steps_that_they_cross(tmp_path):
    whole, growth, run = adversaries(tmp_path / "whole", steps=3)
    assert run.global_step == 32
    assert steps(growth) == [4, 6, 10, 12, 16, 18, 22, 24, 28, 30]
    held = [{id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in run.optimizers]
    module = run.lightning_module
    assert held == [set(map(id, part.parameters())) for part in (module.maker, module.judge)]
    for step in (8, 10):
        (path,) = (tmp_path / "whole").glob(f"*step={step}.ckpt")
        assert differences(whole, adversaries(tmp_path / f"parts {step}", path, steps=3)[0]) == []


class Lbfgs(Net):
    def __init__(self) -> None:
        super().__init__()
        self.dropout.p = 0.0

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.2, max_iter=3, history_size=5)


def test_lbfgs_with_automatic_optimisation(tmp_path):
    def run(part: str, ckpt_path: Any = None):
        module, growth = make(Lbfgs), growing(splitting())
        saver = ModelCheckpoint(tmp_path / part, every_n_train_steps=6, save_top_k=-1)
        trained = fit(module, growth, saver, ckpt_path=ckpt_path, seed=2 if ckpt_path is None else 77)
        return outcome(trained, module, growth), growth

    whole, growth = run("whole")
    assert steps(growth) == [4, 8, 12]
    (path,) = (tmp_path / "whole").glob("*step=6.ckpt")
    assert differences(whole, run("parts", path)[0]) == []


def test_a_loss_that_is_not_finite_any_more_does_not_break_growth():
    """Growth goes on; whether training makes sense is for others to say."""

    class Explodes(Net):
        def loss(self, batch):
            return super().loss(batch) * (math.nan if self.training and self.global_step > 5 else 1.0)

    growth = growing(Proposes(widen("first", 0)))
    fit(make(Explodes), growth)
    assert steps(growth) == [4, 8, 12]


# ---------------------------------------------------------------- the loss that growth decides by


class Annealed(Validated):
    """A loss that depends on where training is."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout.p = 0.0

    def training_step(self, batch, batch_idx):
        weight = self.current_epoch / self.trainer.max_epochs + self.global_step
        loss = self.loss(batch) * 0 + weight
        self.log("weight", loss, prog_bar=True)
        if self.logger is not None:
            self.logger.log_metrics({"logged": loss.item()})
        return {"loss": loss}


def test_the_loss_knows_the_epoch_and_the_step_and_logs_nothing(tmp_path):
    seen = []

    def look(context):
        (batch,) = context.batches(1)
        seen.append(context.loss(batch).item())

    logger = CSVLogger(tmp_path)
    fit(make(Annealed), growing(Asks(look)), logger=logger, log_every_n_steps=1)
    assert seen == [1 / 4 + 4, 2 / 4 + 8, 3 / 4 + 12]
    lines = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    position = lines[0].split(",").index("logged")
    logged = [float(line.split(",")[position]) for line in lines[1:] if line.split(",")[position]]
    assert len(logged) == 16, "once a training step"


def test_a_training_step_of_a_copy_cannot_reach_the_optimizers():
    class Reaches(Net):
        def training_step(self, batch, batch_idx):
            self.optimizers()
            return self.loss(batch)

    with pytest.raises(growkit.SurgeryError, match=r"(?s)on a copy of the module.*trainer.strategy.*Growth\(loss="):
        fit(make(Reaches), growing(splitting()))
