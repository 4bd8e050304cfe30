"""`Splitting`: the plugin."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

import growkit
from growkit_plugins.splitting.neurons import Neurons, find_neurons, splitting_indices

__all__ = ["Splitting"]

_log = logging.getLogger(__name__)


class Splitting(growkit.Plugin):
    """Splits the neurons with the most negative splitting index, along the eigenvector that belongs to it.

    Neuron `theta` becomes `theta + step * v` and `theta - step * v`, each with half the outgoing weights; the predicted
    gain is `-step^2 / 2 * lambda`. Neurons with `lambda >= 0` are stable and never split.

    Args:
        fraction: share of all neurons (of all layers together) to split at an event, in (0, 1].
        step: length of the offset of each offspring, above 0. It has to break the symmetry only.
        batches: training batches to estimate the splitting matrices on, at least 1. On small networks one did as well
            as sixteen.
        widths: name patterns such as "blocks.*"; all widths if empty.
        beta: sharpness of the softplus whose second derivative stands in for that of ReLU.
        tolerance: relative residual of the eigenpairs; the indices are accurate to about its square.

    Source: Wu, Wang and Liu (2019), arXiv:1910.02366, algorithm 1; share 0.3, step 0.01 and beta 3 in the reference
    code. Here the bias moves along with the weight, and eigenpairs come from products with the exact splitting
    matrices instead of the matrices themselves.
    """

    def __init__(
        self,
        fraction: float = 0.3,
        step: float = 0.01,
        batches: int = 1,
        widths: Sequence[str] = (),
        beta: float = 3.0,
        tolerance: float = 0.01,
    ) -> None:
        if not 0 < fraction <= 1 or step <= 0 or batches < 1:
            raise ValueError(
                f"Splitting takes fraction in (0, 1], step > 0 and batches >= 1, not {fraction}, {step}, {batches}"
            )
        self.fraction, self.step, self.count = fraction, step, batches
        self.widths, self.beta, self.tolerance = tuple(widths), beta, tolerance

    @growkit.hookimpl
    def growkit_propose(self, context: growkit.Context) -> list[growkit.Candidate]:
        """Propose to split the best neurons."""
        layers, refused = find_neurons(
            context.model,
            context.structure,
            context.loss,
            context.batches(self.count),
            widths=self.widths,
            beta=self.beta,
        )
        for name, reason in refused.items():
            _log.info("splitting passes over width %r: %s", name, reason)
        count = max(1, round(self.fraction * sum(neurons.units for neurons in layers)))
        mean = context.mean if context.processes > 1 else None
        ranked: list[tuple[float, Neurons, int, Tensor]] = []
        for neurons in layers:
            values, vectors = splitting_indices(neurons, context.generator, self.tolerance, count, mean)
            ranked.extend((value, neurons, unit, vectors[unit]) for unit, value in enumerate(values.tolist()))
        ranked.sort(key=lambda entry: entry[0])
        return [self._split(context, *entry) for entry in ranked[:count] if entry[0] < 0]

    def _split(
        self, context: growkit.Context, value: float, neurons: Neurons, unit: int, direction: Tensor
    ) -> growkit.Candidate:
        """Describe the split of one neuron."""
        weight = context.structure.model.get_parameter(neurons.weight)
        size = weight[0].numel()
        offset = self.step * direction[:size].reshape(1, *weight.shape[1:])
        offsets = {neurons.weight: torch.cat([offset, -offset])}
        if neurons.bias is not None:
            moved = self.step * direction[size:]
            offsets[neurons.bias] = torch.cat([moved, -moved])
        edit = growkit.Widen(neurons.width, copies=[unit])
        return growkit.Candidate(edit, gain=-0.5 * self.step**2 * value, offsets=offsets)
