"""The loss that growth decides by: what the user's `training_step` returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from growkit.errors import SurgeryError
from growkit.lightning.override import override

__all__ = ["training_loss"]

_OUT_OF_REACH = {"strategy", "optimizers", "lr_scheduler_configs"}


def training_loss(trainer: pl.Trainer, model: nn.Module, batch: Any) -> Tensor:
    """Return the training loss of a copy of the user's module on a batch.

    Args:
        trainer: of the module; its step and epoch may have a part in the loss.
        model: the copy.
        batch: on its device.

    Raises:
        SurgeryError: its `training_step` returns none.
    """
    assert isinstance(model, pl.LightningModule)
    arguments = (batch, 0, 0)[: len(signature(model.training_step).parameters)]
    with _looking_on(trainer, model):
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


@contextmanager
def _looking_on(trainer: pl.Trainer, model: pl.LightningModule) -> Iterator[None]:
    """Let a copy of the module see the trainer; what it logs goes nowhere."""
    put_back = override(model, log=_nothing, log_dict=_nothing)
    model.trainer = _Onlooker(trainer)  # type: ignore[assignment]
    try:
        yield
    finally:
        model.trainer = None
        put_back()


def _nothing(*_: Any, **__: Any) -> None:
    pass


class _Onlooker:
    """The trainer as something that is not trained sees it."""

    logger = None
    loggers: tuple[()] = ()

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer

    def __getattr__(self, name: str) -> Any:
        if name in _OUT_OF_REACH:
            raise SurgeryError(
                "training_step needs more than growth can give it: it is called on a copy of the module",
                seen=f"a look at trainer.{name}, as manual optimization takes it",
                expected="a loss that follows from the module and the batch",
                advice="pass Growth(loss=function of a module and a batch)",
            )
        return getattr(self._trainer, name)
