"""Neurons: the units of a width, as rows of the weights that make them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Neurons", "Rows"]


class Rows(NamedTuple):
    """Where the units lie in a parameter.

    Attributes:
        axis: of the parameter.
        index: positions along it, shape (units, multiplicity), int64.
    """

    axis: int
    index: Tensor


@dataclass(frozen=True, eq=False)
class Neurons:
    """The units of one width, with everything that moves when one of them is split.

    `theta` of a neuron is what it has of weights and biases of all layers that make the width: the row of a Linear and
    its bias, both rows of a gated unit, the kernels of every convolution that writes to a residual stream.

    Attributes:
        width: name of the width.
        units: number of neurons.
        rows: where the units lie, by parameter name.
        shapes: of these parameters.
    """

    width: str
    units: int
    rows: Mapping[str, Rows]
    shapes: Mapping[str, torch.Size]

    @property
    def dimension(self) -> int:
        """Number of entries of theta."""
        return sum(self.shapes[name].numel() // self.units for name in self.rows)

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Gather what belongs to each neuron: shape (units, dimension).

        Args:
            tensors: of the shape of each parameter, by name.
        """
        return torch.cat(
            [
                tensors[name].movedim(axis, 0)[index.flatten()].reshape(self.units, -1)
                for name, (axis, index) in self.rows.items()
            ],
            dim=1,
        )

    def unpack(self, vectors: Tensor) -> dict[str, Tensor]:
        """Put vectors (units, dimension) back to where they belong: the inverse of `pack`."""
        tensors = {}
        for (name, (axis, index)), part in zip(self.rows.items(), self._parts(vectors), strict=True):
            shape = list(self.shapes[name])
            length = shape.pop(axis)
            moved = part.new_zeros(length, *shape)
            moved[index.flatten()] = part.reshape(index.numel(), *shape)
            tensors[name] = moved.movedim(0, axis).contiguous()
        return tensors

    def offsets(self, vectors: Tensor) -> dict[str, Tensor]:
        """Shape what some neurons are moved by as offsets of candidates, see `growkit.Candidate`.

        Args:
            vectors: for each candidate one vector a touched unit, shape (candidates, touched, dimension).

        Returns:
            By parameter, with a first axis over the candidates.
        """
        tensors = {}
        count, touched, dimension = vectors.shape
        parts = self._parts(vectors.reshape(count * touched, dimension))
        for (name, (axis, index)), part in zip(self.rows.items(), parts, strict=True):
            shape = list(self.shapes[name])
            del shape[axis]
            tensors[name] = part.reshape(count, touched * index.shape[1], *shape).movedim(1, 1 + axis)
        return tensors

    def _parts(self, vectors: Tensor) -> tuple[Tensor, ...]:
        return vectors.split([self.shapes[name].numel() // self.units for name in self.rows], dim=1)
