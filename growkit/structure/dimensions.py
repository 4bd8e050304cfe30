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
    "Route",
    "Symbol",
    "concat",
    "covers",
    "forbid_exact",
    "freeze",
    "is_data",
    "leaves",
    "occurrences",
    "product",
    "require_copies",
    "require_uniform",
    "resolve",
    "split",
    "squared",
    "unify",
]

Route = tuple[int, ...]


class Symbol:
    """A size that is one thing: the channels of a stream, the extent of an image, the batch.

    Attributes:
        size: number of units, at least 1.
        extent: True if the size belongs to the data (batch, height, time, kernel), not to units of the network.
        frozen: why the size cannot change, or None.
        inexact: why a change of the size changes the function, or None (a softmax over the units).
        open_ended: why only new units can be added, and only on demand, or None (the classes of a classifier).
        uniform: why every unit must be copied equally often, or None (a mean over the units).
        copies_only: why new units cannot be added, only copies, or None (a maximum over the units).
    """

    __slots__ = ("bound", "copies_only", "extent", "frozen", "inexact", "open_ended", "size", "uniform")

    def __init__(self, size: int, *, frozen: str | None = None, extent: bool = False) -> None:
        self.size = size
        self.extent = extent
        self.frozen = frozen
        self.inexact: str | None = None
        self.open_ended: str | None = None
        self.uniform: str | None = None
        self.copies_only: str | None = None
        self.bound: Expr | None = None

    @property
    def reason(self) -> str | None:
        """Why no ordinary edit can change the size, or None."""
        return self.frozen or self.open_ended or self.inexact

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
    if len(flat) > 1 and isinstance(flat[0], Concat):
        # Row-major: parts of the slowest factor lie end to end in the product, too.
        return concat(product((part, *flat[1:])) for part in flat[0].parts)
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


def occurrences(expr: Expr) -> list[tuple[Symbol, Route]]:
    """Return every place of a symbol in an expression: the symbol, and the parts of concatenations that lead to it.

    A symbol may stand in several parts, as the head size does in a fused projection of queries, keys and values.
    """
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return [(expr, ())]
    if isinstance(expr, Product):
        return [place for factor in expr.factors for place in occurrences(factor)]
    return [(symbol, (i, *route)) for i, part in enumerate(expr.parts) for symbol, route in occurrences(part)]


def is_data(expr: Expr) -> bool:
    """Say whether an axis belongs to the data alone."""
    return all(symbol.extent for symbol in leaves(expr))


def freeze(expr: Expr, reason: str) -> None:
    """Forbid any change of size, for the first reason given."""
    for symbol in leaves(expr):
        symbol.frozen = symbol.frozen or reason


def forbid_exact(expr: Expr, reason: str) -> None:
    """Note that a change of size changes the function, for the first reason given."""
    for symbol in leaves(expr):
        symbol.inexact = symbol.inexact or reason


def require_uniform(expr: Expr, reason: str) -> None:
    """Demand that every position be copied equally often.

    Copying every unit of a symbol does that if each position belongs to one of them. Otherwise, as in a concatenation
    of several widths, no edit of one width does.
    """
    for symbol in leaves(expr):
        if covers(symbol, expr):
            symbol.uniform = symbol.uniform or reason
        else:
            symbol.inexact = symbol.inexact or f"{reason} together with other units"


def covers(symbol: Symbol, expr: Expr) -> bool:
    """Say whether every position belongs to some unit of a symbol."""
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return expr is symbol
    if isinstance(expr, Product):
        return any(covers(symbol, factor) for factor in expr.factors)
    return all(covers(symbol, part) for part in expr.parts)


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
    elif isinstance(a, Product) and isinstance(b, Concat):
        _distribute(a, b, where)
    elif isinstance(a, Concat) and isinstance(b, Product):
        _distribute(b, a, where)


def _merge(a: Symbol, b: Symbol) -> None:
    keep, drop = (b, a) if a.extent and not b.extent else (a, b)
    _inherit(keep, drop)
    drop.bound = keep


_DEMANDS = ("frozen", "inexact", "open_ended", "uniform", "copies_only")


def _inherit(heir: Symbol, other: Symbol) -> None:
    for demand in _DEMANDS:
        if getattr(heir, demand) is None:
            setattr(heir, demand, getattr(other, demand))


def _bind(symbol: Symbol, form: Expr, where: str) -> None:
    if symbol in leaves(form):
        _give_up(symbol, form, where)
        return
    for leaf in leaves(form):
        _inherit(leaf, symbol)
    symbol.bound = form


def _distribute(merged: Product, joined: Concat, where: str) -> None:
    """Match a product with a concatenation: the parts are stretches of the product's slowest factor."""
    lead, rest = resolve(merged.factors[0]), product(merged.factors[1:])
    counts = [part.size // rest.size for part in joined.parts]
    if not isinstance(lead, Symbol) or any(
        part.size != n * rest.size for part, n in zip(joined.parts, counts, strict=True)
    ):
        _give_up(merged, joined, where)
        return
    if 1 in counts and not lead.extent:
        freeze(lead, f"{where} joins its units with {len(counts)} parts of a fixed number")
    pieces = [Symbol(n, extent=lead.extent or n == 1, frozen=lead.frozen) for n in counts]
    if not lead.extent and 1 not in counts:
        for piece in pieces:
            _inherit(piece, lead)
        lead.bound = Concat(tuple(pieces))
    for part, piece in zip(joined.parts, pieces, strict=True):
        unify(part, product((piece, rest)), where)


def _give_up(a: Expr, b: Expr, where: str) -> None:
    reason = f"{where} joins sizes that growkit cannot reconcile ({a.size} as {a!r} and as {b!r})"
    freeze(a, reason)
    freeze(b, reason)


def _align(left: Sequence[Expr], right: Sequence[Expr], join: Join, where: str) -> None:
    """Match two lists of factors (or of parts) of equal total size from the left, splitting symbols where needed."""
    a, b = list(left), list(right)
    while a and b:
        x, y = _next(a, join), _next(b, join)
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


def _next(pending: list[Expr], join: Join) -> Expr:
    """Take the first of some factors (or parts), unfolded if it was refined into several meanwhile."""
    first = resolve(pending.pop(0))
    if join is product and isinstance(first, Product):
        pending[:0] = first.factors
    elif join is concat and isinstance(first, Concat):
        pending[:0] = first.parts
    else:
        return first
    return _next(pending, join)


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
