"""The knapsack: items with the largest total gain whose costs stay within budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["EXACT", "choose", "rank"]

Floats = NDArray[np.float64]

EXACT = 100  # items; beyond, no single one matters much, and the solver may take seconds
_NODES = 1000  # of the solver's search; a limit of time would make the choice depend on the machine


def choose(gains: ArrayLike, costs: ArrayLike, budgets: ArrayLike) -> list[int]:
    """Choose the items with the largest total gain within every budget.

    Up to `EXACT` items that could be chosen, the choice is optimal (to the tolerance of HiGHS, 1e-6 of the budget and
    of the best gain), unless the search has not ended after a thousand nodes. Beyond, and if it has not, it is greedy
    by gain per cost or begins with the best single item, whichever gains more: at least half the optimum for one
    budget, a 2m-th for m of them.

    Args:
        gains: of the items, shape (n,), finite; items without a positive gain are never chosen.
        costs: of each item, at least 0: shape (n,), or (m, n) for m budgets.
        budgets: a number, or shape (m,); may be infinite.

    Returns:
        The chosen items, best gain per cost first. The order of the items makes no difference, but among those with
        equal gain and cost.

    Cost: about 0.1 s for 10,000 items. Exactly, about as much for 100 items with one budget; at worst some seconds,
    if all gains are proportional to the costs.

    Source: Wang et al. (2019), arXiv:1910.03103, where the choice of 0 or 1 is relaxed to a linear programme and
    rounded. The bound for one budget is that of Dantzig (1957).
    """
    gains = np.asarray(gains, dtype=np.float64)
    budgets = np.asarray(budgets, dtype=np.float64).reshape(-1)
    costs = np.asarray(costs, dtype=np.float64).reshape(len(budgets), len(gains))
    possible = (gains > 0) & (costs <= budgets[:, None]).all(axis=0)
    ranked = [item for item in rank(gains, costs, budgets) if possible[item]]
    orders = [ranked, sorted(ranked, key=lambda item: -gains[item])]
    if 0 < len(ranked) <= EXACT:
        solved = _solve(gains[ranked], costs[:, ranked], budgets)
        orders.append([*(item for item, taken in zip(ranked, solved, strict=True) if taken), *ranked])
    found = max((_take(order, costs, budgets) for order in orders), key=lambda items: math.fsum(gains[list(items)]))
    return [item for item in ranked if item in found]


def rank(gains: Floats, costs: Floats, budgets: Floats) -> list[int]:
    """Return the items by gain per cost, best first; what several budgets count is added up in shares of them.

    Args:
        gains: shape (n,).
        costs: shape (m, n).
        budgets: shape (m,).
    """
    bounded = (budgets > 0) & np.isfinite(budgets)
    shares = (costs[bounded] / budgets[bounded, None]).sum(axis=0)
    worth = np.divide(gains, shares, out=np.full_like(gains, np.inf), where=shares > 0)
    return [int(item) for item in np.lexsort((*costs, -gains, -worth))]


def _take(order: Sequence[int], costs: Floats, budgets: Floats) -> set[int]:
    """Take items in order, passing over what does not fit."""
    taken: set[int] = set()
    left = budgets
    for item in order:
        if item not in taken and (costs[:, item] <= left).all():
            taken.add(item)
            left = left - costs[:, item]
    return taken


def _solve(gains: Floats, costs: Floats, budgets: Floats) -> NDArray[np.bool_]:
    """Return for each item whether HiGHS takes it, shape (n,): rounding may exceed a budget by a little."""
    # Imported here, since it takes a third of a second and growkit loads every installed plugin when it starts.
    from scipy.optimize import LinearConstraint, milp

    bounded = (budgets > 0) & np.isfinite(budgets)  # where the budget is 0, only items that cost nothing are possible
    shares = costs[bounded] / budgets[bounded, None]
    solution = milp(
        -gains / gains.max(),
        integrality=np.ones(len(gains)),
        bounds=(0, 1),
        constraints=[LinearConstraint(shares, ub=1.0)] if len(shares) else [],
        options={"mip_rel_gap": 0.0, "node_limit": _NODES},
    )
    taken: NDArray[np.bool_] = np.zeros(len(gains), dtype=bool) if solution.x is None else solution.x > 0.5
    return taken
