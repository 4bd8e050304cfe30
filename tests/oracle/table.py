"""Labels: numbers, what composite ones stand for, which of them met, and how those of moved axes are read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

Vector = Tensor | None  # labels along one axis
Axes = list[Vector]
ABSENT = torch.iinfo(torch.int64).max


class Table:
    """All labels: which family (axis) each comes from, what composites stand for, and which labels met."""

    def __init__(self):
        self.parts: list[tuple[int, ...]] = [()]  # label 0 is no label
        self.family: list[int] = [0]
        self.is_data: list[bool | None] = [True]  # None if what it meets is to tell
        self.interned: dict[tuple[int, ...], int] = {}
        self.met: list[np.ndarray] = []

    def fresh(self, size: int, data: bool | None = False) -> Tensor:
        start = len(self.parts)
        self.parts.extend((label,) for label in range(start, start + size))
        self.family.extend([start] * size)
        self.is_data.extend([data] * size)
        return torch.arange(start, start + size)

    def members(self, family: int) -> range:
        """The labels of a family: it has the number of the first one."""
        return range(
            family, next((n for n in range(family, len(self.family)) if self.family[n] != family), len(self.family))
        )

    def compose(self, rows: Tensor) -> Tensor:
        """One label for each row of labels, of which some may be 0."""
        unique, inverse = torch.unique(rows, dim=0, return_inverse=True)
        return torch.tensor([self._intern(row) for row in unique.tolist()])[inverse]

    def _intern(self, row: Iterable[int]) -> int:
        parts = tuple(sorted((part for label in row for part in self.parts[label]), key=self.family.__getitem__))
        if len(parts) <= 1:
            return parts[0] if parts else 0
        if parts not in self.interned:
            self.interned[parts] = len(self.parts)
            self.parts.append(parts)
            self.family.append(0)
            self.is_data.append(all(self.is_data[part] for part in parts))
        return self.interned[parts]

    def only_data(self, labels: Tensor) -> bool:
        return all(self.is_data[label] for label in labels.unique().tolist())

    def fill(self, axes: Axes, shape: Sequence[int]) -> Axes:
        """Number the data too, where it is about to be merged with labels."""
        if all(vector is None for vector in axes):
            return axes
        filled: Axes = []
        for vector, size in zip(axes, shape, strict=True):
            if vector is None and size > 1:
                vector = self.fresh(size, data=True)
            elif vector is not None and not vector.all():
                vector = torch.where(vector > 0, vector, self.fresh(size, data=True))
            filled.append(vector)
        return filled

    def columns(self, labels: Tensor) -> Tensor:
        """The parts of the labels along an axis: a row for each part, 0 where a label has fewer."""
        parts = [self.parts[label] for label in labels.tolist()]
        width = max(map(len, parts), default=0)
        return torch.tensor([part + (0,) * (width - len(part)) for part in parts]).reshape(-1, width).T

    def unite(self, one: Tensor, other: Tensor) -> None:
        both = (one > 0) & (other > 0) & (one != other)
        if both.any():
            self.met.append(torch.stack([one[both], other[both]]).numpy())

    def combine(self, *vectors: Vector) -> Vector:
        """The labels of an axis in which axes of the same size meet position by position."""
        result = None
        for vector in vectors:
            if result is None or vector is None:
                result = vector if result is None else result
                continue
            self.unite(result, vector)
            result = torch.where(result > 0, result, vector)
        return result

    def settle(self, full: Tensor) -> dict[int, Tensor]:
        """Read a full tensor of labels back: labels for each axis along which it varies."""
        varying = _varying(full)
        if not varying and len(full[full > 0].unique()) > 1:  # on a diagonal: every axis shows them
            return {axis: _reduced(full, [axis]) for axis, size in enumerate(full.shape) if size > 1}
        full = _reduced(full, varying)
        if len(varying) <= 1:
            return {axis: full for axis in varying}
        factors, grid, data = {}, [], self.only_data(full)
        for position, axis in enumerate(varying):
            slices, inverse = torch.unique(full, dim=position, return_inverse=True)
            labels = self.fresh(slices.shape[position], data)[inverse]
            factors[axis] = torch.where(_reduced(full, [position]) > 0, labels, 0)
            shape = [-1 if other == position else 1 for other in range(len(varying))]
            grid.append(labels.reshape(shape).expand(full.shape))
        there = full > 0
        self.unite(full[there], self.compose(torch.stack([labels[there] for labels in grid], dim=1)))
        return factors

    def move(self, axes: Axes, shape: Sequence[int], apply: Callable[[Tensor], Any]) -> list[Axes]:
        """The labels of all results of an operation that only moves elements."""
        gathered: list[list[list[Tensor]]] = []
        for axis, vector in enumerate(axes):
            if vector is None:
                continue

            def moved(labels: Tensor, axis: int = axis) -> list[Tensor]:
                full = labels.reshape([-1 if other == axis else 1 for other in range(len(shape))]).expand(shape)
                return [result.long() for result in tree_leaves(apply(full))]

            whole = moved(vector)
            gathered = gathered or [[[] for _ in result.shape] for result in whole]
            for number, layer in self._layers(vector, whole, moved):
                found = self.settle(layer)
                if not found and _varying(whole[number]) and layer.any():  # one part that all have
                    target = _varying(whole[number])[0]
                    found = {target: _reduced(layer, [target])}
                for target, labels in found.items():
                    gathered[number][target].append(labels)
        results = [[self.compose(torch.stack(found, 1)) if found else None for found in result] for result in gathered]
        return [[None if v is None or self.only_data(v) else v for v in result] for result in results]

    def _layers(self, vector: Tensor, whole: list[Tensor], moved: Callable[[Tensor], list[Tensor]]):
        """What to read back: the labels as they are, or, if these are split, their parts if each goes its own way."""
        if any(len(_varying(result)) > 1 for result in whole):
            columns = [moved(column) for column in self.columns(vector)]
            pairs = [(part, result) for column in columns for part, result in zip(column, whole, strict=True)]
            if all(torch.equal(part > 0, result > 0) and _is_product(part) for part, result in pairs):
                return [item for column in columns for item in enumerate(column)]
        return list(enumerate(whole))

    def split(self, vector: Vector, groups: int) -> Axes:
        """The labels of an axis cut into groups x rest."""
        if vector is None or groups in (1, len(vector)):
            return [None, vector] if groups == 1 else [vector, None]
        return self.move([vector], vector.shape, lambda full: full.reshape(groups, -1))[0]

    def merge(self, groups: int, outer: Vector, size: int, inner: Vector) -> Vector:
        """The labels of an axis made of groups x size."""
        if 1 in (groups, size):
            return inner if groups == 1 else outer
        filled = self.fill([outer, inner], (groups, size))
        return (self.move(filled, (groups, size), torch.flatten) or [[None]])[0][0]


def _varying(full: Tensor) -> list[int]:
    """The axes along which labels differ."""
    low = torch.where(full == 0, ABSENT, full)
    return [axis for axis in range(full.dim()) if full.numel() and (full.amax(axis) > low.amin(axis)).any()]


def _is_product(full: Tensor) -> bool:
    """Whether labels vary along one axis only or are one for each tuple of different slices."""
    full = _reduced(full, _varying(full))
    if full.dim() > 1:
        for axis in range(full.dim()):
            full = torch.unique(full, dim=axis)
    return full.dim() <= 1 or len(full[full > 0].unique()) == int((full > 0).sum())


def _reduced(full: Tensor, axes: Sequence[int]) -> Tensor:
    """The largest label at each place along some axes."""
    others = [axis for axis in range(full.dim()) if axis not in axes]
    return full.amax(others) if others else full
