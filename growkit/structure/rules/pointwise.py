"""Pointwise operations: the axes that meet are one; what follows for roles depends on linearity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule

if TYPE_CHECKING:
    from growkit.structure.trace import Tracer

__all__ = ["pointwise"]

aten = torch.ops.aten

# Linear in their one tensor argument, so that shares pass through.
_LINEAR = {
    aten.alias,
    aten.clone,
    aten.detach,
    aten.neg,
    aten._to_copy,
    aten.positive,
    aten.lift_fresh,
    aten.lift_fresh_copy,
}
_SUMS = {aten.add, aten.add_, aten.sub, aten.sub_}
_PRODUCTS = {aten.mul, aten.mul_}
_QUOTIENTS = {aten.div, aten.div_}


@rule(*_LINEAR)
def linear(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Pass every axis through."""
    tracer[out] = tracer[args[0]]


@rule(aten.copy_)
def copy(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Demand that the target's axes be those of the source."""
    pointwise(tracer, aten.add_.Tensor, args[:2], {}, out)


def pointwise(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Unify the axes that meet under broadcasting, for any operation tagged pointwise."""
    operands = [*args, *kwargs.values()]
    tensors = [operand for operand in operands if isinstance(operand, Tensor) and operand.dim() > 0]
    numbers = any(isinstance(x, (int, float)) or (isinstance(x, Tensor) and x.dim() == 0) for x in args)
    results = [result for result in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(result, Tensor)]
    shape = results[0].shape
    axes = []
    for position in range(-len(shape), 0):
        meeting = [
            tracer[tensor][position]
            if tensor.dim() >= -position and tensor.shape[position] == shape[position]
            else None
            for tensor in tensors
        ]
        for tensor, axis in zip(tensors, meeting, strict=True):
            if axis is None and tensor.dim() >= -position:
                _broadcast(tracer, tracer[tensor][position])
        axes.append(_meet(tracer, func.overloadpacket, meeting, numbers, shape[position]))
    for result in results:
        tracer[result] = axes


def _broadcast(tracer: Tracer, axis: Axis) -> None:
    """An axis of one entry that is repeated is no unit that could be copied."""
    tracer.freeze(axis, "repeats it along a longer axis")


def _meet(tracer: Tracer, operation: Any, meeting: list[Axis | None], numbers: bool, size: int) -> Axis:
    """Relate the axes that meet at one position of the result, None where an operand is broadcast."""
    present = [axis for axis in meeting if axis is not None]
    if not present:
        return tracer.extent(size, f"was made by {tracer.where}")
    first = present[0]
    for axis in present[1:]:
        tracer.unify(first, axis)
    if operation in _SUMS and len(present) == len(meeting) and (len(present) > 1 or not numbers):
        for axis in present[1:]:
            tracer.same(first, axis)
        return first
    if operation in _PRODUCTS and len(meeting) <= 2:
        if len(present) == 1:
            return first
        result = Axis(first.expr)
        tracer.constrain("product", present[0], present[1], result)
        return result
    divisors = present
    if operation in _QUOTIENTS and meeting[0] is not None:
        divisors = present[1:]
    for axis in divisors:
        tracer.constrain("copies", axis)
    return first
