"""Splitting indices and gradients: the extreme eigenpairs of all splitting matrices, exactly or fast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from growkit_plugins.splitting.eigen import Eigenpairs, canonical, extreme, in_range, smallest_eigenpairs
from growkit_plugins.splitting.matrices import SplittingMatrices
from growkit_plugins.splitting.span import InSpan

__all__ = ["exact_eigenpairs", "fast_eigenpairs"]


def exact_eigenpairs(matrices: SplittingMatrices) -> tuple[list[Eigenpairs], list[Eigenpairs]]:
    """Form every splitting matrix and decompose it; one beyond the range of numbers counts as zero.

    Args:
        matrices: of all neurons.

    Returns:
        The smallest and the largest eigenpair of each neuron, for each of `matrices.neurons`.

    Cost: for every layer as many products as a neuron has weights, units x dimension^2 numbers of memory, and units x
    dimension^3 multiply-adds for the decomposition.

    Source: Wu, Wang and Liu (2019), arXiv:1910.02366, section 2.
    """
    smallest, largest = [], []
    for number, neurons in enumerate(matrices.neurons):
        dense = matrices.dense(number)
        values, vectors = torch.linalg.eigh(in_range(dense.flatten(1)).view_as(dense))
        scale = values.abs().amax(1)
        for side, place in ((smallest, 0), (largest, -1)):
            side.append(
                extreme(values[:, place], vectors[:, :, place], torch.zeros_like(scale), scale, neurons.dimension)
            )
    return smallest, largest


def fast_eigenpairs(
    matrices: SplittingMatrices,
    generator: torch.Generator,
    *,
    tolerance: float = 0.02,
    products: int = 32,
    wanted: int | None = None,
    largest: bool = False,
) -> list[Eigenpairs]:
    """Find the extreme eigenpairs of all neurons at once, by descent with back-propagation only.

    Args:
        matrices: of all neurons.
        generator: of the start vectors.
        tolerance: relative residual, see `smallest_eigenpairs`.
        products: most products to take.
        wanted: how many of the most extreme eigenvalues matter; all if None.
        largest: find the largest instead of the smallest.

    Returns:
        For each of `matrices.neurons`.

    Cost: two thirds of a training step a product and batch, whatever the number of neurons.

    Source: Wang et al. (2019), arXiv:1910.03103, with exact steps in place of RMSprop, see `smallest_eigenpairs`.
    """
    sign = -1 if largest else 1
    within = InSpan(matrices)

    def multiply(vectors: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [None if product is None else sign * product for product in within.multiply(vectors)]

    starts = [
        torch.randn(neurons.units, neurons.dimension, generator=generator).to(**matrices.like)
        for neurons in within.neurons
    ]
    found = smallest_eigenpairs(multiply, starts, tolerance=tolerance, products=products, wanted=wanted)
    return [
        Eigenpairs(sign * each.values, canonical(within.expand(number, each.vectors)), each.residuals, each.products)
        for number, each in enumerate(found)
    ]
