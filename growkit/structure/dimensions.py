"""Dimension expressions: what the size of a tensor axis is made of.

An axis of 1024 after a flatten of 64 channels of 4 x 4 is `Product(c, h, w)`; the output of a concatenation is
`Concat(a, b)`. The leaves are symbols. Two axes that an operation forces to agree are *unified*: symbols merge, a
symbol takes the form of the product or concatenation that it meets, and forms are refined until they match (see
`growkit.structure.unify`).

All positions are row-major: in `Product(c, h, w)` the unit of `c` is the slowest index.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

__all__ = [
    "Concat",
    "Expr",
    "Product",
    "Route",
    "Symbol",
    "concat",
    "covers",
    "forbid_exact",
    "form",
    "freeze",
    "is_data",
    "leaves",
    "occurrences",
    "product",
    "require_copies",
    "require_uniform",
    "resolve",
    "squared",
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
        number: True if an extent is a number in the code, which never varies with the data.
        family: the factors that the symbol and others were one with before a view took them apart.
    """

    __slots__ = (
        *("bound", "copies_only", "extent", "family", "frozen", "inexact", "number", "open_ended", "size"),
        "uniform",
    )

    def __init__(self, size: int, *, frozen: str | None = None, extent: bool = False, number: bool = False) -> None:
        self.number = number
        self.family: tuple[Symbol, ...] = ()
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
    return expr.bound is None if isinstance(expr, Symbol) else resolve(expr) is expr


def form(expr: Expr) -> str:
    """Return how a size is made up, in numbers: "3 x 4", "4 + 2"."""
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return str(expr.size)
    if isinstance(expr, Concat):
        return " + ".join(map(form, expr.parts))
    return " x ".join(f"({form(f)})" if isinstance(resolve(f), Concat) else form(f) for f in expr.factors)


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


def squared(expr: Expr) -> list[Symbol]:
    """Return the symbols that an expression multiplies with themselves: pairs of units, which no edit can follow."""
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return []
    if isinstance(expr, Concat):
        return [symbol for part in expr.parts for symbol in squared(part)]
    counts = Counter(symbol for factor in expr.factors for symbol in leaves(factor))
    return [symbol for symbol, count in counts.items() if count > 1]
