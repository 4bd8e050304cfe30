"""The Lightning task: train any network to classify, with cross entropy."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

__all__ = ["Classifier"]


class Classifier(pl.LightningModule):
    """Trains a network to classify, and logs `{train,val,test}_loss` and `{train,val,test}_accuracy`.

    Losses are cross entropies in nats, accuracies lie in [0, 1]; both are means over the images of one epoch.
    The steps also work on a copy that no trainer drives; they log nothing there.

    Args:
        network: maps a batch of images to logits (N, classes).
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

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, classes) of a batch of images."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss, a scalar, of `batch`: images and their integer labels (N,)."""
        return self._step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss, a scalar, of `batch`: images and their integer labels (N,)."""
        return self._step("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss, a scalar, of `batch`: images and their integer labels (N,)."""
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
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        if self._is_attached():
            metrics = {
                f"{stage}_loss": loss.detach(),
                f"{stage}_accuracy": multiclass_accuracy(logits, labels, logits.shape[1], average="micro"),
            }
            self.log_dict(metrics, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(labels), sync_dist=True)
        return loss

    def _is_attached(self) -> bool:
        try:
            return self.trainer is not None
        except RuntimeError:  # Lightning's way to say that there is no trainer
            return False
