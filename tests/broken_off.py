"""Break a fit off in the middle of an epoch, resume it, and see which batches came."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

import growkit


class _Witness(pl.LightningModule):
    """Keeps the batches it is trained on, and draws random numbers as dropout would."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[Tensor]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.weight

    def training_step(self, batch: Any) -> Tensor:
        self.seen.append([tensor.clone() for tensor in batch])
        return self.weight * torch.rand(())

    def validation_step(self, batch: Any) -> None:
        torch.rand(3)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class _BrokenOffError(Exception):
    """The end of the first part."""


class _Stop(pl.Callback):
    """Saves a checkpoint after so many steps, and trains no more."""

    def __init__(self, file: Path, step: int) -> None:
        self.file, self.step = file, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)
            raise _BrokenOffError


def _fit(data: pl.LightningDataModule, seed: int, file: Path | None, *callbacks: pl.Callback) -> list[list[Tensor]]:
    torch.manual_seed(seed)
    module = _Witness()
    growth = growkit.Growth(plugins=[], when=growkit.every(epochs=1000))
    trainer = pl.Trainer(
        callbacks=[growth, *callbacks],
        max_epochs=2,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with suppress(_BrokenOffError):
        trainer.fit(module, data, ckpt_path=file)
    return module.seen


def batches_of_two_fits(
    make: Callable[[], pl.LightningDataModule], folder: Path, *, stop: int
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Return the training batches of a whole fit of two epochs, and of one that was broken off and resumed."""
    whole = _fit(make(), 0, None)
    first = _fit(make(), 0, None, _Stop(folder / "saved.ckpt", stop))
    rest = _fit(make(), 77, folder / "saved.ckpt")
    return whole, first + rest


def assert_equal(one: list[list[Tensor]], other: list[list[Tensor]]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
