"""Operations that make tensors of a given size, and no-ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from growkit.structure.dimensions import is_data
from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule
from growkit.structure.sizes import Size, expression

if TYPE_CHECKING:
    from growkit.structure.tracer import Tracer

aten = torch.ops.aten


@rule(
    *(aten.zeros, aten.ones, aten.empty, aten.full, aten.rand, aten.randn, aten.empty_strided),
    *(aten.new_zeros, aten.new_ones, aten.new_empty, aten.new_full, aten.new_empty_strided),
)
def alike(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Entries that are alike for all units: the sizes are what the code asked for."""
    call = tracer.call
    asked = call.asked(out.dim()) if call is not None else None
    if asked is None and call is not None:
        asked = [call.origin(size) if size else None for size in out.shape]  # some sizes are no integers, but tensors
    tracer[out] = [_asked(tracer, size, asked[i] if asked else None) for i, size in enumerate(out.shape)]


def _asked(tracer: Tracer, size: int, wanted: Any) -> Axis:
    expr = expression(wanted, tracer.where) if isinstance(wanted, Size) else None
    if expr is None or is_data(expr):
        return tracer.made(size)
    axis = Axis(expr)
    tracer.constrain("copies", axis)
    return axis


@rule(
    *(aten.arange, aten.linspace, aten.eye, aten.tril_indices, aten.triu_indices, aten.randperm, aten.logspace),
    *(aten.randint, aten.scalar_tensor, aten.bartlett_window, aten.hann_window, aten.hamming_window),
)
def numbered(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Entries that depend on their position."""
    for size in out.shape:
        wanted = tracer.call.origin(size) if tracer.call is not None else None
        expr = expression(wanted, tracer.where) if isinstance(wanted, Size) else None
        if expr is not None and not is_data(expr):
            tracer.freeze(Axis(expr), "numbers its units")
    tracer[out] = [tracer.made(size) for size in out.shape]


@rule(aten.fill_, aten.fill, aten.zero_, aten.zero, aten.normal_, aten.uniform_, aten.exponential_, aten.random_)
def filled(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Entries that are alike for all units, in place of others."""
    for axis in tracer[args[0]]:
        tracer.constrain("copies", axis)
    tracer[out] = tracer[args[0]]


@rule(aten._assert_async, aten._assert_tensor_metadata, aten._assert_scalar, aten.sym_constrain_range)
def nothing(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Make no demand: an assertion holds for copies as for originals."""
