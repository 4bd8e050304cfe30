"""Views that reorder, insert and repeat axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from growkit.structure.dimensions import is_data, product
from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule
from growkit.structure.sizes import Size, expression

if TYPE_CHECKING:
    from growkit.structure.calls import Call
    from growkit.structure.tracer import Tracer

aten = torch.ops.aten


@rule(aten.t, aten.numpy_T)
def t(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Reverse the axes of a matrix."""
    tracer[out] = tracer[args[0]][::-1]


@rule(aten.transpose, aten.transpose_, aten.swapaxes)
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


@rule(aten.unsqueeze, aten.unsqueeze_)
def unsqueeze(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Insert an axis of one entry."""
    axes = list(tracer[args[0]])
    axes.insert(args[1] % out.dim(), tracer.extent(1, f"was inserted by {tracer.where}"))
    tracer[out] = axes


@rule(aten.expand)
def expand(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Repeat axes of one entry without copying."""
    axes = tracer[args[0]]
    call = tracer.call
    asked = call.asked(out.dim()) if call is not None else None
    if call is not None and call.name == "expand_as":
        asked = [Size(axis.expr.size, axis.expr, tracer.log) for axis in tracer[call.args[1]]]
    elif call is not None and call.name in _BROADCASTING:
        asked = _sizes_of_operands(tracer, call, out.shape)
    new = out.dim() - len(axes)
    result = [_repeated(tracer, n, asked[i] if asked else None) for i, n in enumerate(out.shape)]
    for position, axis in enumerate(axes):
        if axis.expr.size == out.shape[new + position]:
            result[new + position] = axis
        else:
            tracer.freeze(axis, "repeats it along a longer axis")
    tracer[out] = result


# Products that repeat one factor for the leading axes of the other.
_BROADCASTING = {"matmul", "__matmul__", "__rmatmul__"}


def _sizes_of_operands(tracer: Tracer, call: Call, shape: Sequence[int]) -> list[Any]:
    """Return which sizes of the factors the leading axes of a product have."""
    found: list[Any] = [None] * len(shape)
    for factor in (*call.args, *call.kwargs.values()):
        for position, axis in enumerate(tracer[factor][:-2], start=len(shape) - factor.dim()):
            if position >= 0 and axis.expr.size == shape[position] > 1:
                found[position] = Size(axis.expr.size, axis.expr, tracer.log)
    return found


def _repeated(tracer: Tracer, size: int, wanted: Any) -> Axis:
    """Return the axis along which something is repeated: each entry is the same."""
    expr = expression(wanted, tracer.where) if isinstance(wanted, Size) and size > 1 else None
    if expr is None or is_data(expr):
        return tracer.made(size)
    axis = Axis(expr)
    tracer.constrain("copies", axis)
    return axis


@rule(aten.repeat)
def repeat(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Repeat every axis some number of times, the repetitions outermost."""
    axes, times = tracer[args[0]], args[1]
    asked = list(tracer.call.args[1:]) if tracer.call is not None and tracer.call.name == "repeat" else []
    asked = list(asked[0]) if len(asked) == 1 and isinstance(asked[0], (tuple, list)) else asked
    counts = [
        _repeated(tracer, n, asked[i] if len(asked) == len(times) else None) if n != 1 else None
        for i, n in enumerate(times)
    ]
    new = len(times) - len(axes)
    result = [count if count is not None else tracer.made(1) for count in counts[:new]]
    for axis, count in zip(axes, counts[new:], strict=True):
        if count is None:
            result.append(axis)
            continue
        if axis.expr.size == 1:
            tracer.freeze(axis, "repeats it along a longer axis")
            result.append(count)
            continue
        merged = Axis(product((count.expr, axis.expr)))
        tracer.constrain("same", axis, merged)
        tracer.constrain("same", count, merged)
        result.append(merged)
    tracer[out] = result


@rule(aten.repeat_interleave)
def repeat_interleave(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Repeat each entry of one axis some number of times, the repetitions innermost."""
    dim = args[2] if len(args) > 2 else kwargs["dim"]
    axes = list(tracer[args[0]])
    axis = axes[dim]
    times = out.shape[dim] // axis.expr.size
    wanted = tracer.call.origin(times) if tracer.call is not None else None
    count = _repeated(tracer, times, wanted)
    merged = Axis(product((axis.expr, count.expr)))
    tracer.constrain("same", axis, merged)
    tracer.constrain("same", count, merged)
    axes[dim] = merged
    tracer[out] = axes


@rule(aten.roll, aten.flip)
def reorder(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Shift or reverse the entries of some axes, which ties each unit to another one's place."""
    axes = tracer[args[0]]
    dims = args[-1] if func.overloadpacket is aten.flip else (args[2] if len(args) > 2 else kwargs.get("dims", ()))
    moved = {dim % len(axes) for dim in dims} or set(range(len(axes)))
    for dim in moved:
        tracer.freeze(axes[dim], "changes the order of its entries")
    tracer[out] = [tracer.made(axis.expr.size) if d in moved else axis for d, axis in enumerate(axes)]


@rule(aten.view_as_complex)
def view_as_complex(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Make complex numbers of pairs."""
    *axes, pair = tracer[args[0]]
    tracer.freeze(pair, "takes its two entries for a complex number")
    tracer[out] = axes


@rule(aten.view_as_real)
def view_as_real(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Make pairs of complex numbers."""
    tracer[out] = [*tracer[args[0]], tracer.made(2)]


@rule(aten.diagonal)
def diagonal(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Take the entries in which two axes agree; units of both are then the same, which no edit of one can follow."""
    first, second = (args[i] if len(args) > i else kwargs.get(f"dim{i - 1}", i - 2) for i in (2, 3))
    axes = list(tracer[args[0]])
    pair = [axes[first], axes[second]]
    for axis in pair:
        tracer.freeze(axis, "takes its diagonal")
    tracer[out] = [axis for axis in axes if axis not in pair] + [tracer.made(out.shape[-1])]
