"""Edits: frozen, JSON-able descriptions of a structural change, and the unit maps they stand for."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from growkit.errors import SurgeryError, suggestion
from growkit.structure import Structure, Width
from growkit.surgery.deepen import Deepen
from growkit.surgery.units import POLICIES, Policy, UnitMap

__all__ = ["Deepen", "Edit", "Narrow", "Widen", "check_edits"]


@dataclass(frozen=True)
class Widen:
    """Add units to a width: copies of existing ones, new ones, or both. Function-preserving.

    A copy has the incoming weights of its original; original and copies share the outgoing weights, equally unless
    `shares` says otherwise. A new unit has incoming weights as its layer initialises them, and zero outgoing weights.
    Copies are placed after the existing units in the order given, new units after them.

    Args:
        width: name of the width.
        copies: units to copy, each in 0..size-1; a unit named twice is copied twice.
        new: number of new units, at least 0.
        output: the width is one that only grows on demand: what the model puts out (the classes of a classifier), or
            the rows of a table that data choose (a vocabulary). What was there before stays as it is.
        state: what becomes of optimizer state that gathers gradients: "carry" gives each copy what it would have
            gathered; "copy" gives it all that its original has; with "zero" copies start from nothing, and originals
            keep what they have. Averages of weights follow the weights in any case.
        shares: for each entry of `copies`, what part of its original's outgoing weights that copy takes: any finite
            numbers, negative ones included. The original keeps what is left of 1. Empty for equal shares, which units
            must have that are not only summed (see `Width.uniform` and `Width.copies_only`).

    Source: Chen, Goodfellow and Shlens, Net2Net (2016), arXiv:1511.05641, there with random choice of `copies` and
    equal shares; `shares` as in Wu, Ye, Lei, Lee and Liu, signed splitting (2020), arXiv:2003.10392.
    """

    width: str
    copies: tuple[int, ...] = ()
    new: int = 0
    output: bool = False
    state: Policy = "carry"
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _normalise(self, "copies")
        object.__setattr__(self, "new", _whole(self, "new", self.new))
        object.__setattr__(self, "shares", self._real_shares())
        if self.new < 0 or not (self.copies or self.new):
            raise SurgeryError(
                f"{self} adds nothing",
                seen=f"copies={list(self.copies)}, new={self.new}",
                expected="at least one unit to copy, or new >= 1",
                advice="leave the edit out if nothing is to be added",
            )
        if self.state not in POLICIES:
            raise SurgeryError(
                f"{self} knows no such way for optimizer state",
                seen=f"state={self.state!r}",
                expected=f"one of {', '.join(map(repr, POLICIES))}",
                advice=suggestion(str(self.state), POLICIES, otherwise="leave `state` out to carry it exactly"),
            )

    def new_size(self, size: int) -> int:
        """Return the number of units after the edit."""
        return size + len(self.copies) + self.new

    def check(self, width: Width, *, exact: bool) -> None:
        """Refuse units that the width does not have and, if `exact`, what would change the function.

        Raises:
            SurgeryError: the edit does not fit the width.
        """
        _check_units(self, width, self.copies, "copies")
        if self.output and not width.open_ended:
            raise SurgeryError(
                f"{self} asks for outputs where there are none",
                seen=f"width {width.name!r}, which is no output of the model and no table that data look up",
                expected="output=True only for widths that grow on demand",
                advice="leave `output` out",
            )
        if exact:
            self._check_exact(width)

    def unit_map(self, width: Width) -> UnitMap:
        """Say what becomes of each unit."""
        added = torch.tensor([*self.copies, *[-1] * self.new], dtype=torch.int64)
        source = torch.cat([torch.arange(width.size), added])
        counts = torch.bincount(source[source >= 0], minlength=width.size).double()
        share = torch.where(source < 0, 0.0, 1.0 / counts[source.clamp(min=0)])
        if self.shares:
            taken = torch.tensor([*self.shares, *[0.0] * self.new], dtype=torch.float64)
            kept = torch.ones(width.size, dtype=torch.float64)
            share = torch.cat([kept.index_add_(0, added.clamp(min=0), -taken), taken])
        if self.output:
            # Nobody has listened to the copies so far; what follows goes on listening to their originals alone.
            share = (source == torch.arange(len(source))).double()
        return UnitMap(source, share, width.size, policy=self.state)

    def _real_shares(self) -> tuple[float, ...]:
        """Return the shares as floats."""
        try:
            given = list(self.shares)
            finite = all(map(math.isfinite, given))
        except (TypeError, ValueError, OverflowError, RuntimeError):
            given, finite = [], False
        if not finite or len(given) not in {0, len(self.copies)} or (given and self.output):
            raise SurgeryError(
                f"{self} does not share its units out",
                seen=f"shares={self.shares!r} for {len(self.copies)} copies, output={self.output}",
                expected="a finite number for each entry of `copies`; none with output=True, where copies take nothing",
                advice="leave `shares` out to share equally; what the originals keep is not listed",
            )
        return tuple(map(float, given))

    def _check_exact(self, width: Width) -> None:
        together = width.uniform or width.copies_only
        if self.shares and together:
            raise SurgeryError(
                f"{self} shares out units that are not only summed",
                seen=f"shares={list(self.shares)}, where {together}",
                expected="equal shares: what looks at all units together sees no shares, and its gradients do not "
                "follow them",
                advice="leave `shares` out, or pass exact=False if the output may change",
            )
        if width.copies_only and self.new:
            raise SurgeryError(
                f"{self} would change what the model computes",
                seen=f"new={self.new}, where {width.copies_only}",
                expected="copies only",
                advice="copy units, or pass exact=False if the output may change",
            )
        counts = Counter(self.copies)
        if width.uniform and (self.new or len({counts[unit] for unit in range(width.size)}) > 1):
            raise SurgeryError(
                f"{self} would change what the model computes",
                seen=f"units copied {sorted(set(counts[u] for u in range(width.size)))} times, new={self.new}; "
                f"{width.uniform}",
                expected=f"each of the {width.size} units copied equally often",
                advice="copy all units (`copies=range(size)`), or pass exact=False if the output may change",
            )


@dataclass(frozen=True)
class Narrow:
    """Remove units from a width: the inverse direction of `Widen`.

    Without `into`, the outgoing weights of the removed units are lost, which preserves the function only if the
    units were dead. With `into`, other units take them over, which is exact if those are copies of the removed ones.

    Args:
        width: name of the width.
        remove: units to remove, each once, in 0..size-1; at least one unit must stay.
        into: for each removed unit, the staying unit that takes over its outgoing weights; empty for none.
    """

    width: str
    remove: tuple[int, ...]
    into: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _normalise(self, "remove")
        _normalise(self, "into")
        valid = self.remove and len(set(self.remove)) == len(self.remove)
        if not valid or (self.into and (len(self.into) != len(self.remove) or set(self.into) & set(self.remove))):
            raise SurgeryError(
                f"{self} is not a removal",
                seen=f"remove={list(self.remove)}, into={list(self.into)}",
                expected="distinct units to remove and, if `into` is given, one staying unit for each of them",
                advice="name every removed unit once",
            )

    def new_size(self, size: int) -> int:
        """Return the number of units after the edit."""
        return size - len(self.remove)

    def check(self, width: Width, *, exact: bool) -> None:
        """Refuse units that the width does not have, and to remove all of them.

        Raises:
            SurgeryError: the edit does not fit the width.
        """
        _check_units(self, width, self.remove, "remove")
        _check_units(self, width, self.into, "into")
        if len(self.remove) == width.size:
            raise SurgeryError(
                f"{self} would leave no unit",
                seen=f"all {width.size} units removed",
                expected="at least one unit that stays",
                advice="keep a unit",
            )

    def unit_map(self, width: Width) -> UnitMap:
        """Say what becomes of each unit."""
        removed_units = set(self.remove)
        kept = [unit for unit in range(width.size) if unit not in removed_units]
        source = torch.tensor(kept, dtype=torch.int64)
        folds = []
        for removed, keeper in zip(self.remove, self.into, strict=False):
            fold = torch.full((len(kept),), -1, dtype=torch.int64)
            fold[kept.index(keeper)] = removed
            folds.append((fold, torch.ones(len(kept), dtype=torch.float64)))
        return UnitMap(source, torch.ones(len(kept), dtype=torch.float64), width.size, tuple(folds))


Edit = Widen | Narrow | Deepen

_LISTED = 8  # more names than that are no help in a message


def check_edits(structure: Structure, edits: Sequence[Edit], *, exact: bool) -> None:
    """Refuse edits that do not fit the widths of a model, before anything is touched.

    Raises:
        StructureError: there is no such width.
        SurgeryError: it is frozen, lacks the units, or the edit would change the function and `exact` is wanted.
    """
    for edit in edits:
        if isinstance(edit, Deepen):
            continue
        width = structure[edit.width]
        reason = _obstacle(width, edit, exact=exact)
        if reason is not None:
            raise SurgeryError(
                f"width {edit.width!r} is frozen and cannot change",
                seen=f"{edit}, but the width {reason}",
                expected=f"a width that can change: {_some([w.name for w in structure.growable]) or 'there is none'}",
                advice=str(width.advice),
            )
        edit.check(width, exact=exact)


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more (`growkit inspect` lists them)" if rest > 0 else "")


def _obstacle(width: Width, edit: Widen | Narrow, *, exact: bool) -> str | None:
    """Return why a width cannot take this edit, or None."""
    symbol = width.symbol
    on_demand = isinstance(edit, Widen) and edit.output
    return symbol.frozen or (None if on_demand else symbol.open_ended) or (symbol.inexact if exact else None)


def _normalise(edit: Widen | Narrow, field: str) -> None:
    """Turn a sequence of unit numbers of any integer type into a tuple of ints."""
    units = getattr(edit, field)
    if isinstance(units, (str, bytes)) or not hasattr(units, "__iter__"):
        _whole(edit, field, units, "a sequence of unit numbers")
    object.__setattr__(edit, field, tuple(_whole(edit, field, unit) for unit in units))


def _whole(edit: Widen | Narrow, field: str, value: Any, expected: str = "whole numbers") -> int:
    try:
        if isinstance(edit.width, str) and expected == "whole numbers":
            return operator.index(value)
    except TypeError:
        pass
    raise SurgeryError(
        f"this is no {type(edit).__name__}",
        seen=f"width={edit.width!r}, {field}={getattr(edit, field)!r}",
        expected=f"the name of a width, and {expected} for `{field}`",
        advice="see the docstring of the edit",
    )


def _check_units(edit: Edit, width: Width, units: Sequence[int], what: str) -> None:
    wrong = [unit for unit in units if not 0 <= unit < width.size]
    if wrong:
        raise SurgeryError(
            f"{edit} names units that width {width.name!r} does not have",
            seen=f"{what} {wrong}",
            expected=f"units from 0 to {width.size - 1}",
            advice="indices count from 0 and refer to the width as it is before the edit",
        )
