"""`Growth`: the Lightning callback that makes architecture something that training optimises."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from inspect import signature
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from growkit import randomness
from growkit.errors import CheckpointError, GrowkitError, RecipeError, SurgeryError
from growkit.growth import Budget, Context, Event, Moment, Schedule, every, grow
from growkit.lightning.batches import example_of, statistics_batches, to_device
from growkit.lightning.checkpoint import (
    STATE_KEY,
    follow_checkpoints,
    journal_of,
    layout_of,
    note_journal,
    pack,
    restore_layout,
    unpack,
)
from growkit.lightning.loaders import follow_loaders
from growkit.lightning.resume import Phase, catch_up, rewind, under_way
from growkit.plugins import Plugin, Plugins
from growkit.structure import trace_example
from growkit.structure.forward import Example
from growkit.surgery import Journal

__all__ = ["Growth"]

_log = logging.getLogger(__name__)


class Growth(pl.Callback):
    """Grows the model while it trains; optimizer, schedules and checkpoints follow.

    Growth events happen just before a training batch with which an optimizer step begins. The user's module needs no
    base class; its `training_step` must return the loss (or a dict with it under "loss").

    Args:
        plugins: who proposes what to grow, in order of call. Installed plugins join them.
        when: when to grow, such as `growkit.every(epochs=5)`.
        budget: limits on the size of the model.
        example: makes the inputs of `forward` from a training batch, a tuple of positional or a dict of keyword
            inputs. Default: `example_input_array`, else the first two entries of the first tensor of the batch.
        loss: maps a copy of the module and a batch to the scalar training loss. Default: `training_step`.
        seed: of all random draws of growth.

    Attributes:
        journal: every edit so far.
        events: the growth events of this process, oldest first.

    Cost: nothing measurable while no growth is due; see `benchmarks/` for the cost of an event.
    """

    def __init__(
        self,
        plugins: Sequence[Plugin] = (),
        when: Schedule | None = None,
        budget: Budget | None = None,
        example: Callable[[Any], Example] | None = None,
        loss: Callable[[nn.Module, Any], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        self.when = when or every(epochs=1)
        self.budget = budget or Budget()
        self.journal = Journal()
        self.events: list[Event] = []
        self.plugins = Plugins(plugins)
        self._make_example, self._loss, self._seed = example, loss, seed
        self._example: Example | None = None
        self._grown_at = -1
        self._phase: Phase = ""
        self._loaded: dict[str, Any] | None = None
        self._loader_states: list[dict[str, Any]] = []
        self._trainer: pl.Trainer | None = None
        self._undo = ExitStack()  # of what is changed in the module and the trainer for the time of a run

    @property
    def state_key(self) -> str:
        """The key under which checkpoints hold the state of growth."""
        return STATE_KEY

    @property
    def example(self) -> Example | None:
        """The inputs on which the model is traced and probed, on the CPU; None before the first batch."""
        return self._example

    # ------------------------------------------------------------- when Lightning calls

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what growth cannot follow yet, and have the structure ready before weights load."""
        if trainer.world_size > 1:
            raise _unsupported(f"{trainer.world_size} processes", "one process", "train on one device")
        if getattr(pl_module, "_compiler_ctx", None) is not None:
            raise _unsupported("a compiled module", "an eager module", "compile after growth")
        self._forget()
        self._trainer = trainer
        self.journal = journal_of(pl_module)
        self._undo.callback(follow_checkpoints(pl_module, self.state_dict))
        if stage == "fit":
            self._undo.callback(follow_loaders(trainer, self._loader_states))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module as it was found."""
        self._forget()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the module as it was found; Lightning runs no teardown after a failure."""
        # The trainer stays known: a checkpoint may be saved because of the failure, after this hook.
        self._unhook()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the random state and the optimizer layout of the interrupted run."""
        # Any later is too late: the training loader's iterator draws its seed before on_train_start, and the state of
        # the optimizers is loaded right after this hook.
        if self._loaded is not None:
            randomness.restore(self._loaded["random_state"])
            restore_layout(self._loaded["layout"], pl_module, trainer.optimizers)
        else:
            self._grown_at = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a schedule that waits for validations that never come; catch up with the interrupted run."""
        if self.when.needs_validation and not trainer.enable_validation:
            raise RecipeError(
                "growth waits for validations, and there are none",
                seen="no validation loader, or no validation_step",
                expected="a validation loop that logs the metric the schedule watches",
                advice="add one, or use growkit.every",
            )
        if self._loaded is not None:
            randomness.restore(self._loaded["random_state"])
            catch_up(trainer, self._loaded)
            self._loaded = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Grow if it is due."""
        self._phase = "batch"
        if self._example is None:
            make = self._make_example or (lambda batch: example_of(pl_module, batch))
            self._example = to_device(make(batch), torch.device("cpu"))
        if batch_idx % trainer.accumulate_grad_batches or trainer.global_step == self._grown_at:
            return  # gradients of an unfinished step are under way, or a run resumed right after it grew
        if self.when.due(Moment(trainer.global_step, trainer.current_epoch, batch_idx)):
            self._grow(trainer, pl_module, batch)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where the loop is."""
        self._phase = "validation" if self._phase else ""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where the loop is."""
        self._phase = "epoch end"

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where the loop is."""
        self._phase = ""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where the loop is."""
        self._phase = ""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the metrics to the schedule."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.when.observe({name: float(value) for name, value in trainer.callback_metrics.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs to grow like an uninterrupted one."""
        trainer = self._trainer
        return pack(
            journal=self.journal,
            example=self._example,
            random_state=randomness.capture(),
            schedule=self.when.state_dict(),
            plugins={name: plugin.state_dict() for name, plugin in self.plugins.stateful.items()},
            layout=layout_of(trainer.lightning_module, trainer.optimizers) if trainer is not None else [],
            grown_at=self._grown_at,
            **under_way(trainer, self._phase),
        )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let Lightning go on where the interrupted run was."""
        if trainer.state.fn == "fit" and STATE_KEY in checkpoint["callbacks"]:
            rewind(checkpoint, unpack(checkpoint["callbacks"][STATE_KEY])["pending"])
            self._loader_states[:] = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` returned; the journal was replayed before the weights were loaded."""
        state = unpack(state_dict)
        self.journal, self._example, self._grown_at = state["journal"], state["example"], state["grown_at"]
        self._loaded = state
        try:
            self.when.load_state_dict(state["schedule"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                "the checkpoint was saved with another schedule of growth",
                seen=f"{state['schedule']}",
                expected=f"the state of a {type(self.when).__name__}",
                advice="resume with the schedule of the interrupted run",
            ) from error
        for name, plugin in self.plugins.stateful.items():
            if name in state["plugins"]:
                plugin.load_state_dict(state["plugins"][name])

    # ------------------------------------------------------------- growth

    def _grow(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        assert self._example is not None
        example = to_device(self._example, pl_module.device)
        seed = self._seed * 1_000_003 + trainer.global_step
        context = Context(
            trace_example(pl_module, example, self.plugins),
            self.journal,
            step=trainer.global_step,
            epoch=trainer.current_epoch,
            seed=seed,
            loss=self._loss or _training_loss,
            batches=lambda count: statistics_batches(trainer, batch, seed, count),
        )
        event = grow(context, self.plugins, self.budget, example=example, optimizers=trainer.optimizers)
        if event is not None:
            self.events.append(event)
            self._grown_at = trainer.global_step
            note_journal(pl_module, self.journal)
            _log.info(summary(event))

    def _forget(self) -> None:
        """Let go of what belongs to one run."""
        self._unhook()
        self._loaded = self._trainer = None

    def _unhook(self) -> None:
        """Leave module and trainer as they were found."""
        self._undo.close()


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
        f"{before['parameters']:,} -> {after['parameters']:,} parameters"
    )


def _training_loss(model: nn.Module, batch: Any) -> Tensor:
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


def _unsupported(seen: str, expected: str, advice: str) -> GrowkitError:
    return GrowkitError("growth cannot follow this kind of training yet", seen=seen, expected=expected, advice=advice)
