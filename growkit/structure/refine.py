"""Refinement: take an expression apart where a view does, binding symbols to what they turn out to consist of."""

from __future__ import annotations

from collections.abc import Sequence

from growkit.structure.dimensions import Concat, Expr, Product, Symbol, concat, freeze, product, resolve
from growkit.structure.unify import split, unify

__all__ = ["boundary", "chop", "cut", "divide"]


def cut(expr: Expr, at: int) -> tuple[Expr, Expr] | None:
    """Cut an axis in two.

    Args:
        expr: its expression.
        at: size of the first piece, greater than 0 and smaller than the whole.

    Returns:
        The two pieces, or None if the cut runs through what cannot be cut.
    """
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return split(expr, at, concat)
    if isinstance(expr, Product):
        rest = product(expr.factors[1:])
        lead = cut(expr.factors[0], at // rest.size) if at % rest.size == 0 else None
        return None if lead is None else (product((lead[0], rest)), product((lead[1], rest)))
    offset = 0
    for index, part in enumerate(expr.parts):
        if offset + part.size > at:
            if offset == at:
                return concat(expr.parts[:index]), concat(expr.parts[index:])
            inner = cut(part, at - offset)
            if inner is None:
                return None
            return concat((*expr.parts[:index], inner[0])), concat((inner[1], *expr.parts[index + 1 :]))
        offset += part.size
    return None


def chop(expr: Expr, count: int, where: str) -> Expr | None:
    """Cut an axis into equal pieces that stay equal: they are unified.

    Args:
        expr: its expression.
        count: number of pieces, a divisor of the size.
        where: the operation, for the reason given if pieces cannot be reconciled.

    Returns:
        The expression of each piece, or None if a cut runs through what cannot be cut.
    """
    expr = resolve(expr)
    size = expr.size // count
    if count == 1:
        return expr
    if isinstance(expr, Symbol):
        if size == 1 and not expr.extent:
            freeze(expr, f"is taken apart into its {count} units by {where}")
        part = Symbol(size, extent=expr.extent or size == 1, number=size == 1, frozen=expr.frozen)
        expr.bound = Concat((part,) * count)
        return part
    if isinstance(expr, Product) and expr.factors[0].size % count == 0:
        lead, rest = chop(expr.factors[0], count, where), product(expr.factors[1:])
        return None if lead is None else product((lead, rest))
    pieces: list[Expr] = []
    remainder: Expr = expr
    for _ in range(count - 1):
        halves = cut(remainder, size)
        if halves is None:
            return None
        pieces.append(halves[0])
        remainder = halves[1]
    for piece in pieces:
        unify(piece, remainder, where)
    return resolve(remainder)


def boundary(expr: Expr, front: int) -> bool:
    """Say whether an expression is a product whose leading factors make up `front` positions."""
    expr = resolve(expr)
    total = 1
    for factor in expr.factors if isinstance(expr, Product) else ():
        total *= factor.size
        if total >= front:
            return total == front
    return False


def divide(expr: Expr, front: int, where: str) -> tuple[Expr, Expr] | None:
    """Take an axis apart into two factors, as a view of `front` times the rest does.

    Args:
        expr: its expression.
        front: size of the slow factor, a divisor of the size, greater than 1 and smaller than it.
        where: the operation, for the reason given if the parts of a concatenation cannot be reconciled.

    Returns:
        The two factors, or None if it does not consist of such.
    """
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return split(expr, front, product)
    if isinstance(expr, Product):
        return _divide_factors(expr.factors, front, where)
    back = expr.size // front
    fronts: list[Expr] = []
    last: Expr | None = None
    for part in _grouped(expr.parts, back):
        if part.size % back:
            return None
        halves = _front_and_back(part, part.size // back, where)
        if halves is None:
            return None
        if last is not None:
            unify(last, halves[1], where)
        fronts.append(halves[0])
        last = halves[1]
    assert last is not None
    if all(size.size == 1 for size in fronts):
        return Symbol(front, extent=True, number=True, frozen=f"is the number of parts {where} takes apart"), resolve(
            last
        )
    return concat(fronts), resolve(last)


def _grouped(parts: Sequence[Expr], size: int) -> list[Expr]:
    """Join parts that make up just `size` together: concatenations within a concatenation are laid out flat."""
    joined: list[Expr] = []
    pending: list[Expr] = []
    for part in parts:
        if part.size % size == 0:
            joined += [*pending, part]
            pending = []
            continue
        pending.append(part)
        if sum(each.size for each in pending) == size:
            joined.append(concat(pending))
            pending = []
    return [*joined, *pending]


def _front_and_back(part: Expr, front: int, where: str) -> tuple[Expr, Expr] | None:
    if front == 1:
        return Symbol(1, extent=True, frozen=f"is one part that {where} takes apart"), part
    return divide(part, front, where) if front < part.size else (part, Symbol(1, extent=True))


def _divide_factors(factors: Sequence[Expr], front: int, where: str) -> tuple[Expr, Expr] | None:
    head: list[Expr] = []
    for index, factor in enumerate(factors):
        if front == 1:
            if factor.size == 1:
                freeze(factor, f"{where} cuts beside its one entry, on no telling which side")
            return product(head), product(factors[index:])
        if front % factor.size == 0:
            head.append(factor)
            front //= factor.size
            continue
        halves = divide(factor, front, where) if factor.size % front == 0 else None
        if halves is None:
            return None
        return product((*head, halves[0])), product((halves[1], *factors[index + 1 :]))
    return None
