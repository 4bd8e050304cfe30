"""Which candidates can be made at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import growkit

__all__ = ["compatible"]


def compatible(candidates: Sequence[growkit.Candidate]) -> list[growkit.Candidate]:
    """Leave out what cannot be made beside a candidate of larger gain.

    A width is either widened or narrowed, and narrowed by one edit; a unit that is split into unequal shares is copied
    by one edit. growkit would call the whole event off.

    Args:
        candidates: in any order; of equal gains the first has precedence.

    Returns:
        Those left, in the order given.
    """
    first: dict[Hashable, growkit.Edit] = {}
    unequal: dict[tuple[str, int], bool] = {}
    left = set()
    for number in sorted(range(len(candidates)), key=lambda number: -candidates[number].gain):
        edit = candidates[number].edit
        leader = first.setdefault(edit if isinstance(edit, growkit.Deepen) else edit.width, edit)
        if leader is not edit and not _joinable(leader, edit):
            continue
        if isinstance(edit, growkit.Widen):
            units = {(edit.width, unit) for unit in edit.copies}
            if any(unequal[unit] or edit.shares for unit in units & unequal.keys()):
                continue
            unequal.update(dict.fromkeys(units, bool(edit.shares)))
        left.add(number)
    return [candidate for number, candidate in enumerate(candidates) if number in left]


def _joinable(edit: growkit.Edit, other: growkit.Edit) -> bool:
    return isinstance(edit, growkit.Widen) and isinstance(other, growkit.Widen) and edit.state == other.state
