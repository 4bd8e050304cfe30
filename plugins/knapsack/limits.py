"""Choose candidates within limits on the whole model, whose cost is more than the sum of what each adds."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import growkit
from growkit_plugins.knapsack.solve import choose, rank

__all__ = ["Limit", "choose_within", "limit_size"]


@dataclass(frozen=True, eq=False)
class Limit:
    """What the model may cost once candidates are made.

    Attributes:
        costs: what each candidate alone adds to the model as it is, shape (candidates,).
        most: what the whole model may cost.
        total: returns what it would cost with some of the candidates, given by their numbers. The more of those that
            cost something, the more it costs.
    """

    costs: NDArray[np.float64]
    most: float
    total: Callable[[Sequence[int]], float]


def limit_size(cost: str, most: float, candidates: Sequence[growkit.Candidate], structure: growkit.Structure) -> Limit:
    """Return a limit on a size that the structure knows for any widths.

    Args:
        cost: "parameters" or "flops" (of one forward pass per sample).
        most: of the whole model.
        candidates: priced.
        structure: of the model as it is.
    """
    costs = np.array([getattr(candidate.cost, cost) for candidate in candidates], dtype=np.float64)
    widths = list(dict.fromkeys(c.edit.width for c in candidates if not isinstance(c.edit, growkit.Deepen)))
    places = {width: place for place, width in enumerate(widths)}
    place, added = np.full(len(candidates), len(widths)), costs.copy()  # blocks, beside all widths
    for number, candidate in enumerate(candidates):
        if not isinstance(candidate.edit, growkit.Deepen):
            place[number], added[number] = places[candidate.edit.width], candidate.edit.new_size(0)

    def total(chosen: Sequence[int]) -> float:
        numbers = np.array(chosen, dtype=np.int64)
        *more, blocks = np.bincount(place[numbers], added[numbers], len(widths) + 1).tolist()
        sizes = {width: structure[width].size + int(units) for width, units in zip(widths, more, strict=True)}
        return float(getattr(structure, cost)(sizes)) + float(blocks)

    return Limit(costs, most, total)


def choose_within(candidates: Sequence[growkit.Candidate], limits: Sequence[Limit]) -> list[int]:
    """Choose among candidates so that the whole model keeps to every limit.

    The knapsack is filled with what each candidate would add to the model as it is. Growing two neighbouring layers
    adds more than that, so the candidates are then taken one after the other, the chosen ones first, as long as the
    model with all of them keeps to the limits: the least worthy drop out, and others fill what is left. What costs
    nothing under any limit, such as removals, goes first and makes room.

    Args:
        candidates: with gains above 0, and edits that can be made together.
        limits: on the cost of the whole model; none at all let everything pass.

    Returns:
        Numbers of the chosen candidates, best gain per cost first. Of candidates that are equal in gain and cost, the
        first come first.

    Cost: that of `choose`, and some evaluations of the size of the model for each kind of candidate (all that add
    equally many units to one width are of one kind).
    """
    gains = np.array([candidate.gain for candidate in candidates], dtype=np.float64)
    costs = np.array([limit.costs for limit in limits], dtype=np.float64).reshape(len(limits), len(candidates))
    costly: NDArray[np.bool_] = np.any(costs > 0, axis=0)
    free, paid = np.flatnonzero(~costly).tolist(), np.flatnonzero(costly)
    rooms = np.array([limit.most - limit.total(free) for limit in limits], dtype=np.float64)
    ranked = rank(gains, costs, rooms)
    knapsack = {int(paid[item]) for item in choose(gains[paid], costs[:, paid], rooms)}
    by_worth = sorted((number for number in ranked if costly[number]), key=lambda number: number not in knapsack)
    by_gain = sorted(by_worth, key=lambda number: -gains[number])  # where one that gains much must not come too late
    kinds = [_kind(candidate.edit) for candidate in candidates]

    def fits(numbers: Sequence[int]) -> bool:
        return all(limit.total(numbers) <= limit.most for limit in limits)

    taken = max((_take(free, order, kinds, fits) for order in (by_worth, by_gain)), key=lambda n: math.fsum(gains[n]))
    places = {number: place for place, number in enumerate(ranked)}
    return sorted(taken, key=places.__getitem__)


def _take(
    free: list[int], order: list[int], kinds: Sequence[Hashable], fits: Callable[[Sequence[int]], bool]
) -> list[int]:
    """Take candidates in order; once one does not fit, no other of its kind does, now or later."""
    taken = list(free)
    while order:
        fitting = _fitting(taken, order, fits)
        taken += order[:fitting]
        full = kinds[order[fitting]] if fitting < len(order) else None
        order = [number for number in order[fitting:] if kinds[number] != full]
    return taken


def _fitting(taken: list[int], order: list[int], fits: Callable[[Sequence[int]], bool]) -> int:
    """Return how many of the next candidates fit beside those taken, in few questions if only few do."""
    high = 1
    while high < len(order) and fits(taken + order[:high]):
        high *= 2
    counts, high = range(1, len(order) + 1), min(high, len(order))
    return bisect_left(counts, True, high // 2, high, key=lambda count: not fits(taken + order[:count]))


def _kind(edit: growkit.Edit) -> Hashable:
    """Return what edits of equal cost have in common."""
    return edit if isinstance(edit, growkit.Deepen) else (edit.width, edit.new_size(0))
