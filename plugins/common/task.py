"""The Lightning task: train any network on one loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

__all__ = ["Task"]


class Task(pl.LightningModule, ABC):
    """Trains a network on one loss, and logs `{train,val,test}_loss` and whatever else it measures.

    What is logged are means over the examples of one epoch. The steps also work on a copy that no trainer drives;
    they log nothing there.

    Args:
        network: maps the first entry of a batch to an output.
        optimizer: makes the optimizer from the parameters.
        scheduler: makes the learning-rate scheduler from the optimizer; it steps once an epoch, and one that
            waits for a plateau watches its own `monitor`, else `val_loss`. None: a constant learning rate.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self._make_optimizer = optimizer
        self._make_scheduler = scheduler

    @abstractmethod
    def measure(self, batch: Any) -> dict[str, Tensor]:
        """Return scalars, each a mean over the examples of `batch`; "loss" is what training descends."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output of the network."""
        output: Tensor = self.network(inputs)
        return output

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss, a scalar, of `batch`: inputs and targets."""
        return self._step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss, a scalar, of `batch`: inputs and targets."""
        return self._step("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss, a scalar, of `batch`: inputs and targets."""
        return self._step("test", batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer over all parameters, with its scheduler where there is one."""
        optimizer = self._make_optimizer(self.parameters())
        if self._make_scheduler is None:
            return optimizer
        scheduler = self._make_scheduler(optimizer)
        monitor = getattr(scheduler, "monitor", "val_loss")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}

    def _step(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        measured = self.measure(batch)
        if self._is_attached():
            metrics = {f"{stage}_{name}": value.detach() for name, value in measured.items()}
            size = len(batch[0])
            self.log_dict(metrics, on_step=False, on_epoch=True, prog_bar=True, batch_size=size, sync_dist=True)
        return measured["loss"]

    def _is_attached(self) -> bool:
        try:
            return self.trainer is not None
        except RuntimeError:  # Lightning's way to say that there is no trainer
            return False
