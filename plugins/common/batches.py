"""Data sets in memory that give whole batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

__all__ = ["TensorBatches", "batches_of"]


class TensorBatches(TensorDataset):
    """A `TensorDataset` that gives whole batches at once, which is several times as fast as entry by entry.

    A `DataLoader` over it needs `collate_fn=TensorBatches.collate`, because its batches need no collation.
    """

    def __getitems__(self, indices: list[Any]) -> tuple[Tensor, ...]:
        chosen = torch.tensor(indices)
        return tuple(tensor[chosen] for tensor in self.tensors)

    @staticmethod
    def collate(batch: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return `batch` as it is."""
        return batch


def batches_of(
    data: TensorBatches, batch_size: int, *, shuffle: bool = False, sampler: Sampler[Any] | None = None
) -> DataLoader[tuple[Tensor, ...]]:
    """Return a loader of batches of `data`.

    Args:
        data: the entries.
        batch_size: number of entries in a batch; at least 1. The last batch may be smaller.
        shuffle: take all entries in a new order each epoch, drawn from torch's generator.
        sampler: takes what it says instead.
    """
    return DataLoader(data, batch_size, shuffle=shuffle, sampler=sampler, collate_fn=TensorBatches.collate)
