"""What training programs may be made of, by name."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, optim
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

import growkit
from growkit_plugins.baselines import Net2Net, RandomUnits
from growkit_plugins.splitting import Splitting

SAMPLES, BATCH = 32, 8

# ------------------------------------------------------------------ data


class Samples(Dataset):
    """Inputs with noise that is drawn as they are loaded, in the process that loads them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(SAMPLES, 6, generator=generator)
        self.labels = self.inputs[:, :3].argmax(1)

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        noise = torch.randn(6) * np.random.rand() + random.random()
        return self.inputs[index] + 0.1 * noise, self.labels[index]


class Stream(IterableDataset):
    """The samples in a random order, without a length, so that the batch after the current one is loaded, too."""

    noise = 0.0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        samples = Samples()
        for index in torch.randperm(SAMPLES):
            inputs = samples.inputs[index]
            yield (inputs + self.noise * torch.randn(6) if self.noise else inputs), samples.labels[index]


class NoisyStream(Stream):
    noise = 0.1


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _weighted() -> DataLoader:
    return DataLoader(Samples(), BATCH, sampler=WeightedRandomSampler(torch.arange(1.0, 1 + SAMPLES), SAMPLES))


LOADERS: dict[str, Callable[[], DataLoader]] = {
    "shuffle": lambda: DataLoader(Samples(), BATCH, shuffle=True),
    "own generator": lambda: DataLoader(Samples(), BATCH, shuffle=True, generator=_seeded()),
    "worker": lambda: DataLoader(Samples(), BATCH, shuffle=True, num_workers=1),
    "weighted": _weighted,
    "stream": lambda: DataLoader(Stream(), BATCH),
    "noisy stream": lambda: DataLoader(NoisyStream(), BATCH),
    "noisy stream in a worker": lambda: DataLoader(NoisyStream(), BATCH, num_workers=1),
    "lasting worker": lambda: DataLoader(Samples(), BATCH, shuffle=True, num_workers=1, persistent_workers=True),
}

# ------------------------------------------------------------------ what trains and what grows

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "SGD": lambda parameters: optim.SGD(parameters, 0.05, momentum=0.9),
    "Adam": lambda parameters: optim.Adam(parameters, 0.01),
    "AdamW": lambda parameters: optim.AdamW(parameters, 0.01, weight_decay=0.1, amsgrad=True),
    "RMSprop": lambda parameters: optim.RMSprop(parameters, 0.005, momentum=0.5, centered=True),
    "Adafactor": lambda parameters: optim.Adafactor(parameters, 0.01),
    "Adagrad": lambda parameters: optim.Adagrad(parameters, 0.05),
    "NAdam": lambda parameters: optim.NAdam(parameters, 0.01),
    "LBFGS": lambda parameters: optim.LBFGS(parameters, 0.1, max_iter=2, history_size=3),
}


def _one_cycle(optimizer: optim.Optimizer) -> lr_scheduler.LRScheduler:
    has_momentum = not {"betas", "momentum"}.isdisjoint(optimizer.defaults)
    return lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=60, cycle_momentum=has_momentum)


def _sequential(optimizer: optim.Optimizer) -> lr_scheduler.LRScheduler:
    parts = [lr_scheduler.ConstantLR(optimizer, 0.5, 4), lr_scheduler.ExponentialLR(optimizer, 0.95)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[4])


def _plateau(optimizer: optim.Optimizer) -> lr_scheduler.ReduceLROnPlateau:
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=0, threshold=0.2)


# What makes it, when it steps, and what it watches.
SCHEDULERS: dict[str, tuple[Callable[..., Any] | None, str, str]] = {
    "none": (None, "", ""),
    "StepLR": (lambda optimizer: lr_scheduler.StepLR(optimizer, 2, 0.5), "epoch", ""),
    "OneCycleLR": (_one_cycle, "step", ""),
    "restarts": (lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 5), "step", ""),
    "LambdaLR": (lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch), "epoch", ""),
    "SequentialLR": (_sequential, "step", ""),
    "plateau of the loss, by step": (_plateau, "step", "train_loss"),
    "plateau of the loss, by epoch": (_plateau, "epoch", "train_loss"),
    "plateau of the validation, by step": (_plateau, "step", "val_loss"),
    "plateau of the validation, by epoch": (_plateau, "epoch", "val_loss"),
    "plateau of the mean loss": (_plateau, "epoch", "mean_loss"),
}


class Deepens(growkit.Plugin):
    """Inserts a block in the sequence, then one after a layer that stands alone, and so on."""

    def __init__(self) -> None:
        self.turn = 0

    @growkit.hookimpl
    def growkit_propose(self, context):
        self.turn += 1
        after = "body.0" if self.turn % 2 else "first"
        yield growkit.Candidate(growkit.Deepen(after, "linear", context.structure.outputs[after][-1], hidden=2))

    def state_dict(self):
        return {"turn": self.turn}

    def load_state_dict(self, state):
        self.turn = state["turn"]


class Narrows(growkit.Plugin):
    """Copies two units, takes the copies back at the next event, and so on."""

    @growkit.hookimpl
    def growkit_propose(self, context):
        width = context.structure["body.0"]
        copied = growkit.Widen(width.name, copies=(1, 2))
        return [growkit.Candidate(copied if width.size == 4 else growkit.Narrow(width.name, (4, 5), into=(1, 2)))]


METHODS: dict[str, Callable[[], growkit.Plugin]] = {
    "copies": lambda: Net2Net(0.3, noise=0.05),
    "new units": lambda: RandomUnits(0.3),
    "splits": lambda: Splitting(0.3, step=0.05, batches=2),
    "deepens": Deepens,
    "narrows": Narrows,
}
SCHEDULES: dict[str, Callable[[], growkit.Schedule]] = {
    "steps": lambda: growkit.every(steps=3),
    "epochs": lambda: growkit.every(epochs=1),
    "plateau": lambda: growkit.on_plateau("score", patience=1),
}
REWARMS: dict[str, growkit.Rewarm | None] = {
    "none": None,
    "ramp": growkit.Rewarm(4, 0.1),
    "restart": growkit.Rewarm(restart=True),
    "restart with a ramp": growkit.Rewarm(4, 0.1, restart=True),
}
VALIDATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "epochs": {},
    "half epochs": {"val_check_interval": 0.5},
    "three batches": {"val_check_interval": 3, "check_val_every_n_epoch": None},
}
SAVING: dict[str, list[dict[str, Any]]] = {
    "steps": [{"every_n_train_steps": 1, "save_top_k": -1}],
    "last": [{"every_n_train_steps": 1, "save_top_k": 0, "save_last": True}],
    "epochs": [{"save_top_k": -1}],
    "both": [{"every_n_train_steps": 2, "save_top_k": -1}, {"save_top_k": -1, "save_on_train_epoch_end": True}],
}
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")
