"""Training programs to interrupt: a module that draws from everywhere, trained to the end."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from choices import LOADERS, METHODS, OPTIMIZERS, REWARMS, SAVING, SCHEDULERS, SCHEDULES, VALIDATIONS, Samples
from fates import After, Before, Fate, Within
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

import growkit


@dataclass(frozen=True)
class Program:
    """A training run. The values of most fields are keys of tables in `choices`.

    Attributes:
        seed: of growth.
        epochs: how many, of four batches each.
        sabotage: a part of resuming that is left out, see `SABOTAGE`.
    """

    optimizer: str = "Adam"
    scheduler: str = "none"
    precision: str = "32-true"
    accumulate: int = 1
    method: str = "copies"
    when: str = "steps"
    loader: str = "shuffle"
    validation: str = "none"
    saving: str = "steps"
    rewarm: str = "none"
    seed: int = 0
    epochs: int = 6
    sabotage: str = ""

    def __str__(self) -> str:
        return ", ".join(str(value) for value in list(vars(self).values())[:10])


# ------------------------------------------------------------------ the module


class Net(pl.LightningModule):
    """Widths "first" and "body.0"; batch norm, dropout, and draws from every global generator at every occasion."""

    def __init__(self, program: Program, fate: Fate) -> None:
        super().__init__()
        self.first, self.norm, self.dropout = nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.2)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.last = nn.Linear(4, 3)
        self.program, self.fate = program, fate

    def forward(self, x):
        return self.last(self.body(self.dropout(F.softplus(self.norm(self.first(x))))))

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        noise = torch.randn_like(inputs) * np.random.rand() + random.random()
        outputs = self((inputs + 0.1 * noise).to(inputs.dtype))
        self.fate.reached("a step computes")
        loss = F.cross_entropy(outputs, labels)
        self.log("train_loss", loss)
        if self.program.scheduler == "plateau of the mean loss":
            self.log("mean_loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_start(self):
        torch.rand(1)

    def on_train_epoch_end(self):
        torch.rand(1)

    def configure_optimizers(self):
        optimizer = OPTIMIZERS[self.program.optimizer](self.parameters())
        make, interval, monitor = SCHEDULERS[self.program.scheduler]
        if make is None:
            return optimizer
        config = {"scheduler": make(optimizer), "interval": interval, "monitor": monitor, "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": config}


class Validated(Net):
    """Besides "val_loss", it logs a "score" that never gets any better."""

    def validation_step(self, batch, batch_idx):
        self.fate.reached("a validation computes")
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def on_validation_epoch_end(self):
        self.log("score", 1.0)


# ------------------------------------------------------------------ running one


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def run(program: Program, folder: Path, ckpt_path: str | None, fate: Fate) -> dict[str, str]:
    """Train to the end, and return the picture of everything that must not depend on interruptions."""
    torch.manual_seed(1)
    module = (Net if program.validation == "none" else Validated)(program, fate)
    growth = growkit.Growth(
        [METHODS[program.method](), Within(fate)],
        SCHEDULES[program.when](),
        seed=program.seed,
        rewarm=REWARMS[program.rewarm],
    )
    savers = [ModelCheckpoint(folder, **options) for options in SAVING[program.saving]]
    # Another process brings random numbers from somewhere else.
    seed_all(2 if ckpt_path is None else 77)
    loader = LOADERS[program.loader]()
    trainer = pl.Trainer(
        accelerator="cpu",
        precision=program.precision,
        max_epochs=program.epochs,
        accumulate_grad_batches=program.accumulate,
        callbacks=[Before(fate), growth, After(fate, growth), *savers],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **VALIDATIONS[program.validation],
    )
    trainer.fit(module, loader, DataLoader(Samples(), 16), ckpt_path=ckpt_path)
    return dict(pictures(state(trainer, module, growth, loader), ""))


def state(trainer: pl.Trainer, module: Net, growth: growkit.Growth, loader: DataLoader) -> dict[str, Any]:
    return {
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "finite": all(bool(parameter.isfinite().all()) for parameter in module.parameters()),
        "events": len(growth.journal),
        "weights": module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "growth": {"journal": growth.journal.to_json(), "schedule": growth.when.state_dict()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
        "loader": [] if loader.generator is None else loader.generator.get_state(),
    }


def pictures(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield the name and a text of every leaf of nested state; equal texts for equal bits."""
    if isinstance(value, Mapping):
        value = {str(key): entry for key, entry in value.items()}
    elif isinstance(value, (list, tuple)) and len(value) < 100:
        value = {str(index): entry for index, entry in enumerate(value)}
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from pictures(entry, f"{name}.{key}" if name else key)
    elif isinstance(value, (Tensor, np.ndarray)):
        data = torch.as_tensor(value).detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        yield name, f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data.tobytes()).hexdigest()}"
    else:
        yield name, repr(value)
