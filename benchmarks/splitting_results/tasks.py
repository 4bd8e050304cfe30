"""What is learnt: three tasks, from data to learning-rate schedule, the same for every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from growkit_plugins.classification import MLP, Classifier, ConvNet, Digits, FashionMNIST
from growkit_plugins.regression import RBFNetwork, RBFTeacher

__all__ = ["TASKS", "Batch", "Data", "Loader", "Task", "task_named"]

Batch = Sequence[Tensor]

UPDATES = 50  # Adam steps a batch on the toy


class Loader:
    """The same batches over and over, or those that a data loader makes anew each epoch.

    Args:
        batches: of one epoch.
        repeats: how often they come in what Lightning takes for an epoch.
    """

    def __init__(self, batches: Sequence[Batch], repeats: int) -> None:
        self.batches, self.repeats = batches, repeats

    def __len__(self) -> int:
        return len(self.batches) * self.repeats

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.repeats):
            yield from self.batches


@dataclass(frozen=True)
class Data:
    """What a seed learns from.

    Attributes:
        loader: of training batches.
        train: inputs and targets of all training samples.
        test: of samples that are never trained on.
    """

    loader: Loader | torch.utils.data.DataLoader[Batch]
    train: Batch
    test: Batch

    @property
    def per_batch(self) -> float:
        """Mean number of samples in a batch."""
        return len(self.train[0]) * getattr(self.loader, "repeats", 1) / len(self.loader)


@dataclass(frozen=True)
class Task:
    """A network that grows while it learns.

    Attributes:
        name: short.
        title: for the page.
        about: data, optimizer and schedule, for the page.
        start: widths before growth.
        rounds: number of growth events.
        fraction: share by which every width grows in a round of uniform widening, at least one unit. The parameters of
            that network are the budget of every method.
        steps: optimizer steps of each phase: before the first event, and after each.
        updates: optimizer steps a batch of the loader.
        step: length of the offset of a split.
        batches: training batches that splitting looks at: so many that a fast event costs about a tenth of a phase, as
            in the papers. On the whole training set it would cost as much as a phase of networks this small.
        offspring: most of a neuron in signed splitting; two where units come one at a time.
        rate: highest learning rate.
        decay: factor of the rate by the share of a phase that is over.
        data: of a seed.
        network: of some widths.
        module: trains a network.
        loss: of outputs and targets.
    """

    name: str
    title: str
    about: str
    start: tuple[int, ...]
    rounds: int
    fraction: float
    steps: int
    updates: int
    step: float
    batches: int
    offspring: int
    rate: float
    decay: Callable[[float], float]
    data: Callable[[int], Data]
    network: Callable[[Sequence[int]], nn.Module]
    module: Callable[[nn.Module], pl.LightningModule]
    loss: Callable[[Tensor, Tensor], Tensor]

    @property
    def regression(self) -> bool:
        """Whether numbers are learnt, and losses are squares."""
        return self.loss is F.mse_loss

    def uniform(self, rounds: int) -> tuple[int, ...]:
        """Return the widths after some rounds of uniform widening."""
        sizes = self.start
        for _ in range(rounds):
            sizes = tuple(size + max(1, round(self.fraction * size)) for size in sizes)
        return sizes


def task_named(name: str, *, quick: bool) -> Task:
    """Return a task; a quick one has a few steps, to see whether everything works."""
    task = TASKS[name]
    return replace(task, rounds=2, steps=3 * task.updates, batches=1) if quick else task


class Repeated(pl.LightningModule):
    """Takes many Adam steps a batch, since Lightning's loop takes longer than a step of a network this small.

    Args:
        network: learns the mean squared error.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.automatic_optimization = False

    def forward(self, points: Tensor) -> Tensor:
        """Return the values at some points."""
        values: Tensor = self.network(points)
        return values

    def training_step(self, batch: Batch) -> None:
        """Take the steps."""
        optimizer = self.optimizers()
        for _ in range(UPDATES):
            optimizer.zero_grad()
            self.manual_backward(F.mse_loss(self(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters())


def sgd(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum; the rate is set before every step."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)


def classifier(network: nn.Module) -> pl.LightningModule:
    """Return the module that trains a classifier."""
    return Classifier(network, optimizer=sgd)


def cosine(share: float) -> float:
    """Decay to zero."""
    return 0.5 * (1 + math.cos(math.pi * share))


def stairs(share: float) -> float:
    """Decay by ten at a half and at three quarters."""
    return 1.0 if share < 0.5 else 0.1 if share < 0.75 else 0.01


def _parts(module: pl.LightningDataModule) -> tuple[Batch, Batch]:
    return module.train_dataloader().dataset.tensors, module.val_dataloader().dataset.tensors


def toy_data(seed: int) -> Data:
    """Return a teacher of its own for every seed."""
    train, test = _parts(RBFTeacher(seed=seed))
    return Data(Loader([train], 1000), train, test)


def digits_data(seed: int) -> Data:
    """Return the digits, split alike for every seed."""
    module = Digits(batch_size=64)
    return Data(module.train_dataloader(), *_parts(module))


def fashion_data(seed: int) -> Data:
    """Return 1,280 images to train and 2,000 to test, the same for every seed."""
    module = FashionMNIST(batch_size=64, held_out=2000, limit=1280)
    return Data(module.train_dataloader(), *_parts(module))


_ALL = [
    Task(
        name="toy",
        title="Sum of radial basis functions, 3 to 8 neurons",
        about="A teacher of 15 such functions for each seed, parameters from N(0, variance 3); 300 points uniform on "
        "[-5, 5], 300 others to test. Adam on all points, rate 0.03, cosine in each phase.",
        start=(3,),
        rounds=5,
        fraction=0.1,
        steps=3000,
        updates=UPDATES,
        step=0.1,
        batches=1,
        offspring=2,
        rate=0.03,
        decay=cosine,
        data=toy_data,
        network=lambda widths: RBFNetwork(*widths),
        module=Repeated,
        loss=F.mse_loss,
    ),
    Task(
        name="digits",
        title="Perceptron 64-6-6-10 on the digits of scikit-learn",
        about="1,257 images to train, 540 to test. SGD, rate 0.1, a tenth of it from the middle and a hundredth from "
        "three quarters of each phase on, Nesterov momentum 0.9, weight decay 1e-4, batch 64.",
        start=(6, 6),
        rounds=4,
        fraction=0.3,
        steps=600,
        updates=1,
        step=0.05,
        batches=4,
        offspring=4,
        rate=0.1,
        decay=stairs,
        data=digits_data,
        network=lambda widths: MLP(64, widths, 10),
        module=classifier,
        loss=F.cross_entropy,
    ),
    Task(
        name="fashion",
        title="BatchNorm CNN 8-8-8 on 1,280 images of Fashion-MNIST",
        about="2,000 other images to test, all from the official training set. SGD, rate 0.1, cosine in each phase, "
        "Nesterov momentum 0.9, weight decay 1e-4, batch 64.",
        start=(8, 8, 8),
        rounds=3,
        fraction=0.3,
        steps=120,
        updates=1,
        step=0.05,
        batches=2,
        offspring=4,
        rate=0.1,
        decay=cosine,
        data=fashion_data,
        network=lambda widths: ConvNet(1, widths, 10),
        module=classifier,
        loss=F.cross_entropy,
    ),
]

TASKS = {task.name: task for task in _ALL}
