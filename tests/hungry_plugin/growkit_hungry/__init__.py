"""A plugin for growkit from outside: in every layer, it copies the unit that learns most."""

from importlib.resources import files
from importlib.resources.abc import Traversable

import growkit


class Hungry(growkit.Plugin):
    """Copies the units of each width whose incoming weights have the largest gradient.

    Args:
        share: share of the units of each width to copy, in (0, 1]; at least one.
    """

    def __init__(self, share: float = 0.25) -> None:
        self.share = share

    @growkit.hookimpl
    def growkit_propose(self, context: growkit.Context) -> list[growkit.Candidate]:
        """Propose copies, with the squared norm of the gradient as gain."""
        for batch in context.batches(2):
            context.loss(batch).backward()
        gradients = {name: p.grad for name, p in context.model.named_parameters() if p.grad is not None}
        candidates = []
        for width in (width for width in context.structure.growable if not width.uniform):
            pieces = [piece for piece in width.incoming if piece.parameter in gradients]
            parts = [gradients[piece.parameter].movedim(piece.axis, 0)[piece.index] for piece in pieces]
            hunger = sum(part.flatten(1).square().sum(1) for part in parts)
            gains, units = hunger.topk(max(1, round(self.share * width.size)))
            for gain, unit in zip(gains.tolist(), units.tolist(), strict=True):
                candidates.append(growkit.Candidate(growkit.Widen(width.name, copies=[unit]), gain=gain))
        return candidates


@growkit.hookimpl
def growkit_plugin_classes() -> list[type[growkit.Plugin]]:
    """Offer `Hungry` to recipes by its name."""
    return [Hungry]


@growkit.hookimpl
def growkit_recipes() -> Traversable:
    """Offer the recipes in this folder."""
    return files(__name__)
