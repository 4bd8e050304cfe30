"""Unit maps: what becomes of the units of a width, and of what optimizers keep for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from growkit.structure.positions import Term

__all__ = ["POLICIES", "Policy", "UnitMap"]

Policy = Literal["carry", "zero", "copy"]
POLICIES: tuple[str, ...] = get_args(Policy)


@dataclass(frozen=True)
class UnitMap:
    """How the units of one width change.

    Attributes:
        source: old unit of each new unit, shape (new size,), int64; -1 for new units.
        share: what part of the old unit's outgoing weight each new unit carries, shape (new size,), float64; any
            numbers that sum to 1 over a unit and its copies, 0 for new units.
        size: number of old units.
        folds: further old units whose outgoing weight a new unit takes over: pairs of the old unit of each new one,
            -1 for none, and ones.
        policy: what becomes of optimizer state, see `Widen`.
    """

    source: Tensor
    share: Tensor
    size: int
    folds: tuple[Term, ...] = ()
    policy: Policy = "carry"

    @property
    def growth(self) -> float:
        """New size over old size."""
        return len(self.source) / self.size

    @cached_property
    def whole(self) -> list[Term]:
        """Old units of the new ones where each carries all of its old unit."""
        return [(self.source, torch.ones_like(self.share))]

    @property
    def shared(self) -> list[Term]:
        """Old units of the new ones where they share their old unit out, and take over others."""
        return [(self.source, self.share), *self.folds]

    @property
    def state(self) -> list[Term] | None:
        """Old units of the new ones for what optimizers keep; None where it goes as gradients do."""
        if self.policy == "carry":
            return None
        if self.policy == "copy":
            return self.whole
        stays = self.source == torch.arange(len(self.source))
        return [(torch.where(stays, self.source, -1), torch.ones_like(self.share))]
