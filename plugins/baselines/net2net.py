"""Net2WiderNet: copy random units and share out their outgoing weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import growkit
from growkit_plugins.baselines.draw import check_fraction, draw_units

__all__ = ["Net2Net"]


class Net2Net(growkit.Plugin):
    """Copies random units at every event. Exact by default: the network computes what it computed before.

    Widths that only uniform copying preserves (under a LayerNorm, say) are passed over.

    Args:
        fraction: share of the units of each width to copy, in (0, 1]; at least one unit a width.
        noise: standard deviation of the noise added to the incoming weights of each copy, relative to the root mean
            square of the layer's weights. 0 keeps the function and leaves copies and originals equal until something
            breaks the symmetry; 0.01 to 0.1 lets them part.
        widths: name patterns such as "blocks.*"; all widths if empty.

    Source: Chen, Goodfellow and Shlens, Net2Net (2016), arXiv:1511.05641, section 2.2. There every layer is widened
    to a given size; here by a share.
    """

    def __init__(self, fraction: float = 0.2, noise: float = 0.0, widths: Sequence[str] = ()) -> None:
        self.fraction, self.noise, self.widths = check_fraction(fraction), noise, tuple(widths)

    @growkit.hookimpl
    def growkit_propose(self, context: growkit.Context) -> list[growkit.Candidate]:
        """Propose copies of random units, all with gain 0."""
        widths = [width for width in context.structure.matching(*self.widths) if not width.uniform]
        return [
            growkit.Candidate(
                growkit.Widen(width.name, copies=[unit]),
                offsets=self._offsets(context, width) if self.noise else {},
            )
            for width, unit in draw_units(widths, self.fraction, context.generator)
        ]

    def _offsets(self, context: growkit.Context, width: growkit.Width) -> dict[str, Tensor]:
        """Return noise for the copy, none for the original, on every incoming weight matrix or kernel."""
        offsets = {}
        weights = context.structure.tensors
        for piece in width.incoming:
            weight = weights[piece.parameter]
            if weight.dim() < 2:
                continue  # biases and statistics of norms stay equal
            shape = list(weight.shape)
            shape[piece.axis] = piece.multiplicity
            draw = torch.randn(shape, generator=context.generator).to(weight)
            noise = self.noise * weight.detach().square().mean().sqrt() * draw
            offsets[piece.parameter] = torch.cat([torch.zeros_like(noise), noise], dim=piece.axis)
        return offsets
