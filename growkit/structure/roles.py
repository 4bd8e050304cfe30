"""Roles: which tensors carry a copied unit as it is, and which carry its share.

When a unit becomes `n` copies, each axis that runs over the units does one of two things: it *copies* the unit's
entries, or it *shares* them out (each copy holds 1/n). The two behave like co- and contravariant indices: a sum
over the units leaves the result unchanged exactly when one factor copies and the other shares. Operations turn
that into constraints between axes; solving them says for every parameter axis whether it is incoming (copies) or
outgoing (shares), or that no assignment preserves the function.

Attention adds one thing: its scores are divided by the square root of the head size. What shares the units out must
then make up for that, too, so a role has a second component, the *power* of the square root of the growth factor.

The constraints compare two roles as equal or as adding up to a constant, so a union-find with signs solves them in
near-linear time. A product of two factors may share once at most; those three-way constraints are decided last, in
the order of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from growkit.structure.dimensions import Concat, Expr, Route, Symbol, occurrences, resolve

__all__ = ["COPIES", "SHARES", "Axis", "Constraint", "Role", "Roles", "Slots"]

COPIES, SHARES = 0, 1


class Role(NamedTuple):
    """What an axis does with the copies of a unit.

    Attributes:
        shares: SHARES or COPIES.
        power: its entries are multiplied by the square root of (new size / old size) to this power.
    """

    shares: int
    power: int


class Axis:
    """One axis of one traced tensor. Its identity stands for its role, its expression for its size.

    Attributes:
        expr: the expression.
        slots: where the tensor has another axis that numbers tensors of different use (the 3 of a fused projection of
            queries, keys and values): this axis as it is at each of its entries.
    """

    __slots__ = ("expr", "slots")

    def __init__(self, expr: Expr, slots: Slots | None = None) -> None:
        self.expr = expr
        self.slots = slots

    def __repr__(self) -> str:
        return f"Axis({self.expr!r})"


class Slots:
    """What an axis is at each stretch of a numbering axis: an axis of its own, if it is asked for.

    Attributes:
        numbering: the numbering axis.
        entire: the demands on the axis itself, once it is used as it is at all entries together.

    Args:
        numbering: see above.
        entire: see above.
        tie: demands of an axis what has to hold from an entry of the numbering axis on, for a number of entries.
    """

    def __init__(self, numbering: Axis, entire: Sequence[Constraint], tie: Callable[[Axis, int, int], None]) -> None:
        self.numbering, self.entire, self._tie = numbering, entire, tie
        self._made: dict[tuple[int, int], Axis] = {}

    def at(self, start: int, count: int, expr: Expr) -> Axis:
        """Return the axis as it is at `count` entries of the numbering axis from `start` on."""
        if (start, count) not in self._made:
            self._made[start, count] = Axis(expr)
            self._tie(self._made[start, count], start, count)
        return self._made[start, count]


class Constraint:
    """What one operation demands of the roles of the axes it touches.

    Attributes:
        kind: "same" and "opposite" relate two axes; "copies" and "shares" fix one; "product" says that the third
            axis shares if one of the first two does, and that not both may; "piece" says that the first axis is a
            stretch of the second, or the same at each part of such a stretch.
        axes: the axes in that order.
        where: the operation, for the reason given when the demand cannot be met.
        offset: where the stretch begins ("piece").
        length: of the stretch; 0 if it is as long as the first axis.
        power: of the square root of the growth factor by which the sum is divided afterwards ("opposite").
    """

    __slots__ = ("axes", "kind", "length", "offset", "power", "where")

    def __init__(self, kind: str, axes: tuple[Axis, ...], where: str, offset: int = 0, length: int = 0) -> None:
        self.kind, self.axes, self.where, self.offset, self.length = kind, axes, where, offset, length
        self.power = 0


_Key = tuple[int, int, Route]
_Place = tuple[Symbol, Route]
_ANCHOR: _Key = (0, 0, ())  # the role "copies"


class Roles:
    """The solution of a list of constraints.

    Symbols whose constraints contradict each other are marked as inexact, with the operation as the reason.

    Args:
        constraints: in the order of the forward pass.
        fixed: axes of tensors that are not trained; where there is a choice, they copy, and what is computed from them.
    """

    def __init__(self, constraints: Iterable[Constraint], fixed: Iterable[Axis] = ()) -> None:
        # For each key: another one, whether its role is the opposite, and what is added to its power.
        self._parent: dict[_Key, tuple[_Key, int, int]] = {}
        self._axes: list[Axis] = []  # keeps ids unique while this object lives
        self._places: dict[int, tuple[Expr, dict[_Place, None]]] = {}
        self._merged: set[int] = set()
        self._fixed = {(id(axis), id(symbol), route) for axis in fixed for symbol, route in self.places(axis)}
        self._products: list[Constraint] = []
        for constraint in constraints:
            self._add(constraint)
        for constraint in self._products:
            self._decide(constraint)

    def of(self, axis: Axis, symbol: Symbol, route: Route = ()) -> Role:
        """Return the role of an axis for one place of a symbol; an axis that nothing decides copies from now on."""
        root, sign, power = self._find((id(axis), id(symbol), route))
        if root != _ANCHOR:
            # Whatever the root's own role is then, this key has to come out as a plain copy.
            self._parent[root] = (_ANCHOR, sign, power if sign else -power)
            return Role(COPIES, 0)
        return Role(sign, power)

    def places(self, axis: Axis) -> dict[_Place, None]:
        """Return the places of symbols along an axis, in order."""
        expr = resolve(axis.expr)
        if id(expr) not in self._places:
            self._places[id(expr)] = expr, dict.fromkeys(occurrences(expr))
        return self._places[id(expr)][1]

    def _add(self, constraint: Constraint) -> None:
        self._axes.extend(constraint.axes)
        for axis in constraint.axes:
            self._merge_slots(axis)
        if constraint.kind == "product":
            self._products.append(constraint)
        else:
            self._relate(constraint)

    def _merge_slots(self, axis: Axis) -> None:
        """An axis that is used as a whole has one role at all entries of the numbering axis."""
        if axis.slots is None or id(axis) in self._merged:
            return
        self._merged.add(id(axis))
        for constraint in axis.slots.entire:
            self._add(constraint)

    def _relate(self, constraint: Constraint) -> None:
        kind, axes = constraint.kind, constraint.axes
        opposite = kind in {"opposite", "shares"}
        moves = self._into_whole(axes[0], axes[1], constraint) if kind == "piece" else [_stay]
        for symbol, route in self.places(axes[0]):
            if symbol.frozen or symbol.inexact:
                continue
            a = (id(axes[0]), id(symbol), route)
            there = [_ANCHOR]
            if len(axes) > 1:
                there = [key for move in moves for key in self._keys(axes[1], symbol, move(route))]
            for b in there:
                evenly = opposite and symbol.uniform and self._shared_evenly(a, b, constraint.power)
                if not (evenly or self._unite(a, b, opposite, constraint.power)):
                    _contradiction(symbol, kind, constraint.where)

    def _shared_evenly(self, a: _Key, b: _Key, power: int) -> bool:
        """Say whether two roles multiply to 1 / n for n copies: twice the inverse root of n is as good as one share."""
        first, second = self._evenly(a), self._evenly(b)
        return first is not None and second is not None and first + second == power - 2

    def _multiplied_evenly(self, a: _Key, b: _Key, product: _Key) -> bool:
        first, second, total = self._evenly(a), self._evenly(b), self._evenly(product)
        return first is not None and second is not None and first + second == total

    def _evenly(self, key: _Key) -> int | None:
        """Return what a role is as a power of the root of n, if all units get n copies; None if it is not known."""
        role = self._known(key)
        return None if role is None else role.power - 2 * role.shares

    def _keys(self, axis: Axis, symbol: Symbol, route: Route) -> list[_Key]:
        """Return the keys of the places of a symbol that correspond to a route along another axis.

        The other axis may be a factor of this one, whose slower factors are concatenations, or the other way round;
        then a route of one is the end of several of the other.
        """
        routes = [there for place, there in self.places(axis) if place is symbol]
        chosen = (
            [there for there in routes if there == route]
            or [there for there in routes if there[len(there) - len(route) :] == route]
            or [there for there in routes if route[len(route) - len(there) :] == there]
            or routes
        )
        return [(id(axis), id(symbol), there) for there in chosen]

    def _into_whole(self, piece: Axis, whole: Axis, constraint: Constraint) -> list[Callable[[Route], Route]]:
        """Return what turns a route along a stretch of an axis into those along the axis."""
        expr, stretch = resolve(whole.expr), resolve(piece.expr)
        if not isinstance(expr, Concat):
            return [_stay]
        begin, end = constraint.offset, constraint.offset + (constraint.length or stretch.size)
        parts: list[int] = []
        position = 0
        for index, part in enumerate(expr.parts):
            if position < end and position + part.size > begin:
                parts.append(index)
            position += part.size
        if isinstance(stretch, Concat) and stretch.parts[0].size == expr.parts[parts[0]].size:
            every = len(stretch.parts)
            return [partial(_laid_flat, first) for first in parts[::every]]
        return [partial(_inside, part) for part in parts]  # a part, or a factor of it

    def _decide(self, constraint: Constraint) -> None:
        left, right, out = constraint.axes
        for symbol, route in self.places(out):
            if symbol.frozen or symbol.inexact:
                continue
            target = (id(out), id(symbol), route)
            one, other = self._keys(left, symbol, route), self._keys(right, symbol, route)
            if one and other:
                if symbol.uniform and self._multiplied_evenly(one[0], other[0], target):
                    continue
                # One side must copy. Prefer what is known already, else let the left one copy.
                known, known_other = self._known(one[0]), self._known(other[0])
                undecided = known is None and known_other is None
                shares, copies = known and known.shares == SHARES, known_other and known_other.shares == COPIES
                if shares or copies or (undecided and self._is_fixed(other[0]) and not self._is_fixed(one[0])):
                    one, other, known = other, one, known_other
                power = known.power if known is not None else 0
                fits = all([self._unite(key, _ANCHOR, False, power) for key in one])
            else:
                other, power, fits = one or other, 0, True
            if not (fits and all([self._unite(key, target, False, -power) for key in other])):
                _contradiction(symbol, "product", constraint.where)

    def _known(self, key: _Key) -> Role | None:
        root, sign, power = self._find(key)
        return Role(sign, power) if root == _ANCHOR else None

    def _is_fixed(self, key: _Key) -> bool:
        return self._find(key)[0] in self._fixed

    def _find(self, key: _Key) -> tuple[_Key, int, int]:
        """Return the root of a key, whether its role is the opposite of the root's, and the power on top of it."""
        path: list[tuple[_Key, int, int]] = []
        node, sign, power = key, 0, 0
        while (link := self._parent.get(node)) is not None:
            path.append((node, sign, power))
            power += -link[2] if sign else link[2]
            sign ^= link[1]
            node = link[0]
        for visited, before, ahead in path:
            rest = power - ahead
            self._parent[visited] = (node, sign ^ before, -rest if before else rest)
        return node, sign, power

    def _unite(self, a: _Key, b: _Key, opposite: bool, power: int = 0) -> bool:
        """Demand `a = b`, or `a + b = (SHARES, power)`; say whether that can be."""
        (root_a, sign_a, power_a), (root_b, sign_b, power_b) = self._find(a), self._find(b)
        # In terms of the root of b: a is `sign` times it plus `total`.
        total = power + (-power_b if opposite else power_b)
        sign = sign_b ^ int(opposite)
        if root_a == root_b:
            return sign_a == sign and power_a == total
        gap = total - power_a
        if not self._fixed.isdisjoint((root_a, root_b)):
            self._fixed |= {root_a, root_b}
        if root_a == _ANCHOR:
            # a is known, so the root of b follows from it.
            self._parent[root_b] = (root_a, sign_a ^ sign, gap if sign else -gap)
        else:
            self._parent[root_a] = (root_b, sign_a ^ sign, -gap if sign_a else gap)
        return True


def _stay(route: Route) -> Route:
    return route


def _laid_flat(first: int, route: Route) -> Route:
    return (first + route[0], *route[1:])


def _inside(part: int, route: Route) -> Route:
    return (part, *route)


_CONTRADICTIONS = {
    "opposite": "sums over its units where neither factor can share them out",
    "shares": "sums over its units with no weight that could share them out",
    "product": "multiplies two tensors that would both have to share its units out",
    "copies": "needs its units whole where an earlier operation has to share them out",
    "same": "joins tensors of which one copies its units and the other shares them out",
    "piece": "joins tensors of which one copies its units and the other shares them out",
}


def _contradiction(symbol: Symbol, kind: str, where: str) -> None:
    symbol.inexact = symbol.inexact or f"{where} {_CONTRADICTIONS[kind]}"
