"""`Growth`: the Lightning callback that makes architecture something that training optimises."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from growkit import randomness
from growkit.errors import GrowkitError, RankError, RecipeError
from growkit.growth import Budget, Event, Moment, Ranks, Rewarm, Schedule, every, restore_schedule, within_memory
from growkit.lightning.averages import following_structure, go_on_averaging
from growkit.lightning.batches import example_of, to_device
from growkit.lightning.checkpoint import (
    STATE_KEY,
    check_plain,
    follow_checkpoints,
    journal_of,
    layout_of,
    pack,
    restore_layout,
    unpack,
)
from growkit.lightning.event import context_of, grow_in_training, summary
from growkit.lightning.files import save_whole_files
from growkit.lightning.loaders import follow_loaders
from growkit.lightning.override import override
from growkit.lightning.parallel import keep_weights, ranks_of, refuse_sharding, refuse_strategy
from growkit.lightning.rates import Rates, schedulers_of
from growkit.lightning.resume import Phases, Scalars, catch_up, restore_scalars, rewind, scalars_of, under_way
from growkit.lightning.surroundings import drop_compiled, restoring, stepped_out
from growkit.plugins import Plugin, Plugins
from growkit.structure import trace_example
from growkit.structure.forward import Example
from growkit.surgery import Journal

__all__ = ["Growth"]

_log = logging.getLogger(__name__)


class Growth(Phases):
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
        rewarm: warm learning rates up again after each event, or restart their schedules; a plugin that answers
            `growkit_rewarm` has precedence.
        on_error: what becomes of an event that fails, with model, optimizers and random state as they were before it:
            "raise" ends the run, "skip" logs the error and goes on. Processes that disagree end the run in any case.

    Attributes:
        journal: every edit so far.
        events: the growth events of this process, oldest first, without the tensors in their changes.
        failures: the errors of the events that were skipped.
        recompilations: how often compiled code was dropped after an event.

    Cost: nothing measurable while no growth is due; see `benchmarks/` for the cost of an event, and `grow`.
    """

    def __init__(  # noqa: PLR0913 (what, when, how much, and what to do when it fails)
        self,
        plugins: Sequence[Plugin] = (),
        when: Schedule | None = None,
        budget: Budget | None = None,
        example: Callable[[Any], Example] | None = None,
        loss: Callable[[nn.Module, Any], Tensor] | None = None,
        seed: int = 0,
        rewarm: Rewarm | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__()
        if on_error not in ("raise", "skip"):
            raise ValueError(f'Growth takes on_error "raise" or "skip", not {on_error!r}')
        self.when = when or every(epochs=1)
        self._untouched = copy.deepcopy(self.when.state_dict())
        self.budget = budget or Budget()
        self.journal = Journal()
        self.events: list[Event] = []
        self.failures: list[GrowkitError] = []
        self.recompilations = 0
        self.plugins = Plugins(plugins)
        self.rewarm, self.on_error = rewarm, on_error
        self._make_example, self._loss, self._seed = example, loss, seed
        self._example: Example | None = None
        self._grown_at = -1
        self._rates = Rates()
        self._ranks = Ranks()
        self._loaded: dict[str, Any] | None = None
        self._loader_states: list[dict[str, Any]] = []
        self._restored_loaders = False
        self._scalars: Scalars = []
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
        """Refuse what growth cannot follow, and have the structure ready before weights load."""
        self._forget()
        self._trainer = trainer
        self.journal = journal_of(pl_module)
        self._undo.callback(follow_checkpoints(pl_module, self.state_dict))
        load_hook = pl_module.on_load_checkpoint

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            if stage == "fit" and STATE_KEY in checkpoint.get("callbacks", {}):
                # Tried before anything is loaded: Lightning hands it over when the weights are there.
                restore_schedule(copy.deepcopy(self.when), unpack(checkpoint["callbacks"][STATE_KEY])["schedule"])
            with following_structure(trainer, pl_module), restoring(trainer, pl_module):
                load_hook(checkpoint)

        self._undo.callback(override(pl_module, on_load_checkpoint=on_load_checkpoint))
        teardown = trainer.strategy.teardown

        def tear_down() -> None:
            # Lightning tears callbacks down after a success only; a checkpoint that a failure makes comes before this.
            self._unhook()
            teardown()

        self._undo.callback(override(trainer.strategy, teardown=tear_down))
        if stage != "fit":
            return
        refuse_strategy(trainer)
        self._ranks = ranks_of(trainer)
        self._example = None
        self._undo.callback(follow_loaders(trainer, self._loader_states))
        self._undo.callback(save_whole_files(trainer))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module as it was found."""
        if stage == "fit" and len(self.journal):
            keep_weights(trainer, pl_module)
        self._unhook()  # and know the trainer still: a checkpoint may be saved after the fit
        self._loaded = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the random state and the optimizer layout of the interrupted run."""
        # Any later is too late: the training loader's iterator draws its seed before on_train_start, and the state of
        # the optimizers is loaded right after this hook.
        refuse_sharding(trainer)
        self._rates = Rates(trainer.optimizers, schedulers_of(trainer), self._loaded and self._loaded["rewarm"])
        if self._loaded is None:
            self._grown_at = -1
            if trainer.global_step == 0:  # else the fit goes on where the last one ended
                self.when.load_state_dict(copy.deepcopy(self._untouched))
            return
        self._restore_randomness(self._loaded)
        restore_layout(self._loaded["layout"], pl_module, trainer.optimizers)

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
            if self._restored_loaders:  # which draw nothing before their first batch
                self._restore_randomness(self._loaded)
            restore_scalars(trainer.optimizers, self._scalars)
            catch_up(trainer, self._loaded)
            go_on_averaging(trainer, pl_module)
            self._loaded = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Grow if it is due."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._example is None:
            make = self._make_example or (lambda batch: example_of(pl_module, batch))
            with self._ranks.together():
                example = to_device(make(batch), torch.device("cpu"))
                check_plain(example)
                self._example = self._ranks.first("the example", example)
        if batch_idx % trainer.accumulate_grad_batches or trainer.global_step == self._grown_at:
            return  # gradients of an unfinished step are under way, or a run resumed right after it grew
        if trainer.fit_loop._skip_backward:
            return  # an epoch for the statistics of norms, after training
        if self._due(Moment(trainer.global_step, trainer.current_epoch, batch_idx)):
            profiler = trainer.profiler  # type: ignore[attr-defined]
            with profiler.profile("[growkit]growth_event"), stepped_out(trainer):
                self._grow(trainer, batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the metrics to the schedule."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            if self.when.needs_validation:
                metrics = self._ranks.first("the metrics of a validation", metrics)
            self.when.observe(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs to grow like an uninterrupted one."""
        trainer = self._trainer
        return pack(
            journal=self.journal,
            example=self._example,
            random_states=self._ranks.gather("random states", randomness.capture()),
            schedule=self.when.state_dict(),
            plugins={name: plugin.state_dict() for name, plugin in self.plugins.stateful.items()},
            layout=layout_of(trainer.lightning_module, trainer.optimizers) if trainer is not None else [],
            grown_at=self._grown_at,
            rewarm=self._rates.state_dict(),
            **under_way(trainer, self.phase),
        )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let Lightning go on where the interrupted run was."""
        if trainer.state.fn == "fit" and STATE_KEY in checkpoint["callbacks"]:
            rewind(checkpoint, unpack(checkpoint["callbacks"][STATE_KEY])["pending"])
            self._loader_states[:] = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
            self._restored_loaders = bool(self._loader_states)
            self._scalars = scalars_of(checkpoint)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` returned; the journal was replayed before the weights were loaded."""
        state = unpack(state_dict)
        self.journal, self._example, self._grown_at = state["journal"], state["example"], state["grown_at"]
        self._loaded = state
        restore_schedule(self.when, state["schedule"])
        for name, plugin in self.plugins.stateful.items():
            if name in state["plugins"]:
                plugin.load_state_dict(state["plugins"][name])

    # ------------------------------------------------------------- growth

    def _due(self, moment: Moment) -> bool:
        due = self.when.due(moment)
        return due if self.when.shared else self._ranks.decide(due)

    def _grow(self, trainer: pl.Trainer, batch: Any) -> None:
        example = to_device(self._example or (), trainer.lightning_module.device)
        try:
            with within_memory(), randomness.isolated():
                with self._ranks.together():
                    structure = trace_example(trainer.lightning_module, example, self.plugins)
                context = context_of(
                    *(trainer, batch, structure, self.journal),
                    example=example,
                    ranks=self._ranks,
                    loss=self._loss,
                    seed=self._seed,
                )
                event = grow_in_training(trainer, context, self.plugins, self.budget, self._rates, self.rewarm)
        except GrowkitError as error:
            if self.on_error == "raise" or isinstance(error, RankError):
                raise
            self.failures.append(error.with_traceback(None))  # whose frames hold tensors
            error.__cause__ = error.__context__ = None
            _log.warning("a growth event was skipped: %s", error)
            return
        if event is None:
            return
        # Whoever wants the tensors follows `growkit_grown`; kept for every event they would fill the memory.
        bare = [replace(candidate, offsets={}) for candidate in event.candidates]
        self.events.append(replace(event, candidates=bare, change=replace(event.change, parameters={})))
        self._grown_at = trainer.global_step
        self.recompilations += drop_compiled()
        _log.info(summary(event))

    def _restore_randomness(self, state: dict[str, Any]) -> None:
        states = state["random_states"]
        randomness.restore(states[min(self._ranks.rank, len(states) - 1)])

    def _forget(self) -> None:
        """Let go of what belongs to one run."""
        self._unhook()
        self._loaded = self._trainer = None
        self._rates = Rates()

    def _unhook(self) -> None:
        """Leave module, trainer and optimizers as they were found."""
        self._undo.close()
        self._rates.end()
