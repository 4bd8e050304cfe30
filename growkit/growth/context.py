"""What a plugin may look at when growth is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from growkit import randomness
from growkit.growth.private import private_copy
from growkit.growth.ranks import Ranks
from growkit.structure import Structure
from growkit.structure.forward import Example
from growkit.surgery import Journal

__all__ = ["Context"]


class Context:
    """The model, its structure and its data at the moment of a growth event. Read-only but for `model`.

    Args:
        structure: of the live model.
        journal: of the edits so far.
        example: inputs on which the model is traced and probed, a tuple of positional or a dict of keyword inputs, on
            the model's device.
        step: optimizer steps taken so far.
        epoch: epochs finished so far.
        seed: of this event's random draws.
        loss: maps a model and a batch to the scalar training loss.
        batches: gives so many training batches, on the model's device.
        ranks: the processes that train the model.

    Attributes:
        looked_at: the most batches that were asked for at once so far.
    """

    def __init__(  # noqa: PLR0913 (everything that plugins may look at)
        self,
        structure: Structure,
        journal: Journal,
        *,
        example: Example,
        step: int,
        epoch: int,
        seed: int,
        loss: Callable[[nn.Module, Any], Tensor],
        batches: Callable[[int], Iterable[Any]],
        ranks: Ranks | None = None,
    ) -> None:
        self.structure, self.journal, self.example = structure, journal, example
        self.step, self.epoch, self.seed = step, epoch, seed
        self.ranks = ranks or Ranks()
        self._loss, self._batches = loss, batches
        self.looked_at = 0
        self.generator = torch.Generator().manual_seed(seed)

    @cached_property
    def model(self) -> nn.Module:
        """A private copy of the model in evaluation mode; whatever is done to it has no effect on training.

        Cost: one copy of the model, made at first use.
        """
        return private_copy(self.structure.model)

    def batches(self, count: int) -> Iterable[Any]:
        """Return training batches; the training loader and the global random state are left alone.

        Args:
            count: how many, at least 1; fewer come if the training set has fewer.
        """
        self.looked_at = max(self.looked_at, count)
        return self._batches(count)

    @property
    def processes(self) -> int:
        """Number of processes that train the model together."""
        return self.ranks.size

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the average of a statistic over the processes that train the model; alone, the tensor itself.

        In a data-parallel run every process sees its own share of the data, so a gradient, say, is of the whole batch
        only once it is averaged. What a plugin proposes counts in the first process; a statistic that is not averaged
        is that of the first process alone.

        Args:
            tensor: the same shape in every process, and asked for equally often.
        """
        return self.ranks.mean(tensor)

    def loss(self, batch: Any, model: nn.Module | None = None) -> Tensor:
        """Return the training loss on a batch: a scalar with a gradient.

        Every call draws the same random numbers, so that losses differ by models and batches alone: what a plugin
        predicts, and what is measured of it, are of one noise.

        Args:
            batch: one of `batches`.
            model: of which; default: the private copy. A plugin may give a changed copy of that.
        """
        with randomness.isolated(self.seed):
            return self._loss(self.model if model is None else model, batch)
