"""Dimension expressions: what the size of a tensor axis is made of.

An axis of 1024 after a flatten of 64 channels of 4 x 4 is `Product(c, h, w)`; the output of a concatenation is
`Concat(a, b)`. The leaves are symbols. Two axes that an operation forces to agree are *unified*: symbols merge, a
symbol takes the form of the product or concatenation that it meets, and forms are refined until they match.

All positions are row-major: in `Product(c, h, w)` the unit of `c` is the slowest index.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "Concat",
    "Expr",
    "Product",
    "Symbol",
    "concat",
    "freeze",
    "leaves",
    "product",
    "require_copies",
    "require_uniform",
    "resolve",
    "split",
    "squared",
    "unify",
]


class Symbol:
    """A size that is one thing: the channels of a stream, the extent of an image, the batch.

    Attributes:
        size: number of units, at least 1.
        extent: True if the size belongs to the data (batch, height, time, kernel), not to units of the network.
        frozen: why the size cannot change, or None.
        uniform: why every unit must be copied equally often, or None (a mean over the units).
        copies_only: why new units cannot be added, only copies, or None (a maximum over the units).
    """

    __slots__ = ("bound", "copies_only", "extent", "frozen", "size", "uniform")

    def __init__(self, size: int, *, frozen: str | None = None, extent: bool = False) -> None:
        self.size = size
        self.extent = extent
        self.frozen = frozen
        self.uniform: str | None = None
        self.copies_only: str | None = None
        self.bound: Expr | None = None

    def __repr__(self) -> str:
        return f"s{id(self) % 10_000}({self.size})" if self.bound is None else repr(self.bound)


class Product:
    """Row-major merge of several axes into one, such as a flatten."""

    __slots__ = ("factors",)

    def __init__(self, factors: tuple[Expr, ...]) -> None:
        self.factors = factors

    @property
    def size(self) -> int:
        """Number of positions."""
        return math.prod(factor.size for factor in self.factors)

    def __repr__(self) -> str:
        return "(" + " * ".join(map(repr, self.factors)) + ")"


class Concat:
    """Several expressions laid end to end along one axis."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Expr, ...]) -> None:
        self.parts = parts

    @property
    def size(self) -> int:
        """Number of positions."""
        return sum(part.size for part in self.parts)

    def __repr__(self) -> str:
        return "(" + " + ".join(map(repr, self.parts)) + ")"


Expr = Symbol | Product | Concat
Join = Callable[[Iterable[Expr]], Expr]


def product(factors: Iterable[Expr]) -> Expr:
    """Merge factors into one expression; extents of size 1 carry nothing and are left out."""
    flat: list[Expr] = []
    for factor in map(resolve, factors):
        if isinstance(factor, Product):
            flat.extend(factor.factors)
        elif not (isinstance(factor, Symbol) and factor.extent and factor.size == 1):
            flat.append(factor)
    if not flat:
        return Symbol(1, extent=True, frozen="has one entry by construction")
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def concat(parts: Iterable[Expr]) -> Expr:
    """Lay parts end to end; empty parts carry nothing and are left out."""
    flat: list[Expr] = []
    for part in map(resolve, parts):
        if isinstance(part, Concat):
            flat.extend(part.parts)
        elif part.size:
            flat.append(part)
    if not flat:
        return Symbol(0, extent=True, frozen="is empty")
    return flat[0] if len(flat) == 1 else Concat(tuple(flat))


def resolve(expr: Expr) -> Expr:
    """Return the expression with every bound symbol replaced by what it was bound to."""
    if isinstance(expr, Symbol):
        if expr.bound is None:
            return expr
        expr.bound = resolve(expr.bound)
        return expr.bound
    if isinstance(expr, Product):
        return expr if all(map(_settled, expr.factors)) else product(expr.factors)
    return expr if all(map(_settled, expr.parts)) else concat(expr.parts)


def _settled(expr: Expr) -> bool:
    return resolve(expr) is expr


def leaves(expr: Expr) -> list[Symbol]:
    """Return the distinct symbols of an expression, in order of position."""
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return [expr]
    found: dict[Symbol, None] = {}
    for child in expr.factors if isinstance(expr, Product) else expr.parts:
        found.update(dict.fromkeys(leaves(child)))
    return list(found)


def freeze(expr: Expr, reason: str) -> None:
    """Forbid any change of size, for the first reason given."""
    for symbol in leaves(expr):
        symbol.frozen = symbol.frozen or reason


