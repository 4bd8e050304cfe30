"""Lookups: entries that are chosen, sorted or scattered by data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from growkit.structure.dimensions import Concat, concat, is_data, leaves
from growkit.structure.roles import Axis
from growkit.structure.rules.cuts import slice_rule
from growkit.structure.rules.registry import rule
from growkit.structure.sizes import Size, expression

if TYPE_CHECKING:
    from growkit.structure.tracer import Tracer

aten = torch.ops.aten

_BY_DATA = "looks its units up by the data"


@rule(aten.embedding)
def embedding(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Rows of a table, chosen by the data; new rows may be added, and nobody looks them up yet."""
    rows, features = tracer[args[0]]
    for symbol in leaves(rows.expr):
        symbol.open_ended = symbol.open_ended or f"{tracer.where} {_BY_DATA}"
    tracer.mirror(args[0], "embedding_dim", features)
    tracer[out] = [*tracer[args[1]], features]


@rule(aten._embedding_bag, aten._embedding_bag_forward_only)
def embedding_bag(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Sums, means or maxima (mode 2) of rows of a table."""
    rows, features = tracer[args[0]]
    for symbol in leaves(rows.expr):
        symbol.open_ended = symbol.open_ended or f"{tracer.where} {_BY_DATA}"
    mode = args[4] if len(args) > 4 else kwargs.get("mode", 0)
    if mode == 2:
        tracer.constrain("copies", features)
    result, *saved = out
    tracer[result] = [tracer.made(result.shape[0]), features]
    for extra in saved:
        tracer[extra] = [tracer.made(n) for n in extra.shape]


@rule(aten.index, aten._unsafe_index)
def index(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Advanced indexing: the indexed axes make room for those of the indices."""
    x, indices = args[:2]
    written = _written(tracer)
    if written is not None:
        along = next(position for position, each in enumerate(indices) if each is not None)
        stop = None if written == -1 else written + 1
        slice_rule(tracer, func, (x, along, written, stop), {}, out)
        return
    tracer[out] = _indexed(tracer, x, indices, out.shape)
    tracer.log.decides |= any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _written(tracer: Tracer) -> int | None:
    """Return the one place that the code gives as a number in a list, `x[..., [-2], :]`; None for any other index."""
    if tracer.call is None or tracer.call.name != "__getitem__":
        return None
    index = tracer.call.args[1]
    lists = [entry for entry in (index if isinstance(index, tuple) else (index,)) if not _is_plain(entry)]
    alone = len(lists) == 1 and isinstance(lists[0], list) and len(lists[0]) == 1
    return lists[0][0] if alone and type(lists[0][0]) is int else None


def _is_plain(entry: Any) -> bool:
    return isinstance(entry, (slice, type(None), type(...)))


def _indexed(tracer: Tracer, x: Tensor, indices: Any, shape: Any) -> list[Axis]:
    """Return the axes of `x[indices]`: those of the indices stand where the indexed ones stood, or in front."""
    axes = tracer[x]
    kept: list[tuple[int, Axis]] = []
    looked_up: list[int] = []
    position = 0
    for each in [*indices, *[None] * len(axes)]:
        if position >= len(axes):
            break
        if each is None:
            kept.append((position, axes[position]))
            position += 1
            continue
        for _ in range(max(each.dim(), 1) if each.dtype in (torch.bool, torch.uint8) else 1):
            tracer.freeze(axes[position], _BY_DATA)
            looked_up.append(position)
            position += 1
    adjacent = looked_up == list(range(looked_up[0], looked_up[-1] + 1))
    front = looked_up[0] if adjacent else 0
    before = [axis for place, axis in kept if place < front]
    behind = [axis for place, axis in kept if place >= front]
    made = _broadcast(tracer, indices, shape[len(before) : len(shape) - len(behind)])
    return [*before, *made, *behind]


def _broadcast(tracer: Tracer, indices: Any, shape: Any) -> list[Axis]:
    """Return the axes that several index tensors have together."""
    made: list[Axis | None] = [None] * len(shape)
    for each in indices:
        if each is None or each.dtype in (torch.bool, torch.uint8):
            continue
        for position, axis in enumerate(tracer[each], start=len(shape) - each.dim()):
            tracer.constrain("copies", axis)
            if axis.expr.size != shape[position]:
                tracer.freeze(axis, "repeats it along a longer axis")
            elif (other := made[position]) is not None:
                tracer.unify(other, axis)
            else:
                made[position] = axis
    return [axis or tracer.made(n) for axis, n in zip(made, shape, strict=True)]


@rule(aten.index_select)
def index_select(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Choose entries of one axis."""
    axes = list(tracer[args[0]])
    tracer.freeze(axes[args[1]], _BY_DATA)
    axes[args[1]] = tracer.made(out.shape[args[1]])
    tracer[out] = axes


@rule(aten.gather)
def gather(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Choose entries of one axis, for each entry of the others by itself."""
    x, dim, chosen = args[:3]
    result = []
    for position, (axis, other) in enumerate(zip(tracer[x], tracer[chosen], strict=True)):
        if position == dim % x.dim():
            tracer.freeze(axis, _BY_DATA)
            result.append(other)
        elif axis.expr.size == other.expr.size:
            tracer.unify(axis, other)
            result.append(axis)
        else:
            tracer.freeze(axis, "takes only some of its units")
            result.append(other)
        tracer.constrain("copies", other)
    tracer[out] = result


@rule(
    *(aten.scatter, aten.scatter_, aten.scatter_add, aten.scatter_add_, aten.scatter_reduce, aten.scatter_reduce_),
    *(aten.index_add, aten.index_add_, aten.index_copy, aten.index_copy_, aten.index_reduce, aten.index_reduce_),
)
def scatter(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Write or add entries at places along one axis that the data say; the other axes meet as in a sum."""
    x, dim = args[:2]
    reduces = "reduce" in str(func) or "reduce" in kwargs
    for source in args[2:]:
        if not isinstance(source, Tensor) or source.dim() != x.dim():
            continue
        for position, (axis, other) in enumerate(zip(tracer[x], tracer[source], strict=True)):
            if position == dim % x.dim():
                tracer.freeze(axis, _BY_DATA)
                tracer.freeze(other, "writes where the data say")
            elif axis.expr.size != other.expr.size:
                tracer.freeze(axis, "writes to only some of its units")
                tracer.freeze(other, "writes to only some units of another axis")
            elif source.is_floating_point() and not reduces:
                tracer.same(axis, other)
            else:
                tracer.unify(axis, other)
                tracer.constrain("copies", other)
                tracer.constrain("copies", axis)
    tracer[out] = tracer[x]


@rule(aten.index_put, aten.index_put_, aten._index_put_impl_)
def index_put(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Write entries at places that the data say."""
    x, indices, values = args[:3]
    target = _indexed(tracer, x, indices, values.shape) if values.dim() >= 1 else []
    for axis, other in zip(reversed(target), reversed(tracer[values]), strict=False):
        if axis.expr.size == other.expr.size:
            tracer.same(axis, other)
        else:
            tracer.freeze(axis, "writes the same number to all its units")
    tracer[out] = tracer[x]


@rule(
    *(aten.sort, aten.topk, aten.argsort, aten.kthvalue, aten.mode, aten.median, aten.nanmedian),
    *(aten.cummax, aten.cummin, aten.argmax, aten.argmin),
)
def ordered(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Entries or positions by their order along one axis."""
    axes = tracer[args[0]]
    dims = [a for a in (args[1:], kwargs.get("dim")) if a is not None]
    place = {aten.topk: 1, aten.kthvalue: 1}.get(func.overloadpacket, 0)
    numbers = [n for n in args[1:] if isinstance(n, int) and not isinstance(n, bool)]
    dim = kwargs.get("dim", numbers[place] if len(numbers) > place else None)
    default = -1 if func.overloadpacket not in (aten.argmax, aten.argmin, aten.median, aten.nanmedian) else None
    dim = default if dim is None else dim
    gone = range(len(axes)) if dim is None else [dim % len(axes)] if dims and axes else []
    for axis in axes:
        tracer.constrain("copies", axis)
    for position in gone:
        tracer.freeze(axes[position], "orders its units")
    for result in out if isinstance(out, (tuple, list)) else (out,):
        if result.dim() == len(axes):
            tracer[result] = [
                tracer.made(n) if i in gone else axis
                for i, (n, axis) in enumerate(zip(result.shape, axes, strict=True))
            ]
        else:
            tracer[result] = [axis for i, axis in enumerate(axes) if i not in gone]


@rule(aten.constant_pad_nd)
def pad(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Lay constant entries before and behind those of some axes; `amounts` counts from the last axis."""
    x, amounts = args[:2]
    axes = list(tracer[x])
    for number in range(len(amounts) // 2):
        before, behind = amounts[2 * number : 2 * number + 2]
        position = len(axes) - 1 - number
        axis = axes[position]
        if not (before or behind):
            continue
        if is_data(axis.expr) or before < 0 or behind < 0:
            tracer.freeze(axis, "is padded")
            axes[position] = tracer.made(out.shape[position])
            continue
        parts = [_padding(tracer, before), axis, _padding(tracer, behind)]
        joined = Axis(concat(part.expr for part in parts if part is not None))
        tracer.piece(axis, joined, before)
        if isinstance(joined.expr, Concat) and len(args) > 2 and args[2]:
            tracer.constrain("copies", joined)
        axes[position] = joined
    tracer[out] = axes


def _padding(tracer: Tracer, size: int) -> Axis | None:
    if size == 0:
        return None
    wanted = tracer.call.origin(size) if tracer.call is not None else None
    expr = expression(wanted, tracer.where) if isinstance(wanted, Size) else None
    return tracer.made(size) if expr is None else Axis(expr)


@rule(aten.tril, aten.triu)
def triangle(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Keep one side of the diagonal of the last two axes."""
    axes = tracer[args[0]]
    for axis in axes[-2:]:
        tracer.freeze(axis, "treats its units by their position")
    tracer[out] = axes


@rule(aten.grid_sampler_2d, aten.grid_sampler_3d)
def grid_sampler(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Sample images at points: linear in the image."""
    x, grid = args[:2]
    for axis in (*tracer[x][2:], *tracer[grid]):
        tracer.freeze(axis, "samples points of it")
    tracer[out] = [*tracer[x][:2], *(tracer.made(n) for n in out.shape[2:])]
