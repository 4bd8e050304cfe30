"""Operations that cut an axis into pieces, take some of its entries, or lay tensors end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from growkit.structure.dimensions import Expr, Symbol, concat, is_data, leaves, product, resolve
from growkit.structure.refine import chop, cut, divide
from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule
from growkit.structure.sizes import Size, expression, sizes_in

if TYPE_CHECKING:
    from growkit.structure.tracer import Tracer

aten = torch.ops.aten


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
    offset = 0
    for row in rows:
        tracer.piece(row[along], joined, offset)
        offset += row[along].expr.size
    result[along] = joined
    tracer[out] = result


@rule(aten.stack)
def stack(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Lay tensors side by side along a new axis; the other axes meet as in a sum."""
    along = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    rows = [tracer[tensor] for tensor in args[0]]
    for row in rows[1:]:
        for first, other in zip(rows[0], row, strict=True):
            tracer.same(first, other)
    axes = list(rows[0])
    axes.insert(along, tracer.made(len(rows)))
    tracer[out] = axes


@rule(aten.split, aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes, aten.chunk)
def split_rule(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Cut one axis into pieces: equal ones, whose number is given, or of given sizes."""
    x = args[0]
    along = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % x.dim()
    if not out or x.shape[along] == 0:
        raise ValueError("nothing to cut")
    axis = tracer[x][along]
    sizes = [piece.shape[along] for piece in out]
    if _by_number(tracer) and len(set(sizes)) == 1 and not is_data(axis.expr):
        part = chop(axis.expr, len(sizes), tracer.where)
        if part is None:
            tracer.freeze(axis, "cuts through what cannot be cut")
    if is_data(axis.expr) and tracer.call is not None:
        tracer.log.decides |= not _by_number(tracer)  # other data come in another number of pieces
        for number in sizes_in(tracer.call.args[1:]):
            _note_number(number)
    start = 0
    for piece, size, wanted in zip(out, sizes, _sizes_asked(tracer, sizes), strict=True):
        _set_piece(tracer, x, along, start, piece, wanted)
        start += size


def _by_number(tracer: Tracer) -> bool:
    """Say whether the code gave the number of pieces, as `chunk` does, and not their sizes."""
    name = tracer.call.name if tracer.call is not None else ""
    return name in {"chunk", "tensor_split", "glu", "hsplit", "vsplit", "dsplit"}


def _sizes_asked(tracer: Tracer, sizes: list[int]) -> list[Any]:
    if tracer.call is None or _by_number(tracer):
        return [None] * len(sizes)
    given = [arg for arg in (*tracer.call.args, *tracer.call.kwargs.values()) if isinstance(arg, (list, tuple))]
    if given and len(given[0]) == len(sizes):
        return [tracer.call.own(n) for n in given[0]]
    return [tracer.call.origin(n) for n in sizes]


@rule(aten.slice)
def slice_rule(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Keep a stretch of one axis, or every so many of its entries."""
    defaults: tuple[Any, ...] = (None, 0, None, None, 1)
    x, along, first, last, step = (*args, *defaults[len(args) :])
    along %= x.dim()
    if step != 1:
        _stride(tracer, x, along, step, out)
        return
    start = slice(first, last).indices(x.shape[along])[0]
    axis = tracer[x][along]
    if out.shape[along] == x.shape[along]:
        tracer[out] = tracer[x]
        return
    if out.shape[along] == 0:
        _nothing(tracer, x, along, out)
        return
    if _by_number(tracer):
        pieces = next((n for n in sizes_in(tracer.call.args) if n > 1), 0) if tracer.call else 0
        if not pieces or axis.expr.size % pieces or chop(axis.expr, pieces, tracer.where) is None:
            tracer.freeze(axis, "cuts it into unequal pieces")
    elif not is_data(axis.expr):
        for bound in {first, last} - {None, 0}:
            if -x.shape[along] < bound < x.shape[along]:
                _bound(tracer, axis, bound)
    _set_piece(tracer, x, along, start, out, None)


def _note_number(number: Any) -> None:
    """Note that a size of units cuts data: other data would be cut in another way once there are more units."""
    if isinstance(number, Size):
        number.log.note_read(number)


def _nothing(tracer: Tracer, x: Tensor, along: int, out: Tensor) -> None:
    """Set the axes of an empty stretch; where the code gives the whole size for it, that has to stay the whole."""
    axes = list(tracer[x])
    wanted = tracer.call.origin(axes[along].expr.size) if tracer.call is not None else None
    if isinstance(wanted, Size):
        tracer.sized(axes[along], wanted)
    elif not is_data(axes[along].expr):
        tracer.freeze(axes[along], "takes nothing of it")
    axes[along] = tracer.made(0)
    tracer[out] = axes


def full_slices(tracer: Tracer, x: Tensor, index: Any) -> None:
    """Note the bounds of slices that cut nothing off yet, such as `x[:, : self.channels]`: torch skips them.

    Also those that cut data.
    """
    axes = tracer.axes_of(x)
    entries = index if isinstance(index, tuple) else (index,)
    if axes is None or tracer.call is None or not any(isinstance(entry, slice) for entry in entries):
        return
    if any(not isinstance(entry, (slice, int, type(None), type(...))) for entry in entries):
        return
    places = sum(isinstance(entry, (slice, int)) for entry in entries)
    position = 0
    for entry in entries:
        if entry is ...:
            position += len(axes) - places
        elif isinstance(entry, int):
            position += 1
        elif isinstance(entry, slice):
            for bound in (entry.start, entry.stop) if is_data(axes[position].expr) else ():
                _note_number(bound)
            if entry.stop is not None and entry.stop == axes[position].expr.size and not entry.start:
                tracer.sized(axes[position], tracer.call.own(entry.stop))
            position += 1


def _bound(tracer: Tracer, axis: Axis, bound: int) -> None:
    """Cut an axis at a bound, counted from the end if negative; say what the code's size for it means."""
    wanted = tracer.call.origin(bound) if tracer.call is not None else None
    size = expression(wanted, tracer.where) if isinstance(wanted, Size) else None
    if isinstance(wanted, Size) and (size is None or is_data(size)):
        tracer.freeze(axis, "cuts it where the data say")
        return
    whole = axis.expr.size
    halves = cut(axis.expr, bound if bound > 0 else whole + bound)
    if halves is None:
        tracer.freeze(axis, "takes only some of its units")
        return
    counted = Axis(halves[0] if bound > 0 else halves[1])
    tracer.piece(counted, axis, 0 if bound > 0 else whole + bound)
    if isinstance(wanted, Size):
        tracer.sized(counted, wanted)
    elif wanted is not None:
        tracer.written(counted, abs(bound))


def _stride(tracer: Tracer, x: Tensor, along: int, step: int, out: Tensor) -> None:
    axes = list(tracer[x])
    axis = axes[along]
    halves = divide(axis.expr, axis.expr.size // step, tracer.where) if axis.expr.size % step == 0 else None
    if halves is None or is_data(axis.expr) or halves[0].size != out.shape[along]:
        tracer.freeze(axis, "takes every so many of its units")
        axes[along] = tracer.made(out.shape[along])
    else:
        for symbol in leaves(halves[1]):
            symbol.frozen = symbol.frozen or f"{tracer.where} takes one unit in {step}"
        axes[along] = Axis(halves[0])
        tracer.constrain("same", axes[along], axis)
    tracer[out] = axes


def _set_piece(tracer: Tracer, x: Tensor, along: int, start: int, piece: Tensor, wanted: Any) -> None:
    """Set the axes of a stretch of `x`, whose size the code may have given."""
    axes = list(tracer[x])
    axis, size = axes[along], piece.shape[along]
    stretch = _stretch(axis.expr, start, size)
    if stretch is None:
        tracer.freeze(axis, "takes only some of its units")
        axes[along] = tracer.extent(size, f"was cut out by {tracer.where}")
    elif stretch is not resolve(axis.expr):
        axes = [_slot(each, axis, start, size) for each in axes]
        axes[along] = Axis(stretch)
        tracer.piece(axes[along], axis, start)
    tracer.sized(axes[along], wanted)
    tracer[piece] = axes


def _stretch(expr: Expr, start: int, size: int) -> Expr | None:
    """Return the expression of a stretch of an axis, cutting where needed."""
    if start:
        halves = cut(expr, start)
        if halves is None:
            return None
        expr = halves[1]
    if expr.size > size:
        halves = cut(expr, size)
        return None if halves is None else resolve(halves[0])
    return resolve(expr)


@rule(aten.select)
def select(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Take one entry of an axis."""
    axes = list(tracer[args[0]])
    taken = axes.pop(args[1])
    tracer.trap(out, taken, "takes one of its units")  # some code takes one for its shape only
    tracer[out] = [_slot(axis, taken, args[2] % taken.expr.size, 1) for axis in axes]


@rule(aten.unbind)
def unbind(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Take every entry of an axis by itself."""
    axes = list(tracer[args[0]])
    taken = axes.pop(args[1] if len(args) > 1 else kwargs.get("dim", 0))
    tracer.log.decides |= is_data(taken.expr)  # other data have another number of entries
    tracer.freeze(taken, "takes each of its units by itself")
    for index, entry in enumerate(out):
        tracer[entry] = [_slot(axis, taken, index, 1) for axis in axes]


def _slot(axis: Axis, numbering: Axis, start: int, count: int) -> Axis:
    """Return what an axis is at a stretch of a numbering axis."""
    slots = axis.slots
    return slots.at(start, count, axis.expr) if slots is not None and slots.numbering is numbering else axis


@rule(aten.pixel_shuffle, aten.pixel_unshuffle)
def pixel_shuffle(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Move blocks of channels to pixels, or back: the channel is the slow factor of (channel, row, column)."""
    *kept, channels, _, _ = tracer[args[0]]
    block = Symbol(args[1] ** 2, extent=True, number=True, frozen=f"is a block of {tracer.where}")
    if func.overloadpacket is aten.pixel_unshuffle:
        result = Axis(product((channels.expr, block)))
    else:
        halves = divide(channels.expr, channels.expr.size // args[1] ** 2, tracer.where) if args[1] > 1 else None
        if halves is not None:
            for symbol in leaves(halves[1]):
                symbol.frozen = symbol.frozen or f"{tracer.where} makes pixels of it"
        result = Axis(halves[0] if halves is not None else channels.expr)
        if halves is None and args[1] > 1:
            raise ValueError("channels that do not come in blocks")
    tracer.constrain("same", result, channels)
    tracer[out] = [*kept, result, *(tracer.made(n) for n in out.shape[-2:])]


@rule(aten.channel_shuffle, aten.native_channel_shuffle)
def channel_shuffle(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Interleave the groups of channels."""
    x, groups = args
    axes = list(tracer[x])
    wanted = tracer.call.origin(groups) if tracer.call is not None else None
    member = chop(axes[1].expr, groups, tracer.where)
    if member is None:
        raise ValueError("channels that do not come in groups")
    if isinstance(wanted, Size) and not is_data(member):
        wanted.log.note_read(wanted)
    count = Symbol(groups, extent=True, number=True, frozen=f"is the number of groups of {tracer.where}")
    shuffled = Axis(product((member, count)))
    one = Axis(member)
    tracer.piece(one, axes[1], 0)
    for index in range(1, groups):
        other = Axis(member)
        tracer.piece(other, axes[1], index * member.size)
        tracer.constrain("same", other, one)
    tracer.constrain("same", one, shuffled)
    axes[1] = shuffled
    tracer[out] = axes
