"""What a checkpoint leaves out of a step under way, and how a resumed run catches up with it.

Lightning saves checkpoints in the middle of its loop: after a batch, but before the validation that is due then, or
before the schedulers that wait for a metric. A resumed run skips both, and gradients that were being accumulated are
gone. `under_way` notes them; `rewind` and `catch_up` see to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

from growkit.lightning.override import override

__all__ = ["Phases", "Scalars", "catch_up", "restore_scalars", "rewind", "scalars_of", "under_way"]

Scalars = list[dict[int, dict[str, Tensor]]]
Phase = Literal["", "batch", "validation", "epoch end"]


class Phases(pl.Callback):
    """Knows in which phase of the training loop it is."""

    phase: Phase = ""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that an epoch begins."""
        self.phase = ""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that a batch begins."""
        self.phase = "batch"

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that a validation begins, unless it is the sanity check before training."""
        self.phase = "validation" if self.phase else ""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that an epoch ends."""
        self.phase = "epoch end"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that training ends."""
        self.phase = ""


def under_way(trainer: pl.Trainer | None, phase: Phase) -> dict[str, Any]:
    """Return what is still to come of the current step and epoch: plain data and tensors.

    Args:
        trainer: of which a checkpoint is being saved; None before there is one.
        phase: of its loop: after a batch has begun, a validation, the end of an epoch, or none of them.
    """
    if trainer is None or not phase or trainer.fit_loop._data_fetcher is None:
        return {"metrics": {}, "gradients": {}, "pending": {}}
    loop = trainer.fit_loop.epoch_loop
    accumulating, manual = loop._should_accumulate(), not trainer.lightning_module.automatic_optimization
    return {
        "metrics": {name: value.detach().cpu().clone() for name, value in trainer.callback_metrics.items()},
        "gradients": _gradients(trainer.lightning_module) if accumulating or manual else {},
        "pending": {
            "epoch": trainer.current_epoch,
            "batch": loop.batch_idx,
            "validation": phase == "batch" and loop._should_check_val_fx(trainer.fit_loop._data_fetcher),
            "step": phase == "batch" and not accumulating,
            "last": loop.batch_progress.is_last_batch and phase != "validation",
        },
    }


def _gradients(module: pl.LightningModule) -> dict[str, Tensor]:
    return {name: p.grad.detach().clone() for name, p in module.named_parameters() if p.grad is not None}


def rewind(checkpoint: dict[str, Any], pending: dict[str, Any]) -> None:
    """Let Lightning do what was due when a checkpoint was saved.

    A validation is taken for one that was broken off; where there is none, the epoch is ended.
    """
    if not pending.get("validation") and not _is_epoch_over(pending):
        return
    progress = checkpoint["loops"]["fit_loop"]
    for span in ("total", "current"):
        batches = progress["epoch_loop.batch_progress"][span]
        batches["completed"] = batches["processed"]
        if not pending["validation"]:
            continue
        validated = progress["epoch_loop.val_loop.batch_progress"][span]
        done = validated["completed"] if span == "total" else 0
        validated.update(ready=done + 1, started=done + 1, processed=done, completed=done)


def catch_up(trainer: pl.Trainer, state: dict[str, Any]) -> None:
    """Do at the start of a resumed fit what was under way: metrics, gradients, schedulers that watch a metric."""
    device = trainer.strategy.root_device
    trainer.callback_metrics.update({name: value.to(device) for name, value in state["metrics"].items()})
    parameters = dict(trainer.lightning_module.named_parameters())
    for name, gradient in state["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name])
    # With this flag Lightning leaves out the schedulers that watch a metric, since it does not save metrics.
    trainer.fit_loop._restarting = False
    pending = state["pending"]
    if pending and not pending["validation"]:
        if pending["step"]:
            _step_watchers(trainer, "step", pending["batch"])
        if _is_epoch_over(pending):
            _end_epoch(trainer.fit_loop.epoch_loop)
        elif pending["last"]:
            _step_watchers(trainer, "epoch", pending["epoch"])
            # The next epoch begins like any other: it asks for an iterator of its own.
            trainer.fit_loop._resuming_from_checkpoint = False


def _is_epoch_over(pending: dict[str, Any]) -> bool:
    """Say whether nothing was left to do but to end the epoch: its last batch was done, and its end has not begun."""
    return bool(pending and pending["last"] and pending["step"] and not pending["validation"])


def _end_epoch(loop: Any) -> None:
    """Let the loop over the batches of an epoch find none left, the first time; what ends an epoch comes after it."""

    def run(data_fetcher: Any) -> None:
        put_back()
        loop._batches_that_stepped += 1
        loop.on_iteration_done()

    put_back = override(loop, run=run)


def _step_watchers(trainer: pl.Trainer, interval: str, index: int) -> None:
    """Step the schedulers that watch a metric, at the end of a step or an epoch."""
    module = trainer.lightning_module
    for config in trainer.lr_scheduler_configs if module.automatic_optimization else ():
        due = config.reduce_on_plateau and config.interval == interval and (index + 1) % config.frequency == 0
        if due and config.monitor in trainer.callback_metrics:
            module.lr_scheduler_step(config.scheduler, trainer.callback_metrics[config.monitor])


def scalars_of(checkpoint: dict[str, Any]) -> Scalars:
    """Return the scalar tensors in the optimizer states of a checkpoint, by the place of the parameter."""
    return [
        {
            place: {key: value for key, value in entries.items() if isinstance(value, Tensor) and value.dim() == 0}
            for place, entries in state["state"].items()
        }
        for state in checkpoint.get("optimizer_states", ())
    ]


def restore_scalars(optimizers: Sequence[Optimizer], scalars: Scalars) -> None:
    """Give scalars in optimizer states their number format back.

    As torch loads them it casts all but step counts to the type of the parameter: NAdam's product of momenta, say.
    """
    for optimizer, saved in zip(optimizers, scalars, strict=False):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for place, entries in saved.items():
            state = optimizer.state[parameters[place]]
            for key, value in entries.items():
                if isinstance(state.get(key), Tensor) and state[key].dtype != value.dtype:
                    state[key] = value.to(state[key].device)
