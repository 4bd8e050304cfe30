"""Reductions, pools, lookups: what happens to an axis that is summed, averaged, maximised or indexed away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from growkit.structure.dimensions import leaves, product, require_copies, require_uniform
from growkit.structure.refine import divide
from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule

if TYPE_CHECKING:
    from growkit.structure.tracer import Tracer

aten = torch.ops.aten


@rule(aten.sum)
def total(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A sum over units is preserved if they hold shares; the other axes pass through."""
    _reduce(tracer, args, kwargs, out, lambda axis: tracer.constrain("shares", axis), linear=True)


@rule(aten.mean)
def mean(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A mean over units is preserved if all of them are copied equally often."""
    _reduce(tracer, args, kwargs, out, lambda axis: _average(tracer, axis), linear=True)


@rule(aten.var, aten.std, aten.var_mean)
def variance(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A variance is preserved like a mean if it divides by the number of units, not by one less."""
    correction = kwargs.get("correction", 1)
    biased = correction == 0

    def reduced(axis: Axis) -> None:
        if biased:
            _average(tracer, axis)
        else:
            tracer.forbid_exact(axis, "divides by one less than its number of units")

    _reduce(tracer, args, kwargs, out, reduced, linear=False)


@rule(aten.amax, aten.amin, aten.max, aten.min, aten.any, aten.all)
def extreme(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """An extreme is preserved by copies, not by new units. The position of it (max with an axis) is not."""

    def reduced(axis: Axis) -> None:
        if isinstance(out, (tuple, list)):
            tracer.trap(out[1], axis, "returns positions along it")
        tracer.demand(require_copies, axis, "takes an extreme over the units")
        tracer.constrain("copies", axis)

    _reduce(tracer, args, kwargs, out, reduced, linear=False)


@rule(aten.prod)
def multiplied(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A product changes with every copy."""
    _reduce(
        tracer, args, kwargs, out, lambda axis: tracer.forbid_exact(axis, "multiplies all of its units"), linear=False
    )


@rule(aten.linalg_vector_norm, aten.norm)
def norm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A norm grows with every copy; an Euclidean one over one axis by the root of their number."""
    x, order = args[0], args[1] if len(args) > 1 else kwargs.get("ord", 2)
    dims = args[2] if len(args) > 2 else kwargs.get("dim")
    keepdim = args[3] if len(args) > 3 else kwargs.get("keepdim", False)
    gone = [dims] if isinstance(dims, int) else list(dims or range(x.dim()))
    if order == 2 and len(gone) == 1 and keepdim:
        tracer.constrain("copies", tracer[x][gone[0]])
        tracer.norm(out, tracer[x][gone[0]])
    else:
        for place in gone:
            tracer.forbid_exact(tracer[x][place], "adds every one of its units to a norm")
    _reduce(tracer, (x,), {"dim": gone, "keepdim": keepdim}, out, lambda axis: None, linear=False)


@rule(aten.cumsum, aten.cumprod)
def cumulative(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Sums or products up to each entry, which depend on the order."""
    axes = tracer[args[0]]
    for position, axis in enumerate(axes):
        if position == args[1] % len(axes):
            tracer.freeze(axis, "depends on the order of its units")
        if func.overloadpacket is aten.cumprod:
            tracer.constrain("copies", axis)
    tracer[out] = axes


def _average(tracer: Tracer, axis: Axis) -> None:
    tracer.demand(require_uniform, axis, "averages over the units")
    tracer.constrain("copies", axis)


def _reduce(
    tracer: Tracer,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    out: Any,
    reduced: Callable[[Axis], None],
    *,
    linear: bool,
) -> None:
    """Apply `reduced` to the axes that go and pass the others on."""
    axes = tracer[args[0]]
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    gone = {d % len(axes) for d in dims} if dims and axes else set(range(len(axes)))
    keepdim = args[2] if len(args) > 2 and isinstance(args[2], bool) else kwargs.get("keepdim", False)
    kept: list[Axis] = []
    for position, axis in enumerate(axes):
        if position not in gone:
            if not linear:
                tracer.constrain("copies", axis)
            kept.append(axis)
            continue
        reduced(axis)
        if keepdim:
            kept.append(tracer.extent(1, f"was reduced by {tracer.where}"))
    for result in out if isinstance(out, (tuple, list)) else (out,):
        tracer[result] = kept


@rule(aten._fft_r2c, aten._fft_c2r, aten._fft_c2c)
def fourier(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Fourier transforms along some axes; linear along the others."""
    axes = list(tracer[args[0]])
    for dim in args[1]:
        tracer.freeze(axes[dim], "transforms along it")
        axes[dim] = tracer.made(out.shape[dim])
    tracer[out] = axes


@rule(aten._cdist_forward, aten._euclidean_dist)
def distances(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Distances between all rows of two matrices: each unit adds to them."""
    (*batch, n, k), (*other, m, k2) = tracer[args[0]], tracer[args[1]]
    tracer.unify(k, k2)
    tracer.forbid_exact(k, "adds every one of its units to a distance")
    for axis in (*batch, *other, n, m):
        tracer.constrain("copies", axis)
    for axis, meets in zip(batch, other, strict=True):
        tracer.unify(axis, meets)
    tracer[out] = [*batch, n, m]


# ------------------------------------------------------------------ pools


def _image(tracer: Tracer, x: Tensor, out: Any, dimensions: int, *, linear: bool) -> None:
    axes = tracer[x]
    for axis in axes[-dimensions:]:
        tracer.freeze(axis, "slides over it")
    kept = axes[:-dimensions]
    if not linear:
        for axis in kept:
            tracer.constrain("copies", axis)
    for result in out if isinstance(out, (tuple, list)) else (out,):
        reason = f"is the output extent of {tracer.where}"
        tracer[result] = [*kept, *(tracer.extent(n, reason) for n in result.shape[-dimensions:])]


def _image_rule(dimensions: int, *, linear: bool) -> Any:
    def apply(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        _image(tracer, args[0], out, dimensions, linear=linear)

    return apply


_LINEAR_IMAGE: dict[int, Sequence[Any]] = {
    1: (
        *(aten.avg_pool1d, aten.upsample_nearest1d, aten.upsample_linear1d, aten._upsample_nearest_exact1d),
        *(aten.reflection_pad1d, aten.replication_pad1d),
    ),
    2: (
        *(aten.avg_pool2d, aten._adaptive_avg_pool2d, aten.upsample_nearest2d, aten.upsample_bilinear2d),
        *(aten.upsample_bicubic2d, aten._upsample_nearest_exact2d, aten._upsample_bilinear2d_aa),
        *(aten._upsample_bicubic2d_aa, aten.reflection_pad2d, aten.replication_pad2d),
    ),
    3: (
        *(aten.avg_pool3d, aten._adaptive_avg_pool3d, aten.upsample_nearest3d, aten.upsample_trilinear3d),
        *(aten._upsample_nearest_exact3d, aten.reflection_pad3d, aten.replication_pad3d),
    ),
}
_MAXIMUM_IMAGE: dict[int, Sequence[Any]] = {
    2: (aten.max_pool2d_with_indices, aten.adaptive_max_pool2d, aten.fractional_max_pool2d),
    3: (aten.max_pool3d_with_indices, aten.adaptive_max_pool3d),
}
for _dimensions, _operations in _LINEAR_IMAGE.items():
    rule(*_operations)(_image_rule(_dimensions, linear=True))
for _dimensions, _operations in _MAXIMUM_IMAGE.items():
    rule(*_operations)(_image_rule(_dimensions, linear=False))


# ------------------------------------------------------------------ patches and random masks


@rule(aten.im2col)
def patches(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Patches of an image as columns: `(N, C, H, W) -> (N, C * kernel, places)`."""
    *kept, channels, high, wide = tracer[args[0]]
    for axis in (high, wide):
        tracer.freeze(axis, "slides over it")
    kernel = tracer.made(out.shape[-2] // channels.expr.size)
    merged = Axis(product((channels.expr, kernel.expr)))
    tracer.constrain("same", channels, merged)
    tracer[out] = [*kept, merged, tracer.made(out.shape[-1])]


@rule(aten.col2im)
def overlap(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Sum overlapping patches to an image: `(N, C * kernel, places) -> (N, C, H, W)`."""
    *kept, merged, _ = tracer[args[0]]
    halves = divide(merged.expr, out.shape[-3], tracer.where)
    if halves is None:
        raise ValueError("columns that are no patches of channels")
    for symbol in leaves(halves[1]):
        symbol.frozen = symbol.frozen or f"{tracer.where} makes pixels of it"
    channels = Axis(halves[0])
    tracer.constrain("same", channels, merged)
    tracer[out] = [*kept, channels, *(tracer.made(n) for n in out.shape[-2:])]


@rule(aten.unfold)
def windows(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Overlapping windows along one axis, their entries along a new last one."""
    axes = list(tracer[args[0]])
    tracer.freeze(axes[args[1]], "slides over it")
    axes[args[1]] = tracer.made(out.shape[args[1]])
    tracer[out] = [*axes, tracer.made(out.shape[-1])]


@rule(aten.max_unpool2d, aten.max_unpool3d)
def unpool(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Put maxima back where they were."""
    dimensions = 2 if func.overloadpacket is aten.max_unpool2d else 3
    for axis, other in zip(tracer[args[0]], tracer[args[1]], strict=True):
        tracer.unify(axis, other)
    _image(tracer, args[0], out, dimensions, linear=False)


@rule(aten.native_dropout)
def dropout(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Linear in its input."""
    for result in out:
        tracer[result] = tracer[args[0]]
