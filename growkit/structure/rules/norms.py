"""Normalisations: statistics over the batch leave units alone; statistics over units tie them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from growkit.structure.dimensions import Symbol, product, require_uniform
from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule

if TYPE_CHECKING:
    from growkit.structure.tracer import Tracer

aten = torch.ops.aten


@rule(
    aten.native_batch_norm,
    aten._native_batch_norm_legit,
    aten._native_batch_norm_legit_no_training,
    aten.cudnn_batch_norm,
    aten.miopen_batch_norm,
)
def batch_norm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Each channel by its own statistics: `x, weight, bias, running mean, running variance, ...`."""
    x, weight, bias = args[:3]
    statistics = [tensor for tensor in args[3:5] if isinstance(tensor, Tensor)]
    channel = tracer[x][1]
    if not statistics or (len(args) > 5 and args[5] is True):
        for axis in (tracer[x][0], *tracer[x][2:]):
            tracer.demand(require_uniform, axis, "averages over the units")
            tracer.constrain("copies", axis)
    for tensor in statistics:
        tracer.unify(channel, tracer[tensor][0])
    _whole(tracer, [channel, *(tracer[tensor][0] for tensor in statistics)])
    result = _affine(tracer, [channel], weight, bias)
    tracer.mirror(next((t for t in (weight, *statistics) if t is not None), None), "num_features", channel)
    _set(tracer, out, [tracer[x][0], *result, *tracer[x][2:]])


@rule(aten.native_layer_norm)
def layer_norm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Mean and variance over the last axes: preserved when every unit is copied equally often."""
    x, shape, weight, bias = args[:4]
    if not tracer.in_module(nn.LayerNorm):
        for axis, size in zip(tracer[x][-len(shape) :], shape, strict=True):
            tracer.sized(axis, tracer.call.origin(size) if tracer.call is not None else None)
    _normalise_last(tracer, x, len(shape), weight, bias, out)


@rule(aten._fused_rms_norm)
def rms_norm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Mean square over the last axes."""
    x, shape, weight = args[:3]
    _normalise_last(tracer, x, len(shape), weight, None, out)


def _normalise_last(
    tracer: Tracer, x: Tensor, count: int, weight: Tensor | None, bias: Tensor | None, out: Any
) -> None:
    kept, last = tracer[x][:-count], tracer[x][-count:]
    for axis in last:
        tracer.demand(require_uniform, axis, "averages over the units")
    _whole(tracer, last)
    tracer.mirror(weight, "normalized_shape", *last, several=True)
    _set(tracer, out, [*kept, *_affine(tracer, last, weight, bias)])


@rule(aten.native_group_norm)
def group_norm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Mean and variance over the channels of each group: `x, weight, bias, N, C, HxW, groups, eps`."""
    x, weight, bias, _n, channels, _hw, groups = args[:7]
    axis = tracer[x][1]
    group = Symbol(groups, extent=groups == 1)
    member = Symbol(channels // groups, extent=channels == groups)
    tracer.unify(axis, Axis(product((group, member))))
    tracer.demand(require_uniform, Axis(member), "averages over the units of a group")
    _whole(tracer, [axis])
    if tracer.in_module(nn.GroupNorm):
        tracer.mirror(weight, "num_groups", Axis(group))
    else:
        tracer.sized(Axis(group), tracer.call.origin(groups) if tracer.call is not None else None)
    tracer.mirror(weight, "num_channels", axis)
    _set(tracer, out, [tracer[x][0], *_affine(tracer, [axis], weight, bias), *tracer[x][2:]])


def _whole(tracer: Tracer, axes: list[Axis]) -> None:
    for axis in axes:
        tracer.constrain("copies", axis)


def _affine(tracer: Tracer, axes: list[Axis], weight: Tensor | None, bias: Tensor | None) -> list[Axis]:
    """Scale and shift normalised (hence whole) axes; the scale may hold shares, and then so does the result."""
    if weight is None:
        return axes
    scale = tracer[weight]
    for axis, gain in zip(axes, scale, strict=True):
        tracer.unify(axis, gain)
    if bias is not None:
        for gain, shift in zip(scale, tracer[bias], strict=True):
            tracer.same(gain, shift)
    return scale


def _set(tracer: Tracer, out: Any, axes: list[Axis]) -> None:
    """Set the axes of the result; the saved statistics behind it are for the backward pass only."""
    results = out if isinstance(out, (tuple, list)) else (out,)
    tracer[results[0]] = axes
    for extra in results[1:]:
        tracer[extra] = [tracer.extent(n, f"is saved by {tracer.where} for its backward pass") for n in extra.shape]


@rule(aten._weight_norm_interface, aten._weight_norm)
def weight_norm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """`g v / |v|`, each entry along one axis by the norm over the others: `v, g, axis`.

    Sharing entries out along another axis changes the norms, so `g` has to be set anew afterwards.
    """
    direction, gain = args[:2]
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    axes = tracer[direction]
    tracer.same(axes[dim], tracer[gain][dim])
    for axis in tracer[gain]:
        if axis is not tracer[gain][dim]:
            tracer.single(axis)
    tracer.normalised(direction, gain, dim)
    result, *saved = out if isinstance(out, (tuple, list)) else (out,)
    tracer[result] = axes
    for extra in saved:
        tracer[extra] = [
            axis if axis.expr.size == n else tracer.made(n) for axis, n in zip(axes, extra.shape, strict=True)
        ]
