"""The Lightning task: train any network to predict numbers, with the mean squared error."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from growkit_plugins.common import Task

__all__ = ["Regressor"]


class Regressor(Task):
    """Trains a network to predict numbers, and logs the mean squared error as `{train,val,test}_loss`.

    The network maps inputs to outputs of the shape of the targets; batches are inputs and targets. Its arguments are
    those of `Task`.
    """

    def measure(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the mean squared error, a scalar."""
        inputs, targets = batch
        return {"loss": F.mse_loss(self(inputs), targets)}
