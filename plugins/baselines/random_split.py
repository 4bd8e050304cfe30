"""Splits of random units along random directions: what splitting does, without looking at the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import growkit
from growkit_plugins.baselines.draw import check_fraction, draw_among_all, draw_units

__all__ = ["RandomSplit"]


class RandomSplit(growkit.Plugin):
    """Splits random units, each along a random direction: the control for splitting's choice and direction at once.

    Incoming weights `theta` of a unit become `theta + step * v` and `theta - step * v`, each with half the outgoing
    weights. `v` is uniform on the unit sphere of all weights and biases of the layers that make the unit; norms are
    copied. Widths that only uniform copying preserves (under a LayerNorm, say) are passed over.

    Args:
        fraction: share of the units to split at an event, in (0, 1].
        step: length of the offset of each offspring, above 0.
        even: False draws among all units of all widths together, at least one, as splitting chooses among them. True
            draws the same share of each width, at least one a width: uniform widening.
        widths: name patterns such as "blocks.*"; all widths if empty.

    Source: the random split that Wu, Wang and Liu (2019), arXiv:1910.02366, compare splitting with.
    """

    def __init__(
        self, fraction: float = 0.3, step: float = 0.01, even: bool = False, widths: Sequence[str] = ()
    ) -> None:
        if not step > 0:
            raise ValueError(f"step must lie above 0, not {step}")
        self.fraction, self.step, self.even, self.widths = check_fraction(fraction), step, even, tuple(widths)

    @growkit.hookimpl
    def growkit_propose(self, context: growkit.Context) -> list[growkit.Candidate]:
        """Propose splits of random units, all with gain 0."""
        layers = {}
        for width in context.structure.matching(*self.widths):
            pieces = _of_layers(context.structure, width)
            if pieces and not width.uniform:
                layers[width.name] = pieces
        widths = [context.structure[name] for name in layers]
        draw = draw_units if self.even else draw_among_all
        return [
            growkit.Candidate(
                growkit.Widen(width.name, copies=[unit]), offsets=self._offsets(context, layers[width.name])
            )
            for width, unit in draw(widths, self.fraction, context.generator)
        ]

    def _offsets(self, context: growkit.Context, pieces: Sequence[growkit.Slice]) -> dict[str, Tensor]:
        """Return one random direction over all incoming parameters: plus for the original, minus for the copy."""
        draws = {}
        for piece in pieces:
            shape = list(context.structure.tensors[piece.parameter].shape)
            shape[piece.axis] = piece.multiplicity
            draws[piece.parameter] = piece.axis, torch.randn(shape, generator=context.generator)
        scale = self.step / torch.stack([draw.square().sum() for _, draw in draws.values()]).sum().sqrt()
        return {name: torch.cat([scale * draw, -scale * draw], dim=axis) for name, (axis, draw) in draws.items()}


def _of_layers(structure: growkit.Structure, width: growkit.Width) -> list[growkit.Slice]:
    """Return the incoming weights and biases of a width, without what norms hold."""
    tensors = structure.tensors
    weights = {piece.parameter for piece in width.incoming if tensors[piece.parameter].dim() > 1}
    owners = {name.rpartition(".")[0] for name in weights}
    return [piece for piece in width.incoming if piece.parameter.rpartition(".")[0] in owners]
