"""A growth event in the middle of training: the model grows, and all that trains it follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim import Optimizer

from growkit.growth import Budget, Context, Event, Ranks, Rewarm, Watch, grow, rewarm_after
from growkit.lightning.averages import copies_of, follow_change
from growkit.lightning.batches import statistics_batches
from growkit.lightning.checkpoint import note_journal
from growkit.lightning.loss import training_loss
from growkit.lightning.parallel import rewrap
from growkit.lightning.rates import Rates, schedulers_of
from growkit.plugins import Plugins
from growkit.structure import Structure
from growkit.structure.forward import Example
from growkit.surgery import Journal

__all__ = ["context_of", "grow_in_training", "summary"]

Loss = Callable[[nn.Module, Any], Tensor]


def context_of(  # noqa: PLR0913 (what is known of the moment)
    trainer: pl.Trainer,
    batch: Any,
    structure: Structure,
    journal: Journal,
    *,
    example: Example,
    ranks: Ranks,
    loss: Loss | None,
    seed: int,
) -> Context:
    """Return what plugins may look at before a batch.

    Args:
        trainer: in the middle of a fit.
        batch: the coming one, on its device.
        structure: of the module.
        journal: of the edits so far.
        example: inputs of the trace and the probe, on the device of the module.
        ranks: the processes of the run.
        loss: see `Growth`; None for what `training_step` returns.
        seed: of this run's growth.
    """
    seed = seed * 1_000_003 + trainer.global_step
    return Context(
        structure,
        journal,
        example=example,
        step=trainer.global_step,
        epoch=trainer.current_epoch,
        seed=seed,
        loss=loss or partial(training_loss, trainer),
        batches=lambda count: statistics_batches(trainer, batch, seed, count),
        ranks=ranks,
    )


def grow_in_training(
    trainer: pl.Trainer, context: Context, plugins: Plugins, budget: Budget, rates: Rates, rewarm: Rewarm | None
) -> Event | None:
    """Grow the module of a trainer; optimizers, averages, wrappers and learning rates follow.

    Args:
        trainer: in the middle of a fit.
        context: of this moment.
        plugins: who proposes and selects.
        budget: limits on the size of the model.
        rates: of the fit.
        rewarm: what they do after the event if no plugin says so.

    Returns:
        The event; None if nothing grew.

    Raises:
        GrowkitError: the event failed, and everything is as it was before.
    """
    module, optimizers = trainer.lightning_module, _optimizers(trainer)
    chosen: list[Rewarm | None] = []
    with ExitStack() as taken_back:

        def follow(event: Event) -> None:
            answer = rewarm_after(event, plugins, rewarm, Watch(module, optimizers))
            chosen.append(context.ranks.first("how rates warm up", answer))
            taken_back.callback(follow_change(trainer, module, event.change))
            if chosen[0] is not None and chosen[0].restart:
                taken_back.callback(rates.restart(schedulers_of(trainer)))

        event = grow(context, plugins, budget, optimizers=optimizers, follow=follow)
        taken_back.pop_all()
    if event is None:
        return None
    for each in (module, *copies_of(trainer, module)):
        note_journal(each, context.journal)
    rewrap(trainer)
    if chosen[0] is not None:
        rates.warm_up(chosen[0])
    return event


def _optimizers(trainer: pl.Trainer) -> list[Optimizer]:
    """Return the optimizers of a trainer, and those that its module keeps to itself."""
    attributes = (value for module in trainer.lightning_module.modules() for value in vars(module).values())
    held = [value for value in attributes if isinstance(value, Optimizer)]
    return list({id(optimizer): optimizer for optimizer in (*trainer.optimizers, *held)}.values())


def summary(event: Event) -> str:
    """Describe an event in one line."""
    before, after = event.note["before"], event.note["after"]
    widths = [
        f"{name} {before['widths'].get(name)} -> {size}"
        for name, size in after["widths"].items()
        if before["widths"].get(name) != size
    ]
    return (
        f"step {event.note['step']}: {', '.join(event.note['plugins'])} grew {', '.join(widths) or 'the model'}; "
        f"{before['parameters']:,} -> {after['parameters']:,} parameters; {_loss(event.note)}"
    )


def _loss(note: Mapping[str, Any]) -> str:
    """Describe what an event did to the loss, and what was predicted."""
    if note["loss"] is None:
        return f"predicted gain {note['gain']:.3g}"
    before, after = float(note["loss"]["before"]), float(note["loss"]["after"])
    return f"loss {before:.5g} -> {after:.5g}, a gain of {before - after:.3g}; predicted {note['gain']:.3g}"
