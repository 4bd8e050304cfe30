"""Views that regroup: axes merge into products, products come apart into their factors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from growkit.structure.dimensions import Expr, Symbol, freeze, is_data, leaves, product, resolve
from growkit.structure.refine import boundary, chop, divide
from growkit.structure.roles import Axis, Constraint, Slots
from growkit.structure.rules.registry import rule
from growkit.structure.sizes import Size

if TYPE_CHECKING:
    from growkit.structure.tracer import Tracer

aten = torch.ops.aten

# So many parts of a fixed number get roles of their own, as those of a fused projection need.
_MOST_SLOTS = 16


@rule(aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten._reshape_copy)
def view(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Regroup the same entries."""
    if args[0].dtype != out.dtype:
        raise TypeError("a view of the bits")
    asked = tracer.call.asked(out.dim()) if tracer.call is not None else None
    wanted = [None if n is None or n == -1 else n for n in asked] if asked else [None] * out.dim()
    pending = list(tracer[args[0]])
    result: list[Axis] = []
    while len(result) < out.dim():
        before = list(pending)
        taken = _take(tracer, pending, out.shape[len(result)], wanted[len(result)])
        if taken is not None:
            result.append(taken)
        else:
            pending = before
            result.extend(_cross(tracer, pending, list(out.shape[len(result) :])))
    for axis in pending:  # what is left has one entry
        if not isinstance(axis.expr, Symbol) or not axis.expr.extent:
            tracer.freeze(axis, "drops it")
    # Sizes that are given directly first: a quotient is understood when its divisor is known.
    for axis, n in sorted(zip(result, wanted, strict=True), key=lambda pair: _is_computed(pair[1])):
        tracer.sized(axis, n)
    tracer[out] = result


@rule(aten.squeeze, aten.squeeze_)
def squeeze(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Drop axes of one entry."""
    axes = tracer[args[0]]
    dims = args[1] if len(args) > 1 else range(len(axes))
    dropped = {dim % max(len(axes), 1) for dim in ([dims] if isinstance(dims, int) else dims)}
    kept = []
    for position, axis in enumerate(axes):
        if position not in dropped or axis.expr.size != 1:
            kept.append(axis)
        elif not _is_extent(axis.expr):
            tracer.freeze(axis, "drops it")
    tracer[out] = kept


@rule(aten.as_strided_)
def restride(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Give a tensor other strides; a pool to one pixel does that and changes nothing."""
    axes = tracer[args[0]]
    if [axis.expr.size for axis in axes] != list(out.shape):
        raise ValueError("entries in another order")
    tracer[out] = axes


def _is_computed(wanted: Any) -> bool:
    return isinstance(wanted, Size) and isinstance(wanted.form, tuple)


def _take(tracer: Tracer, pending: list[Axis], size: int, wanted: Any) -> Axis | None:
    """Take as many factors off the front of the pending axes as make up `size` entries; None if they do not."""
    _drop_trivial(tracer, pending, size)
    if pending and pending[0].expr.size == size:
        return pending.pop(0)
    taken: list[Axis] = []
    total = 1
    while total < size:
        axis = pending.pop(0)
        room = size // total
        if size % total or (room % axis.expr.size and axis.expr.size % room):
            return None
        if room % axis.expr.size == 0:
            taken.append(axis)
        else:
            halves = _halve(tracer, axis, room, literal=type(wanted) is int and total == 1)
            if halves is None:
                return None
            taken.append(halves[0])
            pending.insert(0, halves[1])
        total *= taken[-1].expr.size
    if not taken:
        return tracer.extent(size, f"was inserted by {tracer.where}")
    if len(taken) == 1:
        return taken[0]
    merged = Axis(product(axis.expr for axis in taken))
    for axis in taken:
        tracer.constrain("same", axis, merged)
    return merged


def _cross(tracer: Tracer, pending: list[Axis], sizes: list[int]) -> list[Axis]:
    """Give up the fewest axes that a view regroups across their factors; what it makes of them is of no known form."""
    made: list[Axis] = []
    before = behind = 1
    while before != behind or not made:
        if before <= behind:
            axis = pending.pop(0)
            tracer.freeze(axis, "regroups it across its factors")
            before *= axis.expr.size
        else:
            made.append(tracer.extent(sizes.pop(0), f"was regrouped by {tracer.where}"))
            behind *= made[-1].expr.size
    return made


def _drop_trivial(tracer: Tracer, pending: list[Axis], size: int) -> None:
    """Skip data axes of one entry. A width of one unit stays, to be merged or matched, where the code itself regroups.

    Where an operation regroups by itself, as a linear layer merges leading axes, nothing tells whether one entry went
    to the axis before or to the one behind.
    """
    merges = tracer.call is None or tracer.call.name in {"view", "reshape", "flatten", "unflatten"}
    while pending and pending[0].expr.size == 1 and size != 1 and (_is_extent(pending[0].expr) or not merges):
        if not _is_extent(pending[0].expr):
            tracer.freeze(pending[0], "merges its one entry with other axes")
        pending.pop(0)


def _is_extent(expr: Expr) -> bool:
    expr = resolve(expr)
    return isinstance(expr, Symbol) and expr.extent


def _halve(tracer: Tracer, axis: Axis, front: int, *, literal: bool) -> tuple[Axis, Axis] | None:
    """Take an axis apart into a slow factor of `front` entries and the rest."""
    if literal and not is_data(axis.expr) and not boundary(axis.expr, front) and front <= _MOST_SLOTS:
        return _number(tracer, axis, front)
    halves = divide(axis.expr, front, tracer.where)
    if halves is None:
        return None
    slow = _factor(tracer, halves[0], axis)
    if literal:
        for symbol in leaves(slow.expr):
            if not symbol.extent:
                freeze(symbol, f"{tracer.where} gives its size as the number {front}")
    if is_data(axis.expr) or (axis.slots is not None and is_data(axis.slots.numbering.expr)):
        return slow, _factor(tracer, halves[1], axis)
    fast = Axis(halves[1])
    entire = [Constraint("same", (fast, axis), tracer.where)]
    fast.slots = Slots(slow, entire, partial(_tie, tracer, axis))
    return slow, fast


def _number(tracer: Tracer, axis: Axis, count: int) -> tuple[Axis, Axis] | None:
    """Take an axis apart into a fixed number of parts, such as queries, keys and values, each with its own roles."""
    part = chop(axis.expr, count, tracer.where)
    if part is None:
        return None
    why = f"is the number {count} in the code of {tracer.where}"
    numbering, fast = Axis(Symbol(count, extent=True, number=True, frozen=why)), Axis(part)
    entire = [Constraint("piece", (fast, axis), tracer.where, index * part.size) for index in range(count)]
    fast.slots = Slots(numbering, entire, partial(_tie, tracer, axis))
    return numbering, fast


def _tie(tracer: Tracer, whole: Axis, slot: Axis, start: int, count: int) -> None:
    """Demand that an axis be a factor of another one at some entries of the slower factor."""
    size = slot.expr.size
    tracer.piece(slot, whole, start * size, count * size)


def _factor(tracer: Tracer, expr: Expr, axis: Axis) -> Axis:
    """Return an axis for a factor of another one, with the roles that the other one has for its symbols."""
    factor = Axis(expr)
    if axis.slots is None:
        tracer.constrain("same", factor, axis)
        return factor
    slots = axis.slots

    def tie(slot: Axis, start: int, count: int) -> None:
        tracer.constrain("same", slot, slots.at(start, count, axis.expr))

    factor.slots = Slots(slots.numbering, [Constraint("same", (factor, axis), tracer.where)], tie)
    return factor
