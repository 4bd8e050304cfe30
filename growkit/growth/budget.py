"""How much to grow at the most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from growkit.growth.candidate import Cost
from growkit.structure import Structure

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """Limits on the size of the whole model; None for no limit.

    Attributes:
        parameters: number of parameters.
        flops: FLOPs of one forward pass per sample, a multiply-add counting as two.
    """

    parameters: int | None = None
    flops: float | None = None

    @property
    def unlimited(self) -> bool:
        """Whether there is no limit at all."""
        return self.parameters is None and self.flops is None

    def allows(self, structure: Structure, sizes: Mapping[str, int], extra: Cost) -> bool:
        """Say whether the model stays within the limits.

        Args:
            structure: of the model.
            sizes: new size by width name; the others stay.
            extra: what comes on top, outside any width.
        """
        if self.parameters is not None and structure.parameters(sizes) + extra.parameters > self.parameters:
            return False
        return self.flops is None or structure.flops(sizes) + extra.flops <= self.flops
