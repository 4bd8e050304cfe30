"""Candidates: edits with a predicted gain and a cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from growkit.errors import SurgeryError
from growkit.structure import Structure
from growkit.surgery import Deepen, Edit, Narrow, Widen

__all__ = ["Candidate", "Cost", "price"]


@dataclass(frozen=True)
class Cost:
    """What an edit adds.

    Attributes:
        parameters: number of parameters; negative if it removes some.
        flops: FLOPs of one forward pass per sample.
    """

    parameters: int
    flops: float


@dataclass(frozen=True, eq=False)
class Candidate:
    """An edit that a plugin proposes.

    Attributes:
        edit: what to do.
        gain: predicted decrease of the training loss; any finite number.
        offsets: what to add to the units that a `Widen` touches once it is made, by parameter name. Each tensor has
            the shape of the parameter, except that the axis of the width holds the touched units only: first the
            originals in `edit.copies`, then their copies, then the new units, each with all its positions along that
            axis. Without offsets the edit preserves the function.
        cost: filled in by growkit.
        plugin: name of the plugin that proposed it, filled in by growkit.
    """

    edit: Edit
    gain: float = 0.0
    offsets: Mapping[str, Tensor] = field(default_factory=dict)
    cost: Cost | None = None
    plugin: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", float(self.gain))
        if not isinstance(self.edit, (Widen, Narrow, Deepen)) or not math.isfinite(self.gain):
            raise SurgeryError(
                "a candidate must have an edit and a finite gain",
                seen=f"edit={self.edit!r}, gain={self.gain}",
                expected="growkit.Widen, Narrow or Deepen, and a number",
                advice="check the statistics of the plugin for NaN",
            )


def sizes_after(structure: Structure, edits: list[Edit]) -> dict[str, int]:
    """Return the new size of every width that some edits change."""
    sizes: dict[str, int] = {}
    for edit in edits:
        if not isinstance(edit, Deepen):
            sizes[edit.width] = edit.new_size(sizes.get(edit.width, structure[edit.width].size))
    return sizes


def price(structure: Structure, edit: Edit) -> Cost:
    """Return what an edit alone would add to the model as it is now."""
    if isinstance(edit, Deepen):
        hidden = edit.hidden or edit.size
        shape = structure.outputs.get(edit.after, ())
        taps, places = (1, shape[1:-1]) if edit.kind == "linear" else (3 ** int(edit.kind[-2]), shape[2:])
        weights = 2 * taps * edit.size * hidden
        return Cost(weights + edit.size + hidden, 2.0 * weights * math.prod(places))
    sizes = sizes_after(structure, [edit])
    return Cost(
        structure.parameters(sizes) - structure.parameters(),
        structure.flops(sizes) - structure.flops(),
    )
