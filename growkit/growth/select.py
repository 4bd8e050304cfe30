"""The default choice among candidates: best gain per cost, as long as the budget lasts."""

from __future__ import annotations

from collections.abc import Sequence

from growkit.growth.budget import Budget
from growkit.growth.candidate import Candidate, Cost, sizes_after
from growkit.structure import Structure
from growkit.surgery import Deepen, Edit

__all__ = ["select"]


def select(candidates: Sequence[Candidate], structure: Structure, budget: Budget) -> list[Candidate]:
    """Choose greedily by gain per parameter (per FLOP, if only FLOPs are limited).

    Candidates that would exceed the budget are passed over; cheaper ones behind them still have their chance.
    Equal ratios keep the order of proposal.

    Args:
        candidates: priced.
        structure: of the model as it is.
        budget: limits on the size of the model after the event.

    Returns:
        The chosen candidates, best first.

    Cost: with a budget, one evaluation of the model's size for each candidate.
    """
    by_flops = budget.parameters is None and budget.flops is not None

    def worth(candidate: Candidate) -> float:
        assert candidate.cost is not None
        cost = candidate.cost.flops if by_flops else candidate.cost.parameters
        return candidate.gain / cost if cost > 0 else float("inf")

    ranked = sorted(candidates, key=worth, reverse=True)
    if budget.unlimited:
        return ranked
    chosen: list[Candidate] = []
    edits: list[Edit] = []
    for candidate in ranked:
        tentative = [*edits, candidate.edit]
        blocks = [c.cost for c in (*chosen, candidate) if isinstance(c.edit, Deepen) and c.cost]
        extra = Cost(sum(cost.parameters for cost in blocks), sum(cost.flops for cost in blocks))
        if budget.allows(structure, sizes_after(structure, tentative), extra):
            chosen.append(candidate)
            edits = tentative
    return chosen
