"""Roles: which tensors carry a copied unit as it is, and which carry its share.

When a unit becomes `n` copies, each axis that runs over the units does one of two things: it *copies* the unit's
entries, or it *shares* them out (each copy holds 1/n). The two behave like co- and contravariant indices: a sum
over the units leaves the result unchanged exactly when one factor copies and the other shares. Operations turn
that into constraints between axes; solving them says for every parameter axis whether it is incoming (copies) or
outgoing (shares), or that no assignment preserves the function.

The constraints compare two roles as equal or opposite, so a union-find with parities solves them in near-linear
time. A product of two factors may share once at most; those three-way constraints are decided last, in the
order of the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable

from growkit.structure.dimensions import Expr, Symbol, leaves

__all__ = ["Axis", "Constraint", "Roles"]

COPIES, SHARES = 0, 1


class Axis:
    """One axis of one traced tensor. Its identity stands for its role, its expression for its size."""

    __slots__ = ("expr",)

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    def __repr__(self) -> str:
        return f"Axis({self.expr!r})"


class Constraint:
    """What one operation demands of the roles of the axes it touches.

    Attributes:
        kind: "same" and "opposite" relate two axes; "copies" and "shares" fix one; "product" says that the third
            axis shares if one of the first two does, and that not both may.
        axes: the axes in that order.
        where: the operation, for the reason given when the demand cannot be met.
    """

    __slots__ = ("axes", "kind", "where")

    def __init__(self, kind: str, axes: tuple[Axis, ...], where: str) -> None:
        self.kind, self.axes, self.where = kind, axes, where


_Key = tuple[int, int]
_ANCHOR: _Key = (0, 0)  # the role "copies"


class Roles:
    """The solution of a list of constraints.

    Symbols whose constraints contradict each other are frozen, with the operation as the reason.

    Args:
        constraints: in the order of the forward pass.
        fixed: axes of tensors that are not trained; where there is a choice, they copy.
    """

    def __init__(self, constraints: Iterable[Constraint], fixed: Iterable[Axis] = ()) -> None:
        self._fixed = {id(axis) for axis in fixed}
        self._parent: dict[_Key, tuple[_Key, int]] = {}
        self._axes: list[Axis] = []  # keeps ids unique while this object lives
        products = []
        for constraint in constraints:
            self._axes.extend(constraint.axes)
            if constraint.kind == "product":
                products.append(constraint)
            else:
                self._relate(constraint)
        for constraint in products:
            self._decide(constraint)

    def of(self, axis: Axis, symbol: Symbol) -> int:
        """Return COPIES or SHARES; an axis that nothing decides copies from now on."""
        root, parity = self._find((id(axis), id(symbol)))
        if root != _ANCHOR:
            self._parent[root] = (_ANCHOR, parity)
            return COPIES
        return parity

    def _relate(self, constraint: Constraint) -> None:
        kind, axes = constraint.kind, constraint.axes
        shared = set(leaves(axes[-1].expr)) if len(axes) > 1 else None
        for symbol in leaves(axes[0].expr):
            if symbol.frozen or (shared is not None and symbol not in shared):
                continue
            a = (id(axes[0]), id(symbol))
            b = (id(axes[1]), id(symbol)) if len(axes) > 1 else _ANCHOR
            if not self._unite(a, b, SHARES if kind in {"opposite", "shares"} else COPIES):
                _contradiction(symbol, kind, constraint.where)

    def _decide(self, constraint: Constraint) -> None:
        left, right, out = constraint.axes
        in_left, in_right = set(leaves(left.expr)), set(leaves(right.expr))
        for symbol in leaves(out.expr):
            if symbol.frozen:
                continue
            target = (id(out), id(symbol))
            a, b = (id(left), id(symbol)), (id(right), id(symbol))
            if symbol in in_left and symbol in in_right:
                # One side must copy. Prefer what is known already, else let the left one copy.
                undecided = self._known(a) is None and self._known(b) is None
                if self._known(a) == SHARES or self._known(b) == COPIES or (undecided and id(right) in self._fixed):
                    a, b = b, a
                fits = self._unite(a, _ANCHOR, COPIES) and self._unite(b, target, COPIES)
            else:
                fits = self._unite(a if symbol in in_left else b, target, COPIES)
            if not fits:
                _contradiction(symbol, "product", constraint.where)

    def _known(self, key: _Key) -> int | None:
        root, parity = self._find(key)
        return parity if root == _ANCHOR else None

    def _find(self, key: _Key) -> tuple[_Key, int]:
        path, parity = [], 0
        node = key
        while (link := self._parent.get(node)) is not None:
            path.append((node, parity))
            parity ^= link[1]
            node = link[0]
        for visited, before in path:
            self._parent[visited] = (node, parity ^ before)
        return node, parity

    def _unite(self, a: _Key, b: _Key, parity: int) -> bool:
        (root_a, parity_a), (root_b, parity_b) = self._find(a), self._find(b)
        if root_a == root_b:
            return parity_a ^ parity_b == parity
        if root_a == _ANCHOR:
            root_a, root_b = root_b, root_a
        self._parent[root_a] = (root_b, parity_a ^ parity_b ^ parity)
        return True


_CONTRADICTIONS = {
    "opposite": "sums over its units where neither factor can share them out",
    "shares": "sums over its units with no weight that could share them out",
    "product": "multiplies two tensors that would both have to share its units out",
    "copies": "needs its units whole where an earlier operation has to share them out",
    "same": "joins tensors of which one copies its units and the other shares them out",
}


def _contradiction(symbol: Symbol, kind: str, where: str) -> None:
    symbol.frozen = symbol.frozen or f"{where} {_CONTRADICTIONS[kind]}"
