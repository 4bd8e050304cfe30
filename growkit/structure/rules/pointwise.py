"""Pointwise operations: the axes that meet are one; what follows for roles depends on linearity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from growkit.structure.refine import chop
from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule

if TYPE_CHECKING:
    from growkit.structure.tracer import Tracer

__all__ = ["pointwise"]

aten = torch.ops.aten

# Linear in their one tensor argument, so that shares pass through.
_LINEAR = {
    aten.alias,
    aten.clone,
    aten.detach,
    aten.neg,
    aten.positive,
    aten.lift_fresh,
    aten.lift_fresh_copy,
    aten._conj,
    aten._neg_view,
    aten.resolve_conj,
    aten.contiguous,
    aten._to_dense,
}
_SUMS = {aten.add, aten.sub}
# Pointwise, but not tagged so.
_UNTAGGED = {
    *(aten._prelu_kernel, aten.hardswish, aten.hardswish_, aten.log_sigmoid_forward, aten.mish_),
    *(aten.complex, aten.polar),
    *(aten.fake_quantize_per_tensor_affine_cachemask, aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams),
}


@rule(*_LINEAR)
def linear(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Pass every axis through."""
    tracer[out] = tracer[args[0]]


@rule(aten._to_copy)
def to_copy(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Pass every axis through; only floating point numbers can be shared out."""
    if not (out.is_floating_point() or out.is_complex()):
        for axis in tracer[args[0]]:
            tracer.constrain("copies", axis)
    tracer[out] = tracer[args[0]]


@rule(aten.copy_)
def copy(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Demand that the target's axes be those of the source."""
    pointwise(tracer, func, args[:2], {}, out)


@rule(
    aten.empty_like,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.rand_like,
    aten.randn_like,
    aten.bernoulli,
    aten.bernoulli_,
)
def like(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """New entries, alike for all units: the sizes are those of the model tensor, the entries are whole."""
    axes = [Axis(axis.expr) for axis in tracer[args[0]]]
    for axis in axes:
        tracer.constrain("copies", axis)
    tracer[out] = axes


@rule(aten.glu)
def glu(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """The first half of an axis times the sigmoid of the second."""
    axes = list(tracer[args[0]])
    dim = args[1] if len(args) > 1 else -1
    whole = axes[dim]
    half = chop(whole.expr, 2, tracer.where)
    if half is None:
        raise ValueError("halves that cannot be told apart")
    value, gate = Axis(half), Axis(half)
    tracer.piece(value, whole, 0)
    tracer.piece(gate, whole, half.size)
    tracer.constrain("copies", gate)
    axes[dim] = value
    for axis in axes[:dim] + axes[dim + 1 :] if dim != -1 else axes[:-1]:
        tracer.constrain("copies", axis)
    tracer[out] = axes


@rule(aten.equal)
def equal(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Whether two tensors are equal does not depend on copies."""
    for axis, other in zip(tracer[args[0]], tracer[args[1]], strict=False):
        if args[0].shape == args[1].shape:
            tracer.unify(axis, other)
        for each in (axis, other):
            tracer.constrain("copies", each)


@rule(*_UNTAGGED)
def pointwise(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Unify the axes that meet under broadcasting, for any operation that acts on each entry by itself."""
    if func.overloadpacket in _SUMS and isinstance(args[1], (int, float)) and not kwargs:
        number = args[1] if func.overloadpacket is aten.add else -args[1]
        if (total := tracer.shifted(args[0], float(number))) is not None:
            tracer[out] = total
            return
    operands = [*args, *kwargs.values()]
    tensors = [operand for operand in operands if isinstance(operand, Tensor) and operand.dim() > 0]
    results = [result for result in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(result, Tensor)]
    shape = results[0].shape
    kind = _linearity(func, args, kwargs)
    axes = []
    for position in range(-len(shape), 0):
        reach = [tensor.dim() >= -position for tensor in tensors]
        meeting = [
            tracer[tensor][position] if there and tensor.shape[position] == shape[position] else None
            for tensor, there in zip(tensors, reach, strict=True)
        ]
        for tensor, there, axis in zip(tensors, reach, meeting, strict=True):
            if there and axis is None:
                # An axis of one entry that is repeated is no unit that could be copied.
                tracer.freeze(tracer[tensor][position], "repeats it along a longer axis")
        axes.append(_meet(tracer, kind, meeting, shape[position]))
    if kind == "quotient" and isinstance(args[1], Tensor):
        axes = tracer.normed(axes, args[1]) or axes
    for result in results:
        # Some operations return a buffer for their backward pass beside the result.
        tracer[result] = axes if result.shape == shape else [tracer.extent(n, "is a buffer") for n in result.shape]


def _linearity(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Say how an operation treats shares: as "sum", "product", "quotient" or linear "image" of them, or not at all."""
    packet = func.overloadpacket
    tensors = [isinstance(x, Tensor) and x.dim() > 0 for x in args]
    if func._schema.is_mutable:
        # A tensor that is written to has views elsewhere, whose roles would have to change with it.
        # Adding or scaling in place does not change roles.
        if packet in {aten.mul_, aten.div_}:
            return "scaled" if any(tensors[1:]) else "image"
        return "sum" if packet in {aten.add_, aten.sub_} and all(tensors) else ""
    if packet in _SUMS and all(tensors):
        return "sum"
    if packet is aten.mul:
        return "product" if all(tensors) else "image"
    if packet is aten.div and tensors[0] and not kwargs.get("rounding_mode"):
        return "quotient"
    return ""


def _meet(tracer: Tracer, kind: str, meeting: list[Axis | None], size: int) -> Axis:
    """Relate the axes that meet at one position of the result, None where an operand is broadcast."""
    present = [axis for axis in meeting if axis is not None]
    if not present:
        return tracer.extent(size, f"was made by {tracer.where}")
    first = present[0]
    for axis in present[1:]:
        tracer.unify(first, axis)
    if kind == "sum" and len(present) == len(meeting):
        for axis in present[1:]:
            tracer.same(first, axis)
        return first
    if kind == "scaled" and meeting[0] is not None and len(present) == 1:
        return first
    if kind == "image" or (kind == "product" and len(present) == 1):
        return first
    if kind == "product":
        result = Axis(first.expr)
        tracer.constrain("product", present[0], present[1], result)
        return result
    divisors = present[1:] if kind == "quotient" and meeting[0] is not None else present
    for axis in divisors:
        tracer.constrain("copies", axis)
    return first
