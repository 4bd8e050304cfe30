"""Reductions, pools, lookups: what happens to an axis that is summed, averaged, maximised or indexed away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from growkit.structure.dimensions import require_copies, require_uniform
from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule

if TYPE_CHECKING:
    from growkit.structure.trace import Tracer

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
            tracer.freeze(axis, "divides by one less than its number of units")

    _reduce(tracer, args, kwargs, out, reduced, linear=False)


@rule(aten.amax, aten.amin, aten.max, aten.min)
def extreme(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """An extreme is preserved by copies, not by new units. The position of it (max with an axis) is not."""
    if isinstance(out, (tuple, list)):
        _reduce(
            tracer,
            args,
            kwargs,
            out,
            lambda axis: tracer.freeze(axis, "returns positions along it"),
            linear=False,
        )
        return

    def reduced(axis: Axis) -> None:
        require_copies(axis.expr, f"{tracer.where} takes an extreme over the units")
        tracer.constrain("copies", axis)

    _reduce(tracer, args, kwargs, out, reduced, linear=False)


def _average(tracer: Tracer, axis: Axis) -> None:
    require_uniform(axis.expr, f"{tracer.where} averages over the units")
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
    1: (aten.avg_pool1d, aten.upsample_nearest1d, aten.upsample_linear1d),
    2: (
        aten.avg_pool2d,
        aten._adaptive_avg_pool2d,
        aten.upsample_nearest2d,
        aten.upsample_bilinear2d,
        aten.upsample_bicubic2d,
    ),
    3: (aten.avg_pool3d, aten._adaptive_avg_pool3d, aten.upsample_nearest3d, aten.upsample_trilinear3d),
}
_MAXIMUM_IMAGE: dict[int, Sequence[Any]] = {
    2: (aten.max_pool2d_with_indices, aten.adaptive_max_pool2d),
    3: (aten.max_pool3d_with_indices, aten.adaptive_max_pool3d),
}
for _dimensions, _operations in _LINEAR_IMAGE.items():
    rule(*_operations)(_image_rule(_dimensions, linear=True))
for _dimensions, _operations in _MAXIMUM_IMAGE.items():
    rule(*_operations)(_image_rule(_dimensions, linear=False))


# ------------------------------------------------------------------ lookups and random masks


@rule(aten.embedding)
def embedding(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Rows of a table, chosen by the data."""
    rows, features = tracer[args[0]]
    tracer.freeze(rows, "looks its units up by the data")
    tracer.mirror(args[0], "embedding_dim", features)
    tracer[out] = [*tracer[args[1]], features]


@rule(aten.native_dropout)
def dropout(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Linear in its input."""
    for result in out:
        tracer[result] = tracer[args[0]]
