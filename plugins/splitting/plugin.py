"""`Splitting`: the plugin."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

import growkit
from growkit_plugins.splitting.eigen import Eigenpairs
from growkit_plugins.splitting.indices import exact_eigenpairs, fast_eigenpairs
from growkit_plugins.splitting.matrices import SplittingMatrices
from growkit_plugins.splitting.splits import best_splits, candidates, moved_statistics

__all__ = ["Splitting"]

_log = logging.getLogger(__name__)


class Splitting(growkit.Plugin):
    """Splits the neurons whose offspring descend fastest, in the directions in which they do.

    By default neuron `theta` becomes `theta + step * v` and `theta - step * v`, each with half the outgoing weights,
    where `v` is the eigenvector of the smallest eigenvalue `lambda` of its splitting matrix; the predicted gain is
    `-step^2 / 2 * lambda`, and neurons with `lambda >= 0` are stable and never split. With `mass` above 1 outgoing
    weights may be negative, and a neuron splits in the best of five ways; only a matrix of zeros is stable then.

    Args:
        fraction: share of all neurons (of all layers together) to split at an event, in (0, 1].
        step: length of the offset of each offspring, above 0. It has to break the symmetry only.
        batches: training batches to estimate the splitting matrices on, at least 1.
        widths: name patterns such as "blocks.*"; all widths if empty. One that matches no width is an error when
            growth is first due.
        beta: sharpness of the softplus whose second derivative stands in for that of ReLU and its like, above 0.
        method: "fast" finds the eigenpairs by descent, at a cost that does not depend on the number of neurons;
            "exact" forms the matrices and decomposes them.
        tolerance: relative residual at which an eigenpair is good enough; the index is accurate to about its square.
        products: most steps of the descent.
        mass: bound on the sum of the magnitudes of the weights of a neuron's offspring, at least 1. 1 is splitting
            steepest descent; signed splitting takes 3.
        offspring: most offspring of a neuron with `mass` above 1, from 2 to 4.
        rounds: grow at no more than so many events; None for no limit.
        norm_statistics: running statistics of a batch norm right behind the layer: "copy" gives offspring those of
            their original, "follow" what they become with the offspring's weights. The predicted gain is for "copy".
        restart: learning-rate schedules begin anew after each event.

    Widths that cannot be split are logged with the reason. An event at which nothing can be split, or no split would
    lower the loss, leaves a warning, the same one only once.

    Source: Wu, Wang and Liu (2019), arXiv:1910.02366, algorithm 1; Wang et al. (2019), arXiv:1910.03103 (fast); Wu, Ye,
    Lei, Lee and Liu (2020), arXiv:2003.10392 (signed, there mass 3 and up to 4 offspring). Share 0.3, step 0.01, beta 3
    and copied statistics are the defaults of their code, which restarts the schedule and takes far more batches. Here
    biases move along with weights; everything up to the sum over units counts as part of the neuron, as the second
    activation behind a depthwise convolution; and neurons of residual streams and gates have the weights of all
    layers that make them.
    """

    def __init__(  # noqa: PLR0913 (the settings of three papers)
        self,
        fraction: float = 0.3,
        step: float = 0.01,
        batches: int = 1,
        widths: Sequence[str] = (),
        beta: float = 3.0,
        method: Literal["fast", "exact"] = "fast",
        tolerance: float = 0.02,
        products: int = 32,
        mass: float = 1.0,
        offspring: int = 4,
        rounds: int | None = None,
        norm_statistics: Literal["copy", "follow"] = "copy",
        restart: bool = False,
    ) -> None:
        _check("fraction", fraction, 0 < fraction <= 1, "in (0, 1]")
        _check("step", step, 0 < step < math.inf, "above 0 and finite")
        _check("batches", batches, batches >= 1, "at least 1")
        _check("widths", widths, not isinstance(widths, str), "as a list of name patterns")
        _check("beta", beta, 0 < beta < math.inf, "above 0 and finite")
        _check("method", method, method in ("fast", "exact"), '"fast" or "exact"')
        _check("tolerance", tolerance, tolerance >= 0, "at least 0")
        _check("products", products, products >= 2, "at least 2")
        _check("mass", mass, 1 <= mass < math.inf, "at least 1 and finite")
        _check("offspring", offspring, 2 <= offspring <= 4, "from 2 to 4")
        _check("rounds", rounds, rounds is None or rounds >= 0, "at least 0, or None")
        _check("norm_statistics", norm_statistics, norm_statistics in ("copy", "follow"), '"copy" or "follow"')
        self.fraction, self.step, self.count, self.widths = fraction, step, batches, tuple(widths)
        self.beta, self.method, self.tolerance, self.products = beta, method, tolerance, products
        self.mass, self.offspring, self.rounds = mass, offspring, rounds
        self.norm_statistics, self.restart = norm_statistics, restart
        self._said: set[str] = set()

    @growkit.hookimpl
    def growkit_propose(self, context: growkit.Context) -> list[growkit.Candidate]:
        """Propose to split the best neurons."""
        if self.rounds is not None and self._taken_part(context) >= self.rounds:
            return []
        matrices = SplittingMatrices(
            context.model,
            context.structure,
            context.loss,
            context.batches(self.count),
            widths=self.widths,
            beta=self.beta,
            mean=context.mean if context.processes > 1 else None,
        )
        for name, reason in matrices.refused.items():
            self._say_once(logging.INFO, f"splitting passes over width {name!r}: {reason}")
        if not matrices.neurons:
            self._say_once(logging.WARNING, f"splitting finds nothing to split: {_by_reason(matrices.refused)}")
            return []
        count = max(1, round(self.fraction * sum(neurons.units for neurons in matrices.neurons)))
        smallest, largest = self._eigenpairs(matrices, context.generator, count)
        splits = best_splits(
            matrices,
            *(smallest, largest, context.structure),
            mass=self.mass,
            offspring=self.offspring,
            count=count,
        )
        if not splits:
            self._say_once(logging.WARNING, "splitting finds no neuron whose split would lower the loss")
        follow = self.norm_statistics == "follow"
        return candidates(splits, self.step, moved_statistics(matrices, splits, self.step) if follow else ())

    @growkit.hookimpl
    def growkit_rewarm(self, event: growkit.Event) -> growkit.Rewarm | None:
        """Let the schedules begin anew, if that is wanted and this event was a split."""
        return growkit.Rewarm(restart=True) if self.restart and self.name in event.note["plugins"] else None

    def _say_once(self, level: int, text: str) -> None:
        """Log what may be as true at every event."""
        if text not in self._said:
            self._said.add(text)
            _log.log(level, text)

    def _taken_part(self, context: growkit.Context) -> int:
        return sum(self.name in entry.note.get("plugins", ()) for entry in context.journal.entries)

    def _eigenpairs(
        self, matrices: SplittingMatrices, generator: torch.Generator, count: int
    ) -> tuple[list[Eigenpairs], list[Eigenpairs] | None]:
        """Return the smallest eigenpair of every neuron and, where weights may be negative, the largest."""
        if self.method == "exact":
            smallest, largest = exact_eigenpairs(matrices)
            return smallest, largest if self.mass > 1 else None
        options = {"tolerance": self.tolerance, "products": self.products, "wanted": count}
        smallest = fast_eigenpairs(matrices, generator, **options)
        largest = fast_eigenpairs(matrices, generator, largest=True, **options) if self.mass > 1 else None
        for pairs in filter(None, (smallest, largest)):
            residuals = torch.cat([each.residuals for each in pairs])
            _log.info(
                "splitting took %d products; %d of %d eigenpairs converged, half of them to %.2g",
                max(each.products for each in pairs),
                int((residuals <= self.tolerance).sum()),
                len(residuals),
                residuals.median().item(),
            )
        return smallest, largest


def _by_reason(refused: Mapping[str, str]) -> str:
    """Describe why widths are passed over, with an example of each reason."""
    names: dict[str, list[str]] = {}
    for name, reason in refused.items():
        names.setdefault(reason, []).append(name)
    parts = [f"{first!r}{f' and {len(more)} more' * bool(more)}: {reason}" for reason, (first, *more) in names.items()]
    return "; ".join(parts) or "every width it may split is frozen, for reasons that `growkit inspect` shows"


def _check(name: str, value: Any, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"Splitting takes {name} {expected}, not {value!r}")
