"""Positions: where the units of a symbol lie along an axis, and where they come from after an edit."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from growkit.structure.dimensions import Concat, Expr, Route, Symbol, resolve

__all__ = ["Term", "evaluate", "expand", "multiplicity", "unit_positions"]

Term = tuple[Tensor, Tensor]
Terms = Callable[[Symbol, Route], "list[Term] | None"]
Routes = Collection[Route]


def expand(expr: Expr, terms: Terms, route: Route = ()) -> list[Term]:
    """Say of which old positions each new position of an axis is the weighted sum.

    Args:
        expr: the expression of the axis, at its old size.
        terms: says for each place of a symbol what becomes of its units: pairs of the old unit of every new unit, shape
            (new size,), int64, -1 for none, and its weight, shape (new size,), float64. A new unit is the sum over
            the pairs. None if nothing changes.
        route: of the expression within a larger one.

    Returns:
        The same for positions: pairs of shape (new size of the axis,).
    """
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return terms(expr, route) or [(torch.arange(expr.size), torch.ones(expr.size, dtype=torch.float64))]
    if isinstance(expr, Concat):
        return _lay_end_to_end([(p.size, expand(p, terms, (*route, i))) for i, p in enumerate(expr.parts)])
    slowest, *faster = expr.factors
    merged = expand(slowest, terms, route)
    for factor in faster:
        merged = [_outer(one, other, factor.size) for one in merged for other in expand(factor, terms, route)]
    return merged


def _outer(slow: Term, fast: Term, size: int) -> Term:
    source = slow[0][:, None] * size + fast[0][None, :]
    missing = (slow[0][:, None] < 0) | (fast[0][None, :] < 0)
    return torch.where(missing, -1, source).flatten(), torch.outer(slow[1], fast[1]).flatten()


def _lay_end_to_end(parts: list[tuple[int, list[Term]]]) -> list[Term]:
    result = []
    for index in range(max(len(terms) for _, terms in parts)):
        sources, weights, offset = [], [], 0
        for size, terms in parts:
            source, weight = terms[index] if index < len(terms) else (torch.full_like(terms[0][0], -1), terms[0][1])
            sources.append(torch.where(source < 0, -1, source + offset))
            weights.append(weight)
            offset += size
        result.append((torch.cat(sources), torch.cat(weights)))
    return result


def unit_positions(expr: Expr, symbol: Symbol, routes: Routes | None = None) -> Tensor:
    """Return the positions of every unit of `symbol` along an axis, shape (symbol size, multiplicity), int64.

    Args:
        expr: the expression of the axis.
        symbol: whose units.
        routes: only these places of the symbol; all of them if None.
    """
    unit = _unit_of(expr, symbol, routes, ())
    held = torch.nonzero(unit >= 0).flatten()
    return held[torch.argsort(unit[held], stable=True)].reshape(symbol.size, -1)


def multiplicity(expr: Expr, symbol: Symbol, routes: Routes | None = None, route: Route = ()) -> int:
    """Return how many positions of an axis belong to each unit of `symbol`; 0 if it has no part in it."""
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return int(expr is symbol and (routes is None or route in routes))
    if isinstance(expr, Concat):
        return sum(multiplicity(part, symbol, routes, (*route, i)) for i, part in enumerate(expr.parts))
    counts = [multiplicity(factor, symbol, routes, route) for factor in expr.factors]
    return math.prod(count or factor.size for count, factor in zip(counts, expr.factors, strict=True)) * any(counts)


def _unit_of(expr: Expr, symbol: Symbol, routes: Routes | None, route: Route) -> Tensor:
    """Return, for each position of an axis, the unit of `symbol` there, or -1."""
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        held = expr is symbol and (routes is None or route in routes)
        return torch.arange(expr.size) if held else torch.full((expr.size,), -1)
    if isinstance(expr, Concat):
        return torch.cat([_unit_of(part, symbol, routes, (*route, i)) for i, part in enumerate(expr.parts)])
    merged = torch.full((1,), -1)
    for factor in expr.factors:
        unit = _unit_of(factor, symbol, routes, route)
        merged = torch.maximum(merged[:, None], unit[None, :]).flatten()
    return merged


def evaluate(expr: Expr, sizes: Mapping[Symbol, int]) -> int:
    """Return the size that an expression has when some symbols have other sizes."""
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return sizes.get(expr, expr.size)
    if isinstance(expr, Concat):
        return sum(evaluate(part, sizes) for part in expr.parts)
    return math.prod(evaluate(factor, sizes) for factor in expr.factors)
