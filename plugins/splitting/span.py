"""Splitting matrices in the span of what layers are given, where that has fewer dimensions than their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten

from growkit_plugins.splitting.calls import Call
from growkit_plugins.splitting.matrices import SplittingMatrices
from growkit_plugins.splitting.neurons import Neurons
from growkit_plugins.splitting.replay import Curvature

__all__ = ["InSpan"]


class InSpan:
    """Splitting matrices, of which those of Linear layers with fewer inputs than weights are in their span.

    Of a matrix `sum_n h_n x_n x_n^T` all eigenvectors with an eigenvalue other than 0 are sums of the inputs `x_n`. A
    batch of 128 makes 128 dimensions of the 4,096 that a neuron may have.

    Args:
        matrices: of all neurons.

    Attributes:
        neurons: as in `matrices`, with coordinates in place of weights where that is shorter.

    Cost: a decomposition of (inputs, inputs) numbers a layer.
    """

    def __init__(self, matrices: SplittingMatrices) -> None:
        self._matrices = matrices
        self._spans = [_span(neurons, matrices.kept(neurons.width)) for neurons in matrices.neurons]
        self.neurons = [
            neurons if span is None else span.neurons
            for neurons, span in zip(matrices.neurons, self._spans, strict=True)
        ]

    def multiply(self, vectors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the products with a vector each, see `SplittingMatrices.multiply`."""
        others = [None if span else each for span, each in zip(self._spans, vectors, strict=True)]
        products = self._matrices.multiply(others)
        for number, (span, each) in enumerate(zip(self._spans, vectors, strict=True)):
            if span is not None and each is not None:
                products[number] = span.multiply(each)
        return products

    def expand(self, number: int, vectors: Tensor) -> Tensor:
        """Return vectors of weights, shape (units, dimension), for vectors of coordinates."""
        span = self._spans[number]
        return vectors if span is None else span.expand(vectors)


class _Span:
    """The neurons of one width in the span of their inputs.

    Args:
        neurons: as they are.
        curvatures: on all batches.
        basis: orthonormal, shape (coordinates, inputs and a bias).
    """

    def __init__(self, neurons: Neurons, curvatures: Sequence[Curvature], basis: Tensor) -> None:
        self._whole, self._curvatures, self._basis = neurons, curvatures, basis
        weight, *_ = neurons.rows
        shape = torch.Size((neurons.shapes[weight][0], len(basis)))
        self.neurons = Neurons(neurons.width, neurons.units, {weight: neurons.rows[weight]}, {weight: shape})

    def multiply(self, vectors: Tensor) -> Tensor:
        moved = self.neurons.unpack(vectors)
        products = [self.neurons.pack(curvature.multiply(moved)) for curvature in self._curvatures]
        return torch.stack(products).mean(0)

    def expand(self, vectors: Tensor) -> Tensor:
        (rows,) = self.neurons.unpack(vectors).values()
        whole = rows @ self._basis
        weight, *bias = self._whole.rows
        width = self._whole.shapes[weight][1]
        return self._whole.pack({weight: whole[:, :width], **{name: whole[:, width] for name in bias}})


def _span(neurons: Neurons, curvatures: Sequence[Curvature] | None) -> _Span | None:
    """Return neurons in the span of their inputs, or None where it is not smaller or not known."""
    if curvatures is None or any(call.function is not F.linear for each in curvatures for call in each.calls):
        return None
    slots = {tuple(call.slots.values()) for each in curvatures for call in each.calls}
    if slots != {tuple(neurons.rows)} or None in next(iter(slots)):
        return None
    dimension = neurons.dimension // next(iter(neurons.rows.values())).index.shape[1]
    inputs = [[_inputs(call, neurons) for call in each.calls] for each in curvatures]
    if sum(len(x) for each in inputs for x in each) >= dimension:
        return None
    stacked = torch.cat([x for each in inputs for x in each])
    products = stacked @ stacked.T
    if not products.isfinite().all():
        return None
    squares, left = torch.linalg.eigh(products)
    kept = squares > squares[-1] * 100 * torch.finfo(squares.dtype).eps
    if not kept.any():
        return None  # inputs of nothing but zeros
    basis = (left[:, kept] / squares[kept].sqrt()).T @ stacked
    reduced = [
        replace(each, calls=[_in_coordinates(call, x @ basis.T) for call, x in zip(each.calls, xs, strict=True)])
        for each, xs in zip(curvatures, inputs, strict=True)
    ]
    return _Span(neurons, reduced, basis)


def _inputs(call: Call, neurons: Neurons) -> Tensor:
    """Return the inputs of a Linear layer, shape (samples, inputs), with a last column of ones for a bias."""
    x = call.leaves[0].flatten(0, -2)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1) if len(neurons.rows) > 1 else x


def _in_coordinates(call: Call, inputs: Tensor) -> Call:
    """Return a call that takes coordinates in place of inputs."""
    inputs = inputs.unflatten(0, call.leaves[0].shape[:-1])
    leaves, spec = tree_flatten(((inputs, inputs[..., :0]), {}))
    return replace(call, leaves=tuple(leaves), spec=spec, slots={1: next(iter(call.slots.values()))})