def require_uniform(expr: Expr, reason: str) -> None:
    """Demand that every position be copied equally often.

    Positions of a concatenation belong to different symbols, which no edit of one symbol can scale together, so
    these are frozen.
    """
    expr = resolve(expr)
    if isinstance(expr, Concat):
        freeze(expr, f"{reason} together with other units")
        return
    for child in expr.factors if isinstance(expr, Product) else (expr,):
        if isinstance(child, Symbol):
            child.uniform = child.uniform or reason
        else:
            require_uniform(child, reason)


def require_copies(expr: Expr, reason: str) -> None:
    """Demand that units be added only as copies of others."""
    for symbol in leaves(expr):
        symbol.copies_only = symbol.copies_only or reason


# ------------------------------------------------------------------ unification


def unify(a: Expr, b: Expr, where: str) -> None:
    """Make two expressions of equal size one and the same.

    Args:
        a: an expression.
        b: another of the same size.
        where: the operation that forces them to agree, for the reason given if they cannot be reconciled.
    """
    a, b = resolve(a), resolve(b)
    if a is b:
        return
    if isinstance(a, Symbol) and isinstance(b, Symbol):
        _merge(a, b)
    elif isinstance(a, Symbol):
        _bind(a, b, where)
    elif isinstance(b, Symbol):
        _bind(b, a, where)
    elif isinstance(a, Product) and isinstance(b, Product):
        _align(a.factors, b.factors, product, where)
    elif isinstance(a, Concat) and isinstance(b, Concat):
        _align(a.parts, b.parts, concat, where)
    else:
        _give_up(a, b, where)


def _merge(a: Symbol, b: Symbol) -> None:
    keep, drop = (b, a) if a.extent and not b.extent else (a, b)
    _inherit(keep, drop)
    drop.bound = keep


def _inherit(heir: Symbol, other: Symbol) -> None:
    heir.frozen = heir.frozen or other.frozen
    heir.uniform = heir.uniform or other.uniform
    heir.copies_only = heir.copies_only or other.copies_only


def _bind(symbol: Symbol, form: Expr, where: str) -> None:
    if symbol in leaves(form):
        _give_up(symbol, form, where)
        return
    if symbol.frozen:
        freeze(form, symbol.frozen)
    if symbol.uniform:
        require_uniform(form, symbol.uniform)
    if symbol.copies_only:
        require_copies(form, symbol.copies_only)
    symbol.bound = form


def _give_up(a: Expr, b: Expr, where: str) -> None:
    reason = f"{where} joins sizes that growkit cannot reconcile ({a.size} as {a!r} and as {b!r})"
    freeze(a, reason)
    freeze(b, reason)


def _align(left: Sequence[Expr], right: Sequence[Expr], join: Join, where: str) -> None:
    """Match two lists of factors (or of parts) of equal total size from the left, splitting symbols where needed."""
    a, b = list(left), list(right)
    while a and b:
        x, y = resolve(a.pop(0)), resolve(b.pop(0))
        if x.size == y.size:
            unify(x, y, where)
            continue
        if x.size > y.size:
            a, b, x, y = b, a, y, x
        halves = split(y, x.size, join)
        if halves is None:
            for other in (x, y, *a, *b):
                freeze(other, f"{where} joins sizes that growkit cannot reconcile ({x!r} and {y!r})")
            return
        unify(x, halves[0], where)
        b.insert(0, halves[1])
    for other in (*a, *b):
        freeze(other, f"{where} joins sizes that growkit cannot reconcile")


def split(expr: Expr, size: int, join: Join) -> tuple[Symbol, Symbol] | None:
    """Refine a symbol into a first part (or factor) of `size` and the rest.

    Args:
        expr: what to split; only a symbol can be.
        size: size of the first half, smaller than that of `expr`.
        join: `product` to split into factors, `concat` to split into parts.

    Returns:
        The two halves, or None where the symbol cannot be split so.
    """
    divides = size > 1 and expr.size % size == 0 if join is product else size > 0
    if not isinstance(expr, Symbol) or not divides:
        return None
    rest = expr.size // size if join is product else expr.size - size
    first, second = Symbol(size, extent=expr.extent), Symbol(rest, extent=expr.extent)
    _inherit(first, expr)
    _inherit(second, expr)
    if join is concat and expr.uniform:
        freeze(Concat((first, second)), f"{expr.uniform} together with other units")
    expr.bound = join((first, second))
    return first, second


def squared(expr: Expr) -> list[Symbol]:
    """Return the symbols that an expression multiplies with themselves: pairs of units, which no edit can follow."""
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return []
    if isinstance(expr, Concat):
        return [symbol for part in expr.parts for symbol in squared(part)]
    counts = Counter(symbol for factor in expr.factors for symbol in leaves(factor))
    return [symbol for symbol, count in counts.items() if count > 1]
