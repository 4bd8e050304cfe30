"""The loss that growth decides by: what the user's `training_step` returns."""

from __future__ import annotations

import warnings
from inspect import signature
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from growkit.errors import SurgeryError

__all__ = ["training_loss"]


def training_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the training loss of a copy of the user's module on a batch.

    Raises:
        SurgeryError: its `training_step` returns none.
    """
    assert isinstance(model, pl.LightningModule)
    arguments = (batch, 0, 0)[: len(signature(model.training_step).parameters)]
    with warnings.catch_warnings():
        # A copy without a trainer cannot log, and need not.
        warnings.filterwarnings("ignore", ".*self.trainer.*reference is not registered")
        output = model.training_step(*arguments)
    loss = output["loss"] if isinstance(output, dict) else output
    if not isinstance(loss, Tensor):
        raise SurgeryError(
            f"{type(model).__name__}.training_step gave growth no loss",
            seen=f"a {type(output).__name__}",
            expected='a scalar tensor, or a dict with one under "loss"',
            advice="pass Growth(loss=function of a module and a batch)",
        )
    return loss
