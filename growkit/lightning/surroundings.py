"""What the training loop puts around a forward pass, and how growth steps out of it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import DoublePrecision, HalfPrecision

__all__ = ["drop_compiled", "restoring", "stepped_out"]


@contextmanager
def stepped_out(trainer: pl.Trainer) -> Iterator[None]:
    """Run growth in the number format of the weights, and without compilation.

    Under mixed precision the weights are in full precision, and so is what growth computes of them. True half and
    double precision set the default type, which the model may rely on.
    """
    device = trainer.strategy.root_device.type
    with (
        warnings.catch_warnings(),
        torch.compiler.set_stance("force_eager"),
        trainer.precision_plugin.forward_context(),
        torch.autocast(device, enabled=False),
    ):
        # Nothing is compiled here, so the hooks of a trace are called as they should be.
        warnings.filterwarnings("ignore", "Using `torch.compile\\(module\\)` when there are global hooks")
        yield


@contextmanager
def restoring(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Bring a module into the number format of training, and load a checkpoint into it.

    Lightning loads first and converts afterwards: weights in double precision would lose half of their digits, and the
    example of growth, which has the format of the batches, would not fit the module.
    """
    if isinstance(trainer.precision_plugin, (DoublePrecision, HalfPrecision)):
        trainer.precision_plugin.convert_module(module)
    with stepped_out(trainer):
        yield


def drop_compiled() -> bool:
    """Drop all compiled code after a change, and say whether there was any.

    The compiler would compile anew, too, but give up after a few times: from then on it runs the model uncompiled and
    says so in a log only.
    """
    # A module, a submodule, a method, a loss function, an optimizer: anything may have been compiled.
    frames = sys.modules.get("torch._dynamo.convert_frame")  # there only once something was
    compiled = frames is not None and bool(frames.FRAME_COMPILE_COUNTER)
    if compiled:
        torch.compiler.reset()
    return compiled
