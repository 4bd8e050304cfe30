"""Points of a function that a network of radial basis functions teaches."""

from __future__ import annotations

import math
from functools import cached_property

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from growkit_plugins.common import TensorBatches, batches_of

from .models import RBFNetwork

__all__ = ["RBFTeacher"]

_NEURONS, _VARIANCE, _REACH = 15, 3.0, 5.0


class RBFTeacher(pl.LightningDataModule):
    """Noise-free values of an `RBFNetwork` of 15 neurons whose parameters are drawn from N(0, variance 3).

    Points lie uniformly in [-5, 5]. Every batch holds all of them: points (N, 1) and values (N, 1), float32. As many
    other points validate.

    Args:
        points: how many; at least 1.
        batches: number of batches in an epoch; at least 1.
        seed: of teacher and points.

    Source: Wu, Wang and Liu (2019), arXiv:1910.02366, section on toy regression. The number of points is our own.
    """

    def __init__(self, points: int = 300, batches: int = 100, seed: int = 0) -> None:
        super().__init__()
        self.points = points
        self.batches = batches
        self.seed = seed

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return `batches` batches of all training points, in changing order."""
        sampler = RandomSampler(self._parts[0], num_samples=self.batches * self.points)
        return batches_of(self._parts[0], self.points, sampler=sampler)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return one batch of all validation points."""
        return batches_of(self._parts[1], self.points)

    @cached_property
    def _parts(self) -> tuple[TensorBatches, TensorBatches]:
        generator = torch.Generator().manual_seed(self.seed)
        teacher = RBFNetwork(_NEURONS)
        with torch.no_grad():
            for parameter in teacher.parameters():
                nn.init.normal_(parameter, std=math.sqrt(_VARIANCE), generator=generator)
            points = _REACH * (2 * torch.rand(2 * self.points, 1, generator=generator) - 1)
            parts = [TensorBatches(part, teacher(part)) for part in points.chunk(2)]
        return parts[0], parts[1]
