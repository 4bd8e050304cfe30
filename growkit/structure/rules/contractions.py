"""Contractions: products summed over an axis. One factor copies the units, the other shares them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from growkit.structure.dimensions import Symbol, leaves, product
from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule

if TYPE_CHECKING:
    from growkit.structure.tracer import Tracer

aten = torch.ops.aten


@rule(aten.mm)
def mm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """`(n, k) (k, m) -> (n, m)`."""
    (n, k), (k2, m) = tracer[args[0]], tracer[args[1]]
    tracer.contract(k, k2)
    tracer.count(func, args, out, n, k, m)
    tracer[out] = [n, m]


@rule(aten.addmm)
def addmm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """`bias + (n, k) (k, m) -> (n, m)`."""
    (n, k), (k2, m) = tracer[args[1]], tracer[args[2]]
    tracer.contract(k, k2)
    tracer.count(func, args, out, n, k, m)
    _add_bias(tracer, tracer[args[0]], args[0].shape, [n, m], out.shape)
    tracer[out] = [n, m]


def _add_bias(tracer: Tracer, bias: list[Axis], bias_shape: Any, result: list[Axis], shape: Any) -> None:
    for position in range(-len(result), 0):
        if len(bias) >= -position and bias_shape[position] == shape[position]:
            tracer.same(result[position], bias[position])
        else:
            # The same number is added everywhere along this axis, so its entries cannot be shares.
            tracer.constrain("copies", result[position])


@rule(aten.bmm)
def bmm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """`(b, n, k) (b, k, m) -> (b, n, m)`; the batch axes meet as in a product."""
    tracer[out] = _batched(tracer, func, args, out, *args[:2])


@rule(aten.baddbmm)
def baddbmm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """`bias + (b, n, k) (b, k, m) -> (b, n, m)`."""
    result = _batched(tracer, func, args, out, *args[1:3])
    _add_bias(tracer, tracer[args[0]], args[0].shape, result, out.shape)
    tracer[out] = result


def _batched(tracer: Tracer, func: Any, args: tuple[Any, ...], out: Tensor, left: Tensor, right: Tensor) -> list[Axis]:
    (b, n, k), (b2, k2, m) = tracer[left], tracer[right]
    tracer.contract(k, k2, scores=True)
    tracer.count(func, args, out, b, n, k, m)
    tracer.unify(b, b2)
    batch = Axis(b.expr)
    tracer.constrain("product", b, b2, batch)
    return [batch, n, m]


@rule(aten.addmv)
def addmv(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """`bias + (n, k) (k) -> (n)`."""
    (n, k), (k2,) = tracer[args[1]], tracer[args[2]]
    tracer.contract(k, k2)
    _add_bias(tracer, tracer[args[0]], args[0].shape, [n], out.shape)
    tracer[out] = [n]


@rule(F.bilinear)
def bilinear(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """`(*, i) (o, i, j) (*, j) + bias -> (*, o)`."""
    left, right, weight = args[:3]
    bias = args[3] if len(args) > 3 else kwargs.get("bias")
    o, i, j = tracer[weight]
    tracer.contract(tracer[left][-1], i)
    tracer.contract(tracer[right][-1], j)
    for a, b in zip(tracer[left][:-1], tracer[right][:-1], strict=True):
        tracer.unify(a, b)
        tracer.constrain("copies", a)
        tracer.constrain("copies", b)
    if bias is not None:
        tracer.same(o, tracer[bias][0])
    tracer.work.append((2.0 * weight.numel() * (out.numel() // weight.shape[0]), (o, i, j)))
    tracer[out] = [*tracer[left][:-1], o]


@rule(aten.mv)
def mv(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """`(n, k) (k) -> (n)`."""
    (n, k), (k2,) = tracer[args[0]], tracer[args[1]]
    tracer.contract(k, k2)
    tracer[out] = [n]


@rule(aten.dot)
def dot(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """`(k) (k) -> ()`."""
    tracer.contract(tracer[args[0]][0], tracer[args[1]][0])
    tracer[out] = []


@rule(aten.convolution)
def convolution(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Any convolution: contracts the input channels of each group; kernel and image are extents."""
    x, weight, bias, stride, padding, _dilation, transposed, _output_padding, groups = args
    x_axes, weight_axes = tracer[x], tracer[weight]
    for axis in weight_axes[2:]:
        _extent(axis, "is the size of a convolution kernel")
    dimensions = len(weight_axes) - 2
    stride, padding = (list(n) * (dimensions // len(n)) for n in (stride, padding))  # one number may stand for all
    image = [
        _slide(tracer, axis, n, pointwise=kernel == step == 1 and edge == 0)
        for axis, n, kernel, step, edge in zip(
            x_axes[2:], out.shape[2:], weight.shape[2:], stride, padding, strict=True
        )
    ]
    work: tuple[Axis, ...]
    if groups == 1:
        inner, outer = (weight_axes[0], weight_axes[1]) if transposed else (weight_axes[1], weight_axes[0])
        tracer.contract(x_axes[1], inner)
        channels, work = outer, (x_axes[1], outer)
    else:
        channels, work = _grouped(tracer, x_axes[1], weight_axes, transposed, groups)
        tracer.mirror(weight, "groups", work[0])
    tracer.mirror(weight, "in_channels", x_axes[1])
    tracer.mirror(weight, "out_channels", channels)
    tracer.count(func, args, out, x_axes[0], *work)
    if bias is not None:
        tracer.same(channels, tracer[bias][0])
        for axis in (x_axes[0], *image):
            tracer.constrain("copies", axis)
    tracer[out] = [x_axes[0], channels, *image]


def _slide(tracer: Tracer, axis: Axis, size: int, *, pointwise: bool) -> Axis:
    """Return the axis that a kernel makes of one that it slides over; a kernel of one entry leaves it as it is."""
    if pointwise:
        return axis
    tracer.freeze(axis, "slides over it")
    return tracer.extent(size, f"is the output extent of {tracer.where}")


def _extent(axis: Axis, reason: str) -> None:
    for symbol in leaves(axis.expr):
        symbol.extent, symbol.frozen = True, reason


def _grouped(
    tracer: Tracer, x: Axis, weight: list[Axis], transposed: bool, groups: int
) -> tuple[Axis, tuple[Axis, ...]]:
    """Split channels into groups: the groups meet as in a product, the channels inside each are contracted."""
    inner_size, outer_size = (
        (weight[0].expr.size // groups, weight[1].expr.size)
        if transposed
        else (weight[1].expr.size, weight[0].expr.size // groups)
    )
    group, inner, outer = (Axis(_new(n)) for n in (groups, inner_size, outer_size))
    out = Axis(product((group.expr, outer.expr)))
    tracer.unify(x, Axis(product((group.expr, inner.expr))))
    # The weight is (groups * outer, inner, ...), or (groups * inner, outer, ...) when transposed.
    joint, single = weight[:2]
    if single.expr.size == 1:
        _extent(single, "has one entry a group")
    tracer.unify(joint, Axis(product((group.expr, inner.expr if transposed else outer.expr))))
    tracer.unify(single, outer if transposed else inner)
    w_inner, w_outer = (joint, single) if transposed else (single, joint)
    # Roles, symbol by symbol: input and weight are multiplied along the groups and summed along `inner`.
    x_group, w_group, x_inner = Axis(group.expr), Axis(group.expr), Axis(inner.expr)
    tracer.constrain("same", x, x_group)
    tracer.constrain("same", joint, w_group)
    tracer.constrain("product", x_group, w_group, group)
    tracer.constrain("same", group, out)
    tracer.constrain("same", x, x_inner)
    tracer.constrain("same", w_inner, inner)
    tracer.constrain("opposite", x_inner, inner)
    tracer.constrain("same", w_outer, outer)
    tracer.constrain("same", outer, out)
    return out, (group, inner, outer)


def _new(size: int) -> Symbol:
    return Symbol(size, extent=True, frozen="has one entry a group") if size == 1 else Symbol(size)
