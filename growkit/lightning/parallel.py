"""Data-parallel training: which strategies growth follows, and what it does to their wrappers."""

from __future__ import annotations

import gc

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_warn
from torch.nn.parallel import DistributedDataParallel

from growkit.errors import GrowkitError
from growkit.growth import Ranks
from growkit.lightning.override import override

__all__ = ["keep_weights", "ranks_of", "refuse_sharding", "refuse_strategy", "rewrap"]


def refuse_strategy(trainer: pl.Trainer) -> None:
    """Refuse ways of training that growth cannot follow.

    Raises:
        GrowkitError: the strategy is none of a single device and DDP, or the result would be lost.
    """
    if _returns_weights(trainer) and trainer.checkpoint_callback is None:
        raise GrowkitError(
            "growth in spawned processes needs checkpoints",
            seen="a start method with which Lightning hands weights back to the "
            "first process at the end, into a module that has not grown; and no ModelCheckpoint",
            expected="a ModelCheckpoint among the callbacks, or strategy='ddp'",
            advice="growkit.load(path, module) gives the grown module after the fit",
        )
    strategy = type(trainer.strategy).__name__
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise GrowkitError(
            f"growth cannot follow the strategy {strategy}",
            seen="parameters that are sharded over devices, or moved by an engine of their own: of a parameter that "
            "growth replaces, FSDP goes on with the old shards, and says nothing",
            expected="one device, or strategy='ddp' in one of its variants, where each process has the whole model",
            advice="grow with DDP; train the grown model, from growkit.load, sharded afterwards",
        )


def refuse_sharding(trainer: pl.Trainer) -> None:
    """Refuse optimizers that keep their state in pieces.

    Raises:
        GrowkitError: there is one.
    """
    for optimizer in trainer.optimizers:
        # Known by name: importing it compiles code that nobody needs.
        if any(kind.__name__ == "ZeroRedundancyOptimizer" for kind in type(optimizer).__mro__):
            raise GrowkitError(
                f"growth cannot follow the optimizer {type(optimizer).__name__}",
                seen="state of which each process holds a part, chosen by the sizes of the parameters",
                expected="an optimizer that holds its whole state in each process",
                advice="use the optimizer that it wraps",
            )


def _returns_weights(trainer: pl.Trainer) -> bool:
    """Say whether weights go back to the process that started this one."""
    return isinstance(trainer.strategy, DDPStrategy) and trainer.strategy._start_method != "popen"


def keep_weights(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Let a spawned process that ends send no weights of a grown module, which would not fit where they go."""
    if _returns_weights(trainer):
        override(module, state_dict=lambda *_, **__: {})
        rank_zero_warn(
            "the module in the process that called fit has not grown: growkit.load(trainer.checkpoint_callback."
            "best_model_path, module) gives it structure and weights"
        )


def ranks_of(trainer: pl.Trainer) -> Ranks:
    """Return the processes of a run. Every process calls this once, in `setup`."""
    if trainer.world_size == 1:
        return Ranks()
    # Decisions are exchanged as CPU tensors, whatever carries the gradients.
    return Ranks(dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo"))


def rewrap(trainer: pl.Trainer) -> None:
    """Wrap the module anew after its parameters were exchanged, with the settings and hooks of the strategy.

    A wrapper knows the parameters that there were when it was made: it would go on averaging the gradients of the
    replaced ones, and the processes would drift apart without a word.
    """
    strategy = trainer.strategy
    if not isinstance(strategy.model, DistributedDataParallel):
        return
    assert isinstance(strategy, DDPStrategy)
    strategy.model = strategy.lightning_module
    gc.collect()  # the old wrapper is part of a cycle, and its hooks on unchanged parameters go only with it
    strategy.configure_ddp()
    strategy._pl_static_graph_delay_done = False  # of the new wrapper
