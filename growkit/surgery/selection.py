"""Select entries of a tensor along one axis and multiply them, in as few passes over memory as possible."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor, nn

__all__ = ["Selection"]

# Multiplying a run costs a call, and a jump for each strip of memory in it: from so many bytes on, that is less than
# what a second pass over the copy costs.
_RUN, _STRIP = 2**16, 2**10


class Selection:
    """What stands at each new position of an axis.

    Args:
        source: the old positions, -1 for zeros: shape (new length,), int64.
        scale: their factors: the same shape, float64.
    """

    def __init__(self, source: Tensor, scale: Tensor) -> None:
        self._source, self._scale = source, scale

    def of(self, tensor: Tensor, axis: int) -> Tensor:
        """Return a new tensor of the selected entries times their factors."""
        if self._scaled and self._has_long_runs(tensor, axis):
            return self._run_by_run(tensor, axis)
        return self._entries(tensor, axis, slice(None))

    def add_to(self, result: Tensor, tensor: Tensor, axis: int) -> None:
        """Add the selected entries times their factors."""
        held = (self._source >= 0).nonzero().flatten()
        result.index_add_(axis, held.to(tensor.device), self._entries(tensor, axis, held))

    @cached_property
    def _scaled(self) -> bool:
        return bool(((self._scale != 1) & (self._source >= 0)).any())

    def _entries(self, tensor: Tensor, axis: int, at: slice | Tensor) -> Tensor:
        source = self._source[at].to(tensor.device)
        scale = self._scale[at].to(tensor) if self._scaled else None
        held = source.clamp(min=0)
        if scale is not None and _is_table(tensor, axis):
            rows = nn.functional.embedding_bag(
                held[:, None], tensor.flatten(1), mode="sum", per_sample_weights=scale[:, None]
            )
            result = rows.view(len(held), *tensor.shape[1:])
        else:
            result = tensor.index_select(axis, held)
            if scale is not None:
                result *= scale.view([-1 if position == axis else 1 for position in range(tensor.dim())])
        missing = (source < 0).nonzero().flatten()
        return result.index_fill_(axis, missing, 0) if len(missing) else result

    def _has_long_runs(self, tensor: Tensor, axis: int) -> bool:
        strip = tensor.element_size() * math.prod(tensor.shape[axis + 1 :]) * len(self._source)
        whole = strip * math.prod(tensor.shape[:axis])
        if whole < _RUN or _is_table(tensor, axis) or not (tensor.is_floating_point() or tensor.is_complex()):
            return False
        return min(whole / _RUN, strip / _STRIP) >= len(self._starts)

    @cached_property
    def _starts(self) -> Tensor:
        """Where runs start, of positions that lie side by side before and after and have one factor."""
        here, there = self._source[:-1], self._source[1:]
        follows = torch.where(here < 0, there < 0, there == here + 1) & (self._scale[:-1] == self._scale[1:])
        return nn.functional.pad((~follows).nonzero().flatten() + 1, (1, 0))

    @cached_property
    def _runs(self) -> tuple[list[int], list[int], list[float]]:
        """Lengths of the runs, old positions of their starts, and factors."""
        starts = self._starts
        lengths = torch.diff(starts, append=torch.tensor([len(self._source)]))
        return lengths.tolist(), self._source[starts].tolist(), self._scale[starts].tolist()

    def _run_by_run(self, tensor: Tensor, axis: int) -> Tensor:
        lengths, firsts, factors = self._runs
        result = tensor.new_empty([*tensor.shape[:axis], len(self._source), *tensor.shape[axis + 1 :]])
        targets = torch.split(result, lengths, axis)
        for target, length, first, factor in zip(targets, lengths, firsts, factors, strict=True):
            if first < 0:
                target.zero_()
            elif factor == 1:
                target.copy_(tensor.narrow(axis, first, length))
            else:
                torch.mul(tensor.narrow(axis, first, length), factor, out=target)
        return result


def _is_table(tensor: Tensor, axis: int) -> bool:
    """Say whether an embedding bag of one entry selects and multiplies in one pass: rows in single precision."""
    rows = axis == 0 and tensor.dim() > 1 and tensor.is_contiguous() and tensor.numel() > 0
    return rows and tensor.dtype == torch.float32 and tensor.device.type == "cpu"
