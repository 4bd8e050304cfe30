"""`Knapsack`: the plugin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import growkit
from growkit_plugins.knapsack.compatible import compatible
from growkit_plugins.knapsack.latency import limit_latency
from growkit_plugins.knapsack.limits import Limit, choose_within, limit_size

__all__ = ["Knapsack"]

Cost = Literal["parameters", "flops", "latency"]


class Knapsack(growkit.Plugin):
    """Chooses, among the candidates of all plugins, those with the largest total gain that a budget allows.

    Only candidates that predict a positive gain are chosen. The `Budget` of the run holds as well; without a limit of
    its own the plugin fills that one.

    Args:
        cost: what the two limits count: "parameters", "flops" (of one forward pass per sample) or "latency" (measured
            seconds of one forward pass).
        per_round: what an event may add at most, as a share of what the model costs, above 0; None for no limit.
        total: what the whole model may cost afterwards, above 0: parameters, FLOPs per sample, or seconds; None for no
            limit.
        samples: batch size at which latency is measured, at least 1; None for that of the example, usually 2.
        repeats: how often each forward pass is timed, at least 1.

    Limits of parameters and FLOPs are never exceeded. Latency is measured and added up, so its limits hold as well as
    small differences can be measured and added up; and a run that chooses by it cannot be repeated bit for bit.

    Source: Wang et al. (2019), arXiv:1910.03103. There the square root or the logarithm of the cost stands for the
    cost, the choice is a rounded linear programme, and each group of layers has a budget of its own. Here costs are
    the true ones, those of the model with all that was chosen.
    """

    def __init__(
        self,
        cost: Cost = "parameters",
        per_round: float | None = None,
        total: float | None = None,
        samples: int | None = None,
        repeats: int = 9,
    ) -> None:
        if cost not in get_args(Cost):
            raise ValueError(f"Knapsack takes cost {', '.join(map(repr, get_args(Cost)))}, not {cost!r}")
        for name, limit in (("per_round", per_round), ("total", total)):
            if limit is not None and not 0 < limit < math.inf:
                raise ValueError(f"Knapsack takes a finite {name} above 0, or None, not {limit}")
        if repeats < 1 or (samples is not None and samples < 1):
            raise ValueError(f"Knapsack takes samples >= 1 or None and repeats >= 1, not {samples} and {repeats}")
        self.cost, self.per_round, self.total = cost, per_round, total
        self.samples, self.repeats = samples, repeats

    @growkit.hookimpl
    def growkit_select(
        self, candidates: Sequence[growkit.Candidate], budget: growkit.Budget, context: growkit.Context
    ) -> list[growkit.Candidate]:
        """Choose the candidates with the largest total gain."""
        possible = compatible([candidate for candidate in candidates if candidate.gain > 0])
        chosen = choose_within(possible, self._limits(possible, budget, context))
        return [possible[number] for number in chosen]

    def _limits(
        self, candidates: Sequence[growkit.Candidate], budget: growkit.Budget, context: growkit.Context
    ) -> list[Limit]:
        structure = context.structure
        limits = []
        for cost, now, allowed in (
            ("parameters", structure.parameters(), budget.parameters),
            ("flops", structure.flops(), budget.flops),
        ):
            most = min(math.inf if allowed is None else allowed, self._most(now) if cost == self.cost else math.inf)
            if most < math.inf:
                limits.append(limit_size(cost, most, candidates, structure))
        if self.cost == "latency" and self._most(1.0) < math.inf:
            limits.append(limit_latency(candidates, context, self._most, samples=self.samples, repeats=self.repeats))
        return limits

    def _most(self, now: float) -> float:
        """Return what the model may cost, given what it costs."""
        grown = math.inf if self.per_round is None else now + self.per_round * now
        return min(grown, math.inf if self.total is None else self.total)
