"""Vectors that are used with a number added to them, as gains are in `x * (1 + weight)`.

The sum can share units out although a number cannot: `weight` then makes up for it. That holds only where the vector
is used in no other way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from growkit.structure.roles import Axis, Constraint

__all__ = ["Shifts"]


class Shifts:
    """The sums of vectors and numbers in one pass.

    Attributes:
        numbers: what is always added to a vector, by its identity, once settled.
    """

    def __init__(self) -> None:
        self.numbers: dict[int, float] = {}
        self._vectors: dict[int, Tensor] = {}
        self._sums: dict[int, list[tuple[Constraint, float]]] = {}

    def know(self, tensor: Tensor, axes: list[Axis]) -> None:
        """Note a tensor of the model; only parameters of one axis can be shifted."""
        if isinstance(tensor, nn.Parameter) and len(axes) == 1:
            self._vectors[id(axes[0])] = tensor

    def add(self, axis: Axis, number: float, where: str) -> Constraint | None:
        """Return what ties the axis of a sum to that of the vector; None if that is no parameter."""
        if id(axis) not in self._vectors:
            return None
        constraint = Constraint("same", (Axis(axis.expr), axis), where)
        self._sums.setdefault(id(axis), []).append((constraint, number))
        return constraint

    def settle(self, constraints: Iterable[Constraint]) -> list[Constraint]:
        """Find the numbers; return demands on vectors that are used otherwise, too."""
        demands: list[Constraint] = []
        uses = Counter(id(axis) for each in _all(constraints) for axis in each.axes) if self._sums else Counter()
        for key, sums in self._sums.items():
            (first, number), *others = sums
            if uses[key] == len(sums) and all(other == number for _, other in others):
                self.numbers[id(self._vectors[key])] = number
            else:
                demands.append(Constraint("copies", first.axes[1:], first.where))
        return demands


def _all(constraints: Iterable[Constraint]) -> Iterator[Constraint]:
    """Yield constraints, and those that hold once an axis is used as a whole."""
    for constraint in constraints:
        yield constraint
        for axis in constraint.axes:
            yield from axis.slots.entire if axis.slots is not None else ()
