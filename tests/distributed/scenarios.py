"""What several processes do together; run by `launch`, one process a rank."""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import growkit
from growkit.growth.ranks import checksum
from growkit_plugins.baselines import Net2Net, RandomUnits
from growkit_plugins.splitting import Splitting

RANK = int(os.environ.get("LOCAL_RANK", 0))
WIDEN = growkit.Candidate(growkit.Widen("net.0", [0]))


class Net(pl.LightningModule):
    """A perceptron without anything that differs between processes."""

    def __init__(self, optimizer: str = "adam", dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 4), nn.Softplus(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
        self.optimizer = optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, labels = batch
        return F.cross_entropy(self(inputs), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Busy(Net):
    """Draws random numbers in each step, other ones in each process, and keeps statistics of its own batches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6).double()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, labels = batch
        return F.cross_entropy(self(F.dropout(self.norm(inputs), 0.2)), labels)


def data(count: int, dtype: torch.dtype = torch.float64) -> TensorDataset:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return TensorDataset(inputs.to(dtype), (inputs[:, :3] + inputs[:, 3:].sin()).argmax(1))


def trainer_of(ranks: int, *callbacks: pl.Callback, strategy: Any = None, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy or (DDPStrategy() if ranks > 1 else "auto"),
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        **options,
    )


def outcome(module: nn.Module, trainer: pl.Trainer, growth: growkit.Growth) -> dict[str, Any]:
    return {
        "weights": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "optimizer": trainer.optimizers[0].state_dict(),
        "edits": growth.journal.edits,
        "step": trainer.global_step,
    }


# ------------------------------------------------------------------ the same as in one process


METHODS: dict[str, Callable[[], growkit.Plugin]] = {
    "splitting": lambda: Splitting(0.3, step=0.05, tolerance=0.0),
    "copies": lambda: Net2Net(0.3, noise=0.05),
    "new units": lambda: RandomUnits(0.3),
}


class Sums(growkit.Plugin):
    """Notes a checksum of the weights at the end of each event."""

    def __init__(self) -> None:
        self.sums: list[str] = []

    @growkit.hookimpl
    def growkit_grown(self, event: growkit.Event, model: nn.Module) -> None:
        self.sums.append(checksum(dict(model.named_parameters())))


def train(
    ranks: int, method: str, dtype: torch.dtype, optimizer: str = "adam", steps: int = 200, batch: int = 16
) -> dict[str, Any]:
    """Train for some steps with an event after every quarter of them, three in all."""
    torch.manual_seed(1)
    module, sums = Net(optimizer, dtype), Sums()
    growth = growkit.Growth([METHODS[method](), sums], when=growkit.every(steps=steps // 4))
    trainer = trainer_of(ranks, growth, max_steps=steps, use_distributed_sampler=False)
    samples = data(8 * batch, dtype)
    share = DistributedSampler(samples, ranks, RANK, shuffle=False)  # together, the batches of a single process
    trainer.fit(module, DataLoader(samples, batch_size=batch // ranks, sampler=share))
    return outcome(module, trainer, growth) | {"sums": sums.sums}


# ------------------------------------------------------------------ the wrapper

WRAPPERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "static graph": {"static_graph": True},
    "unused parameters": {"find_unused_parameters": True},
    "views": {"gradient_as_bucket_view": True},
    "small buckets": {"bucket_cap_mb": 1},
}
SETTINGS = ("static_graph", "find_unused_parameters", "gradient_as_bucket_view", "bucket_bytes_cap")


class Looks(pl.Callback):
    """Keeps track of the wrappers that there were."""

    def __init__(self) -> None:
        self.wrappers: list[Any] = []
        self.settings: list[dict[str, Any]] = []
        self.alive = 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not self.wrappers or self.wrappers[-1]() is not trainer.model:
            self.wrappers.append(weakref.ref(trainer.model))
            self.settings.append({name: getattr(trainer.model, name) for name in SETTINGS})
            self.alive = max(self.alive, sum(wrapper() is not None for wrapper in self.wrappers))


def wrappers(ranks: int) -> dict[str, Any]:
    """Train under every setting of the wrapper."""
    outcomes = {}
    for name, settings in WRAPPERS.items():
        torch.manual_seed(1)
        module, looks, growth = Net(), Looks(), growkit.Growth([Net2Net(0.3)], when=growkit.every(steps=3))
        trainer = trainer_of(ranks, growth, looks, strategy=DDPStrategy(**settings), max_steps=12)
        trainer.fit(module, DataLoader(data(64), batch_size=8))
        outcomes[name] = outcome(module, trainer, growth) | {"settings": looks.settings, "alive": looks.alive}
    return outcomes


# ------------------------------------------------------------------ faults


class Fails(growkit.Plugin):
    """Fails in one process, in one way, at the second event."""

    def __init__(self, how: str, rank: int) -> None:
        self.how, self.mine, self.turn = how, rank == RANK, 0

    def fails(self, how: str) -> bool:
        return self.turn == 2 and self.mine and self.how == how

    @growkit.hookimpl
    def growkit_propose(self, context: growkit.Context) -> list[growkit.Candidate]:
        self.turn += 1
        if self.fails("raises"):
            raise ZeroDivisionError("oh")
        if self.fails("proposes NaN"):
            return [growkit.Candidate(WIDEN.edit, gain=float("nan"))]
        if self.fails("proposes nonsense"):
            return [growkit.Candidate(growkit.Widen("net.9", [0]))]
        context.mean(torch.ones(3))
        if self.fails("raises between statistics"):
            raise ZeroDivisionError("oh")
        context.mean(torch.ones(2))
        return [WIDEN]

    @growkit.hookimpl
    def growkit_grown(self, event: growkit.Event, model: nn.Module) -> None:
        if self.fails("raises at the end"):
            raise ZeroDivisionError("oh")
        if self.fails("drifts"):
            with torch.no_grad():
                next(model.parameters()).mul_(1.001)


FAULTS = ["raises", "proposes NaN", "proposes nonsense", "raises between statistics", "raises at the end", "drifts"]


class Alternates(growkit.Schedule):
    """Depends on the process, as one would that looks at the clock; says so, or not."""

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared

    def due(self, moment: Any) -> bool:
        return bool(moment.step % 4 == 2 * (RANK if self.shared else RANK % 2) and moment.step)


def attempt(ranks: int, growth: growkit.Growth) -> dict[str, Any]:
    torch.manual_seed(1)
    module, trainer = Net(), trainer_of(ranks, growth, max_steps=12)
    try:
        trainer.fit(module, DataLoader(data(64), batch_size=8))
        error = None
    except growkit.GrowkitError as caught:
        error = caught
    steps = [entry.note["step"] for entry in growth.journal.entries]
    return outcome(module, trainer, growth) | {"error": error, "failures": growth.failures, "steps": steps}


def faults(ranks: int) -> dict[tuple[str, int, str], Any]:
    """Fail in the first process, and in the last, in every way; skip those events, or stop."""
    return {
        (how, rank, on_error): attempt(
            ranks, growkit.Growth([Fails(how, rank)], when=growkit.every(steps=3), on_error=on_error)
        )
        for how in FAULTS
        for rank in (0, ranks - 1)
        for on_error in ("raise", "skip")
    }


def schedules(ranks: int) -> dict[str, Any]:
    """Ask a schedule that each process answers differently."""
    return attempt(ranks, growkit.Growth([Net2Net(0.3)], when=Alternates(shared=False)))


# ------------------------------------------------------------------ the rest of a run


def resume(ranks: int, saved: str) -> dict[str, Any]:
    """Train with averages of the weights, whole and from a file in the middle of an epoch."""
    outcomes = {}
    for part, path in (("whole", None), ("rest", f"{saved}/step=10.ckpt")):
        torch.manual_seed(1)
        module = Busy()
        torch.manual_seed(3 + RANK if path is None else 77 + RANK)  # as different as processes may be
        growth, average = growkit.Growth([Net2Net(0.3, noise=0.1)], when=growkit.every(steps=3)), EMAWeightAveraging()
        saver = ModelCheckpoint(saved, "{step}", every_n_train_steps=5, save_top_k=-1)
        trainer = trainer_of(ranks, growth, average, saver, max_epochs=3)
        trainer.fit(module, DataLoader(data(96), batch_size=8), ckpt_path=path)
        outcomes[part] = outcome(module, trainer, growth)
        outcomes[part]["random"] = torch.get_rng_state()
    return outcomes


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    name, size, place = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    arguments = torch.load(place / "options.pt", weights_only=False)
    torch.save(globals()[name](size, **arguments), place / f"result-{RANK}.pt")
