"""Splits: neurons, each with the way in which it is best split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import growkit
from growkit_plugins.splitting.eigen import Eigenpairs
from growkit_plugins.splitting.matrices import SplittingMatrices
from growkit_plugins.splitting.neurons import Neurons
from growkit_plugins.splitting.schemes import Scheme, schemes

__all__ = ["Split", "best_splits", "moved_statistics"]


@dataclass(frozen=True, eq=False)
class Split:
    """How a neuron splits.

    Attributes:
        number: place of its width in `SplittingMatrices.neurons`.
        neurons: of its width.
        unit: which of them.
        scheme: into how many offspring, with which weights.
        value: change of the loss in units of step^2 / 2; negative.
        offsets: of each offspring, shape (offspring, dimension), in steps.
    """

    number: int
    neurons: Neurons
    unit: int
    scheme: Scheme
    value: float
    offsets: Tensor

    def candidate(self, step: float, statistics: Mapping[str, Tensor]) -> growkit.Candidate:
        """Describe it.

        Args:
            step: length of an offset of one.
            statistics: changes of running statistics for each offspring, shape (offspring, multiplicity), by buffer.
        """
        weights = self.scheme.weights[1:]
        shares = () if len(set(self.scheme.weights)) == 1 else weights
        moved = [self.neurons.unit(step * offset) for offset in self.offsets]
        offsets = {
            name: self._touched([each[name] for each in moved], self.neurons.rows[name].axis) for name in moved[0]
        }
        offsets |= {name: self._touched(list(changes), 0) for name, changes in statistics.items()}
        edit = growkit.Widen(self.neurons.width, copies=[self.unit] * len(weights), shares=shares)
        return growkit.Candidate(edit, gain=-0.5 * step**2 * self.value, offsets=offsets)

    def _touched(self, moved: Sequence[Tensor], axis: int) -> Tensor:
        """Lay offsets out as a candidate has them: the original once for each copy, then the copies."""
        original, *copies = moved
        again = [torch.zeros_like(original)] * (len(copies) - 1)
        return torch.cat([original, *again, *copies], dim=axis)


def best_splits(
    matrices: SplittingMatrices,
    smallest: Sequence[Eigenpairs],
    largest: Sequence[Eigenpairs] | None,
    structure: growkit.Structure,
    *,
    mass: float,
    offspring: int,
    count: int,
) -> list[Split]:
    """Return the best way to split each of the neurons that gain most.

    Args:
        matrices: of all neurons.
        smallest: eigenpair of each neuron.
        largest: eigenpair of each neuron; None if `mass` is 1.
        structure: of the model; widths to which only equal copies can be added take positive splits.
        mass: see `schemes`.
        offspring: see `schemes`.
        count: return no more than so many.

    Returns:
        Those with a negative value, best first.
    """
    entries: list[tuple[float, int, int, Scheme]] = []
    for number, neurons in enumerate(matrices.neurons):
        ways = schemes(1.0 if structure[neurons.width].copies_only else mass, offspring)
        lows = smallest[number].values.tolist()
        highs = largest[number].values.tolist() if largest is not None else [0.0] * len(lows)
        for unit, (low, high) in enumerate(zip(lows, highs, strict=True)):
            scheme = min(ways, key=lambda way: way.value(low, high))
            entries.append((scheme.value(low, high), number, unit, scheme))
    entries.sort(key=lambda entry: entry[:3])
    splits = []
    for value, number, unit, scheme in entries[:count]:
        if value >= 0:
            break
        low = smallest[number].vectors[unit]
        high = torch.zeros_like(low) if largest is None else largest[number].vectors[unit]
        along_low, along_high = torch.tensor([scheme.low, scheme.high], dtype=low.dtype, device=low.device)[:, :, None]
        splits.append(Split(number, matrices.neurons[number], unit, scheme, value, along_low * low + along_high * high))
    return splits


def moved_statistics(matrices: SplittingMatrices, splits: Sequence[Split], step: float) -> list[dict[str, Tensor]]:
    """Return by how much running statistics right behind the layers change for the offspring of each split.

    Returns:
        For each split, changes of shape (offspring, multiplicity) by the name of the buffer.

    Cost: the layers once forward for each width and offspring.
    """
    changes: list[dict[str, list[Tensor]]] = [{} for _ in splits]
    for number, neurons in enumerate(matrices.neurons):
        own = [place for place, split in enumerate(splits) if split.number == number]
        for child in range(max((len(splits[place].offsets) for place in own), default=0)):
            having = [place for place in own if child < len(splits[place].offsets)]
            offsets = torch.zeros(neurons.units, neurons.dimension, **matrices.like)
            for place in having:
                offsets[splits[place].unit] = step * splits[place].offsets[child]
            for name, change in matrices.statistics(number, offsets).items():
                for place in having:
                    changes[place].setdefault(name, []).append(change[splits[place].unit])
    return [{name: torch.stack(parts) for name, parts in each.items()} for each in changes]
