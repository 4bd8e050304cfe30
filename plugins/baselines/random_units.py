"""New units with random incoming and zero outgoing weights."""

from __future__ import annotations

from collections.abc import Sequence

import growkit
from growkit_plugins.baselines.draw import check_fraction, draw_units

__all__ = ["RandomUnits"]


class RandomUnits(growkit.Plugin):
    """Adds new units at every event. The network computes what it computed before.

    Incoming weights are drawn as the layer initialises itself; outgoing weights start at zero. Widths to which only
    copies can be added are passed over.

    Args:
        fraction: new units of each width as a share of its units, in (0, 1]; at least one a width.
        widths: name patterns such as "blocks.*"; all widths if empty.
    """

    def __init__(self, fraction: float = 0.2, widths: Sequence[str] = ()) -> None:
        self.fraction, self.widths = check_fraction(fraction), tuple(widths)

    @growkit.hookimpl
    def growkit_propose(self, context: growkit.Context) -> list[growkit.Candidate]:
        """Propose new units, all with gain 0."""
        matching = context.structure.matching(*self.widths)
        widths = [width for width in matching if not width.uniform and not width.copies_only]
        drawn = draw_units(widths, self.fraction, context.generator)
        return [growkit.Candidate(growkit.Widen(width.name, new=1)) for width, _ in drawn]
