"""Join the edits of one width that are made at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from growkit.errors import SurgeryError
from growkit.surgery.edits import Deepen, Edit, Widen

__all__ = ["merge"]


def merge(edits: Iterable[Edit]) -> list[Edit]:
    """Join the edits of one width into one, keeping the order of first mention.

    Raises:
        SurgeryError: one width is both widened and narrowed, or narrowed twice, or widened with different `state`; or
            two edits copy one unit, and not both leave it at equal shares.
    """
    groups: dict[Any, list[Edit]] = {}
    for edit in edits:
        groups.setdefault(edit if isinstance(edit, Deepen) else edit.width, []).append(edit)
    return [group[0] if len(group) == 1 else _joined(key, group) for key, group in groups.items()]


def _joined(key: Any, edits: Sequence[Edit]) -> Widen:
    widenings = [edit for edit in edits if isinstance(edit, Widen)]
    first = edits[0]
    misfit = next((e for e in edits[1:] if not _fit(first, e)), None)
    if misfit is not None:
        raise SurgeryError(
            f"two edits of {key!r} cannot be made at once",
            seen=f"{first} and {misfit}",
            expected="one edit a width, or several that widen it, with one `state`",
            advice="apply them one after the other",
        )
    return Widen(
        width=widenings[0].width,
        copies=tuple(unit for edit in widenings for unit in edit.copies),
        new=sum(edit.new for edit in widenings),
        output=any(edit.output for edit in widenings),
        state=widenings[0].state,
        shares=_shares(widenings),
    )


def _fit(first: Edit, other: Edit) -> bool:
    return isinstance(first, Widen) and isinstance(other, Widen) and first.state == other.state


def _shares(edits: Sequence[Widen]) -> tuple[float, ...]:
    """Return the share of every copy; equal ones are written out where another edit names some."""
    if not any(edit.shares for edit in edits):
        return ()
    equal = Counter(unit for edit in edits if not edit.shares for unit in edit.copies)
    named = Counter(unit for edit in edits if edit.shares for unit in set(edit.copies))
    if twice := sorted(unit for unit, count in named.items() if count > 1 or unit in equal):
        raise SurgeryError(
            f"two edits of {edits[0].width!r} share out one unit, and cannot be made at once",
            seen=f"units {twice}, with `shares` in one edit and copies in another",
            expected="all copies of a unit in one edit, if it has `shares`",
            advice="name the copies and their shares in one edit, or apply the edits one after the other",
        )
    return tuple(share for edit in edits for share in edit.shares or [1 / (1 + equal[unit]) for unit in edit.copies])
