"""One run: a network grows in rounds while Lightning trains it, and what it is like after each is written down."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from methods import METHODS, SCRATCH
from store import Key
from tasks import Data, Task, task_named
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import growkit

__all__ = ["PARAMETERS", "FLOPS", "quiet", "run"]

PARAMETERS, FLOPS = "equal parameters", "equal FLOPs"

Row = dict[str, Any]


class AtStep(growkit.Schedule):
    """Growth at one step, set anew for each phase."""

    shared = True

    def __init__(self, step: int) -> None:
        self.step = step

    def due(self, moment: growkit.growth.Moment) -> bool:
        """Say whether the step has come."""
        return moment.step == self.step


@dataclass(frozen=True)
class Phase:
    """What is allowed in a phase.

    Attributes:
        parameters: of the network, at most.
        steps: of the optimizer, where these count.
        flops: of training since the beginning, where these count: three forward passes a sample and step, and all
            that events compute.
    """

    parameters: int
    steps: int
    flops: float


class Trial(growkit.Growth):
    """Growth at the end of each phase but the last, and a schedule of the learning rate that starts anew in each.

    Args:
        plugins: one that proposes, or none.
        task: what is learnt.
        data: of this seed.
        phases: what is allowed in each.
        equal: `PARAMETERS` or `FLOPS`: whether phases end with their steps or with their FLOPs.
        forward: FLOPs of a forward pass of the network as it is, per sample.
        seed: of growth.

    Attributes:
        rows: what is found at the end of each phase.
    """

    def __init__(
        self,
        plugins: list[growkit.Plugin],
        task: Task,
        data: Data,
        phases: list[Phase],
        equal: str,
        forward: float,
        seed: int,
    ) -> None:
        self._end = AtStep(0)
        super().__init__(
            plugins,
            when=self._end,
            loss=lambda module, batch: task.loss(module(batch[0]), batch[1]),
            seed=seed,
        )
        self._task, self._data, self._phases, self._equal = task, data, phases, equal
        self._forward, self._spent, self._begin = forward, 0.0, 0
        self._event: Row = {}
        self.rows: list[Row] = []
        self._open(0)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        """Grow between two phases; set the rate."""
        if trainer.global_step == self._end.step:
            self._grow_between(trainer, pl_module, *batch)
        else:
            super().on_train_batch_start(trainer, pl_module, *batch)
        share = (trainer.global_step - self._begin) / (self._end.step - self._begin)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self._task.rate * self._task.decay(share)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        """Write down what a phase led to."""
        super().on_train_batch_end(trainer, pl_module, *batch)
        if trainer.global_step >= self._end.step:
            self._spent += 3 * self._forward * self._data.per_batch * (trainer.global_step - self._begin)
            self.rows.append(self._measured(trainer, pl_module))
            trainer.should_stop = len(self.rows) == len(self._phases)

    def _grow_between(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        self.budget = growkit.Budget(parameters=self._phases[len(self.rows)].parameters)
        before = len(self.events)
        with FlopCounterMode(display=False) as counter:
            super().on_train_batch_start(trainer, pl_module, *batch)
        self._event = {"event_flops": float(counter.get_total_flops())}
        self._spent += self._event["event_flops"]
        for event in self.events[before:]:
            self._forward = event.note["after"]["flops"]
            gains = [candidate.gain for candidate in event.candidates]
            loss, _ = _measure(self._task, pl_module, self._data.train)
            self._event |= {"gain": sum(gains), "best_gain": max(gains), "grown_loss": loss}
        self._open(trainer.global_step)

    def _open(self, step: int) -> None:
        """Begin a phase."""
        phase, updates = self._phases[len(self.rows)], self._task.updates
        steps = phase.steps
        if self._equal == FLOPS:
            steps = int((phase.flops - self._spent) / (3 * self._forward * self._data.per_batch))
        self._begin = step
        self._end.step = step + max(updates, steps // updates * updates)

    def _measured(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Row:
        loss, accuracy = _measure(self._task, pl_module, self._data.train)
        test_loss, test_accuracy = _measure(self._task, pl_module, self._data.test)
        return {
            "round": len(self.rows),
            "steps": trainer.global_step,
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "widths": "-".join(str(w.size) for w in growkit.trace(pl_module, self._data.train[0][:2]).growable),
            "flops": self._spent,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            **self._event,
        }


def quiet() -> None:
    """Take one thread a process, and say nothing of what Lightning advises."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def run(key: Key, *, quick: bool) -> list[Row]:
    """Train one network.

    Args:
        key: task; `PARAMETERS`, as many steps for all, or `FLOPS`, as many FLOPs; method of `METHODS`, or `SCRATCH`,
            the uniformly widened network from the beginning with one schedule; and seed of weights, order of the data
            and growth. Whatever the method, a seed leads to the same ones.
        quick: see `task_named`.

    Returns:
        One row a phase: what the network is like at its end, and the event with which it began.
    """
    name, equal, method, seed = key
    task = task_named(name, quick=quick)
    data = task.data(seed)
    phases = _phases(task, data)
    sizes = task.start
    if method == SCRATCH:
        sizes = task.uniform(task.rounds)
        phases = [Phase(phases[-1].parameters, task.steps * (task.rounds + 1), phases[-1].flops)]
    torch.manual_seed(seed)
    module = task.module(task.network(sizes))
    plugins = [] if method == SCRATCH else METHODS[method](task)
    trial = Trial(plugins, task, data, phases, equal, _size(module, data)[1], seed)
    trainer = pl.Trainer(barebones=True, accelerator="cpu", max_epochs=-1, callbacks=[trial])
    torch.manual_seed(seed)
    trainer.fit(module, data.loader)
    common = {"task": task.name, "equal": equal, "method": method, "seed": seed}
    if method == SCRATCH:
        trial.rows[0]["round"] = task.rounds
    return [common | row for row in trial.rows]


def _phases(task: Task, data: Data) -> list[Phase]:
    """Return what uniform widening takes, events not counted."""
    phases: list[Phase] = []
    flops = 0.0
    for rounds in range(task.rounds + 1):
        parameters, forward = _size(task.network(task.uniform(rounds)), data)
        flops += 3 * forward * data.per_batch * task.steps
        phases.append(Phase(parameters, task.steps, flops))
    return phases


def _size(network: nn.Module, data: Data) -> tuple[int, float]:
    structure = growkit.trace(network, data.train[0][:2])
    return structure.parameters(), structure.flops()


@torch.no_grad()
def _measure(task: Task, module: nn.Module, samples: Any) -> tuple[float, float | None]:
    """Return the mean loss and, of a classifier, the accuracy, in evaluation mode."""
    module.eval()
    outputs = module(samples[0])
    module.train()
    labels = not samples[1].is_floating_point()
    accuracy = (outputs.argmax(1) == samples[1]).float().mean().item() if labels else None
    return task.loss(outputs, samples[1]).item(), accuracy
