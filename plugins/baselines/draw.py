"""Which units to grow when nothing is known of them: drawn at random, from each width or from all together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

import growkit

__all__ = ["check_fraction", "draw_among_all", "draw_units"]


def draw_units(
    widths: Sequence[growkit.Width], fraction: float, generator: torch.Generator
) -> list[tuple[growkit.Width, int]]:
    """Draw the same share of the units of each width, without replacement.

    Args:
        widths: where to draw.
        fraction: share of the units of each width, in (0, 1]; at least one unit a width.
        generator: of the draw.

    Returns:
        (width, unit) pairs in random order, so that a budget that ends early favours no width.
    """
    pairs = []
    for width in widths:
        count = max(1, round(fraction * width.size))
        units = torch.randperm(width.size, generator=generator)[:count].tolist()
        pairs.extend((width, unit) for unit in units)
    order = torch.randperm(len(pairs), generator=generator).tolist()
    return [pairs[position] for position in order]


def draw_among_all(
    widths: Sequence[growkit.Width], fraction: float, generator: torch.Generator
) -> list[tuple[growkit.Width, int]]:
    """Draw a share of the units of all widths together, without replacement.

    Args:
        widths: where to draw.
        fraction: share of all units, in (0, 1]; at least one unit.
        generator: of the draw.

    Returns:
        (width, unit) pairs in random order.
    """
    pairs = [(width, unit) for width in widths for unit in range(width.size)]
    count = max(1, round(fraction * len(pairs)))
    return [pairs[position] for position in torch.randperm(len(pairs), generator=generator)[:count].tolist()]


def check_fraction(fraction: float) -> float:
    """Return the fraction; refuse one outside (0, 1]."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], not {fraction}")
    return fraction
