"""View-like operations: factor, merge, reorder and lay end to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from growkit.structure.dimensions import Concat, Expr, Product, Symbol, concat, product, resolve, split
from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule

if TYPE_CHECKING:
    from growkit.structure.trace import Tracer

aten = torch.ops.aten


@rule(aten.t)
def t(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Reverse the axes of a matrix."""
    tracer[out] = tracer[args[0]][::-1]


@rule(aten.transpose)
def transpose(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Swap two axes."""
    axes = list(tracer[args[0]])
    axes[args[1]], axes[args[2]] = axes[args[2]], axes[args[1]]
    tracer[out] = axes


@rule(aten.permute)
def permute(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Reorder axes."""
    axes = tracer[args[0]]
    tracer[out] = [axes[position] for position in args[1]]


@rule(aten.unsqueeze)
def unsqueeze(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Insert an axis of one entry."""
    axes = list(tracer[args[0]])
    axes.insert(args[1] % out.dim(), tracer.extent(1, f"was inserted by {tracer.where}"))
    tracer[out] = axes


@rule(aten.expand)
def expand(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Repeat axes of one entry without copying."""
    axes = tracer[args[0]]
    new = out.dim() - len(axes)
    result = [tracer.extent(n, f"was made by {tracer.where}") for n in out.shape]
    for position, axis in enumerate(axes):
        if axis.expr.size == out.shape[new + position]:
            result[new + position] = axis
        else:
            tracer.freeze(axis, "repeats it along a longer axis")
    tracer[out] = result


@rule(aten.repeat)
def repeat(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Repeat every axis some number of times, the repetitions outermost."""
    axes, times = tracer[args[0]], args[1]
    new = len(times) - len(axes)
    made = f"was made by {tracer.where}"
    result = [tracer.extent(n, made) for n in times[:new]]
    for axis, count in zip(axes, times[new:], strict=True):
        if count == 1:
            result.append(axis)
            continue
        merged = Axis(product((tracer.extent(count, made).expr, axis.expr)))
        tracer.constrain("same", axis, merged)
        result.append(merged)
    tracer[out] = result


@rule(aten.cat)
def cat(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Lay tensors end to end along one axis; the other axes meet as in a sum."""
    tensors = [tensor for tensor in args[0] if tensor.dim() == out.dim()]
    along = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    rows = [tracer[tensor] for tensor in tensors]
    result = list(rows[0])
    for row in rows[1:]:
        for position in range(out.dim()):
            if position != along:
                tracer.same(result[position], row[position])
    joined = Axis(concat(row[along].expr for row in rows))
    for row in rows:
        tracer.constrain("same", row[along], joined)
    result[along] = joined
    tracer[out] = result


@rule(aten.split, aten.split_with_sizes)
def split_rule(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Cut one axis into pieces."""
    along = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % args[0].dim()
    start = 0
    for piece in out:
        _cut(tracer, args[0], along, start, piece)
        start += piece.shape[along]


@rule(aten.slice)
def slice_rule(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Keep a stretch of one axis."""
    defaults: tuple[Any, ...] = (None, 0, None, None, 1)
    x, along, first, last, step = (*args, *defaults[len(args) :])
    if step == 1:
        start = slice(first, last).indices(x.shape[along])[0]
        _cut(tracer, x, along % x.dim(), start, out)
        return
    tracer.freeze(tracer[x][along], "takes every so many of its units")
    axes = list(tracer[x])
    axes[along] = tracer.extent(out.shape[along], f"was made by {tracer.where}")
    tracer[out] = axes


def _cut(tracer: Tracer, x: Tensor, along: int, start: int, piece: Tensor) -> None:
    """Set the axes of a stretch of `x`: allowed where it consists of whole parts of a concatenation."""
    axes = list(tracer[x])
    size = piece.shape[along]
    expr = resolve(axes[along].expr)
    if size != expr.size:
        whole = _whole_parts(expr, start, size)
        if whole is None:
            tracer.freeze(axes[along], "takes only some of its units")
            axes[along] = tracer.extent(size, f"was cut out by {tracer.where}")
        else:
            part = Axis(whole)
            tracer.constrain("same", part, axes[along])
            axes[along] = part
    tracer[piece] = axes


def _whole_parts(expr: Expr, start: int, size: int) -> Expr | None:
    if not isinstance(expr, Concat):
        return None
    kept, offset = [], 0
    for part in expr.parts:
        if start <= offset and offset + part.size <= start + size:
            kept.append(part)
        offset += part.size
    return concat(kept) if sum(part.size for part in kept) == size else None


@rule(aten.select)
def select(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Take one entry of an axis."""
    axes = list(tracer[args[0]])
    tracer.freeze(axes.pop(args[1]), "takes one of its units")
    tracer[out] = axes


@rule(aten.stack)
def stack(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Lay tensors side by side along a new axis; the other axes meet as in a sum."""
    along = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    rows = [tracer[tensor] for tensor in args[0]]
    for row in rows[1:]:
        for first, other in zip(rows[0], row, strict=True):
            tracer.same(first, other)
    axes = list(rows[0])
    axes.insert(along, tracer.extent(len(rows), f"was made by {tracer.where}"))
    tracer[out] = axes


# ------------------------------------------------------------------ reshaping


@rule(aten.view, aten._unsafe_view, aten.reshape, aten.squeeze)
def view(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Regroup the same entries: axes merge into products, products come apart into their factors."""
    pending = list(tracer[args[0]])
    result: list[Axis] = []
    for size in out.shape:
        result.append(_take(tracer, pending, size))
    for axis in pending:  # what is left has one entry
        if not isinstance(axis.expr, Symbol) or not axis.expr.extent:
            tracer.freeze(axis, "drops it")
    tracer[out] = result


def _take(tracer: Tracer, pending: list[Axis], size: int) -> Axis:
    """Take as many factors off the front of the pending axes as make up `size` entries."""
    _drop_trivial(pending, size)
    if pending and pending[0].expr.size == size:
        return pending.pop(0)
    taken: list[tuple[Axis, Expr]] = []
    total = 1
    while total < size:
        axis = pending.pop(0)
        front, rest = _front(tracer, axis, size // total if size % total == 0 else 0)
        total *= front.size
        taken.append((axis, front))
        if rest is not None:
            pending.insert(0, _part(tracer, axis, rest))
    if total != size:
        for axis, _ in taken:
            tracer.freeze(axis, "regroups it across its factors")
        return tracer.extent(size, f"was regrouped by {tracer.where}")
    if not taken:
        return tracer.extent(size, f"was inserted by {tracer.where}")
    merged = Axis(product(front for _, front in taken))
    for axis, _ in taken:
        tracer.constrain("same", axis, merged)
    return merged


def _drop_trivial(pending: list[Axis], size: int) -> None:
    """Skip data axes of one entry; a width of one unit stays, to be merged or matched."""
    while pending and pending[0].expr.size == 1 and size != 1 and _is_extent(pending[0].expr):
        pending.pop(0)


def _is_extent(expr: Expr) -> bool:
    expr = resolve(expr)
    return isinstance(expr, Symbol) and expr.extent


def _part(tracer: Tracer, axis: Axis, expr: Expr) -> Axis:
    part = Axis(expr)
    tracer.constrain("same", part, axis)
    return part


def _front(tracer: Tracer, axis: Axis, room: int) -> tuple[Expr, Expr | None]:
    """Cut the leading factors that fit into `room` off an axis; the whole axis if it fits."""
    expr = resolve(axis.expr)
    if room and room % expr.size == 0:
        return expr, None
    factors: Sequence[Expr] = expr.factors if isinstance(expr, Product) else (expr,)
    head: list[Expr] = []
    for index, factor in enumerate(factors):
        if room and room % factor.size == 0:
            head.append(factor)
            room //= factor.size
            continue
        if room == 1:
            return product(head), product(factors[index:])
        tracer.freeze(axis, "splits it into factors whose sizes it may have written down as numbers")
        halves = split(factor, room, product) if room else None
        if halves is None:
            break
        return product((*head, halves[0])), product((halves[1], *factors[index + 1 :]))
    return expr, None
