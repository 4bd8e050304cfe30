"""Schemes: into how many offspring a neuron splits, with which weights, and in which directions."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Scheme", "schemes"]


@dataclass(frozen=True)
class Scheme:
    """A way to split a neuron `theta` into offspring `theta_i` with outgoing weights `w_i`, which sum to 1.

    Attributes:
        name: in the words of the paper.
        weights: `w_i`; the first is that of the original.
        low: how far each offspring goes along the eigenvector of the smallest eigenvalue, in steps.
        high: how far along that of the largest.
    """

    name: str
    weights: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def value(self, smallest: float, largest: float) -> float:
        """Return the change of the loss in units of step^2 / 2: `sum_i w_i delta_i^T S delta_i`.

        Args:
            smallest: eigenvalue of the splitting matrix.
            largest: eigenvalue of the splitting matrix.
        """
        along_low, along_high = (
            sum(w * d * d for w, d in zip(self.weights, distances, strict=True)) for distances in (self.low, self.high)
        )
        return along_low * smallest + along_high * largest


def schemes(mass: float, offspring: int) -> list[Scheme]:
    """Return the schemes with `sum_i |w_i| <= mass`, no offspring further away than a step, and so many offspring.

    Args:
        mass: at least 1; 1 allows positive weights only, which leaves splitting steepest descent.
        offspring: most offspring of a neuron, from 2 to 4; more gain nothing.

    Returns:
        With fewest offspring first.

    Source: Wu, Ye, Lei, Lee and Liu (2020), arXiv:2003.10392, theorem on optimal signed splittings, with `c` for the
    mass: for each number of offspring and each sign, the minimiser of the second-order term.
    """
    plus, minus = (mass + 1) / 2, (mass - 1) / 2
    binary = Scheme("positive binary", (0.5, 0.5), (1, -1), (0, 0))
    if mass == 1:
        return [binary]
    signed = [
        binary,
        Scheme("negative binary", (plus, -minus), (0, 0), (minus / plus, 1)),
        Scheme("positive triplet", (plus / 2, plus / 2, -minus), (1, -1, 0), (0, 0, 0)),
        Scheme("negative triplet", (plus, -minus / 2, -minus / 2), (0, 0, 0), (0, 1, -1)),
        Scheme("quartet", (plus / 2, plus / 2, -minus / 2, -minus / 2), (1, -1, 0, 0), (0, 0, 1, -1)),
    ]
    return [scheme for scheme in signed if len(scheme.weights) <= offspring]
