"""Unification: make two expressions of equal size one and the same, refining both until they match."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from growkit.structure.dimensions import (
    Concat,
    Expr,
    Product,
    Symbol,
    concat,
    form,
    freeze,
    is_data,
    leaves,
    product,
    resolve,
)

__all__ = ["split", "unify"]

Join = Callable[[Iterable[Expr]], Expr]


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
    keep.family += drop.family
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
    fits = all(part.size == n * rest.size for part, n in zip(joined.parts, counts, strict=True))
    if not isinstance(lead, Symbol) or not fits or lead in leaves(joined):
        _give_up(merged, joined, where)
        return
    if 1 in counts and not lead.extent:
        freeze(lead, f"{where} joins its units with {len(counts)} parts, of which some have one entry")
    pieces = [Symbol(n, extent=lead.extent or n == 1, frozen=lead.frozen) for n in counts]
    if not lead.extent and 1 not in counts:
        for piece in pieces:
            _inherit(piece, lead)
        lead.bound = Concat(tuple(pieces))
    for part, piece in zip(joined.parts, pieces, strict=True):
        unify(part, product((piece, rest)), where)


def _give_up(a: Expr, b: Expr, where: str) -> None:
    reason = f"{where} joins sizes that growkit cannot reconcile ({form(a)} and {form(b)})"
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
        if join is product and is_data(x) and not (is_data(y) or all(symbol.number for symbol in leaves(x))):
            freeze(y, f"{where} takes its units apart by a size of the data")
        halves = split(y, x.size, join)
        if halves is None:
            for other in (x, y, *a, *b):
                freeze(other, f"{where} joins sizes that growkit cannot reconcile ({form(x)} and {form(y)})")
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
    if join is product and not expr.extent:
        for half in (first, second):
            half.family = (*expr.family, first, second)
    return first, second
