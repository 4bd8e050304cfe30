"""A small Lightning module, data and trainers without side effects; and what it means that two runs are equal."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import growkit

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1, amsgrad=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.005, momentum=0.5, centered=True),
}


class Net(pl.LightningModule):
    """Widths "first" and "second"; with a batch norm and dropout, so that buffers and random draws matter."""

    def __init__(
        self, optimizer: str = "sgd", scheduler: Callable[..., Any] | None = None, interval: str = "epoch"
    ) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.2)
        self.second = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)
        self.make_optimizer, self.make_scheduler, self.interval = OPTIMIZERS[optimizer], scheduler, interval

    def forward(self, x):
        hidden = self.dropout(F.softplus(self.norm(self.first(x))))
        return self.last(self.second(hidden).tanh())

    def loss(self, batch) -> Tensor:
        inputs, labels = batch
        return F.cross_entropy(self(inputs), labels)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        config = {"scheduler": self.make_scheduler(optimizer), "interval": self.interval, "monitor": "val_loss"}
        return {"optimizer": optimizer, "lr_scheduler": config}


class Validated(Net):
    """Logs "val_loss" too, and can be tested and asked."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self(batch[0])


def make(kind: type[Net] = Net, *arguments: Any, seed: int = 1, **options: Any) -> Net:
    """Return a fresh module; the same one for the same seed."""
    torch.manual_seed(seed)
    return kind(*arguments, **options)


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def samples(count: int = 32) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 6, generator=generator)
    return TensorDataset(inputs, inputs[:, :3].argmax(1))


def batches(shuffle: bool = True, count: int = 32, size: int = 8) -> DataLoader:
    """Four batches an epoch."""
    return DataLoader(samples(count), batch_size=size, shuffle=shuffle)


def trainer(*callbacks: pl.Callback, epochs: int = 4, folder: Any = None, **options: Any) -> pl.Trainer:
    options.setdefault("enable_checkpointing", any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in callbacks))
    return pl.Trainer(
        accelerator=options.pop("accelerator", "cpu"),
        logger=options.pop("logger", False),
        enable_progress_bar=options.pop("enable_progress_bar", False),
        enable_model_summary=False,
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **options,
    )


def fit(module: Net, *callbacks: pl.Callback, seed: int = 2, ckpt_path: Any = None, **options: Any) -> pl.Trainer:
    """Fit (and validate) on the standard data from a seed of its own, and return the trainer."""
    loader = options.pop("loader", None)
    seed_all(seed)
    run = trainer(*callbacks, **options)
    run.fit(
        module,
        batches() if loader is None else loader,
        batches(False) if isinstance(module, Validated) else None,
        ckpt_path=ckpt_path,
    )
    return run


def growing(*plugins: growkit.Plugin, when: growkit.Schedule | None = None, **options: Any) -> growkit.Growth:
    return growkit.Growth(plugins, when=when or growkit.every(epochs=1), **options)


def plain(value: Any) -> Any:
    """Nested state with bytes in place of tensors, so that == compares bit for bit."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), _bytes(value)
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(entry) for entry in value]
    return value


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def outcome(run: pl.Trainer, module: Net, growth: growkit.Growth) -> dict[str, Any]:
    """Everything that must not depend on whether a run was interrupted."""
    return {
        "step": (run.global_step, run.current_epoch),
        "weights": plain(module.state_dict()),
        "optimizers": [plain(optimizer.state_dict()) for optimizer in run.optimizers],
        "schedulers": [plain(config.scheduler.state_dict()) for config in run.lr_scheduler_configs],
        "journal": growth.journal.to_json(),
        "random": [plain(torch.get_rng_state()), np.random.get_state()[1].tobytes(), random.getstate()],
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in one if one[key] != other[key]]
