"""Splits: neurons, each with the way in which it is best split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import growkit
from growkit_plugins.splitting.eigen import Eigenpairs
from growkit_plugins.splitting.matrices import SplittingMatrices
from growkit_plugins.splitting.neurons import Neurons
from growkit_plugins.splitting.schemes import Scheme, schemes

__all__ = ["Split", "best_splits", "candidates", "moved_statistics"]


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


def candidates(
    splits: Sequence[Split], step: float, statistics: Sequence[Mapping[str, Tensor]] = ()
) -> list[growkit.Candidate]:
    """Describe splits as candidates, in the same order.

    Args:
        splits: any.
        step: length of an offset of one.
        statistics: for each split, changes of running statistics for each offspring, shape (offspring, multiplicity),
            by buffer; none if empty.
    """
    found: dict[int, growkit.Candidate] = {}
    for places in _alike((split.number, split.scheme) for split in splits).values():
        first = splits[places[0]]
        moved = _touched(torch.stack([splits[place].offsets for place in places]) * step)
        offsets = {name: each.unbind() for name, each in first.neurons.offsets(moved).items()}
        weights = first.scheme.weights[1:]
        shares = () if len(set(first.scheme.weights)) == 1 else weights
        for number, place in enumerate(places):
            own = {name: each[number] for name, each in offsets.items()}
            if statistics:
                own |= {name: _touched(each[None]).flatten() for name, each in statistics[place].items()}
            split = splits[place]
            edit = growkit.Widen(first.neurons.width, copies=[split.unit] * len(weights), shares=shares)
            found[place] = growkit.Candidate(edit, gain=-0.5 * step**2 * split.value, offsets=own)
    return [found[place] for place in range(len(splits))]


def _alike(keys: Iterable[tuple[int, Scheme]]) -> dict[tuple[int, Scheme], list[int]]:
    """Return the places of the splits of each width that follow one scheme."""
    groups: dict[tuple[int, Scheme], list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return groups


def _touched(offspring: Tensor) -> Tensor:
    """Lay offsets (splits, offspring, ...) out as candidates have them: originals once for each copy, then copies."""
    original, copies = offspring[:, :1], offspring[:, 1:]
    return torch.cat([original, torch.zeros_like(copies[:, 1:]), copies], dim=1)


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
    chosen = [entry for entry in entries[:count] if entry[0] < 0]
    splits: dict[int, Split] = {}
    for (number, scheme), places in _alike((number, scheme) for _, number, _, scheme in chosen).items():
        low = smallest[number].vectors
        high = torch.zeros_like(low) if largest is None else largest[number].vectors
        units = torch.tensor([chosen[place][2] for place in places], device=low.device)
        steps = low.new_tensor([scheme.low, scheme.high])[:, None, :, None]
        offsets = steps[0] * low[units, None] + steps[1] * high[units, None]
        for place, offset in zip(places, offsets.unbind(), strict=True):
            value, _, unit, _ = chosen[place]
            splits[place] = Split(number, matrices.neurons[number], unit, scheme, value, offset)
    return [splits[place] for place in range(len(chosen))]


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
