"""What torch's functions do on the way from a unit's weights to the sum in which its outgoing weights take part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ENTRYWISE", "IN_PLACE", "KINKED", "LINEAR", "PRODUCERS", "PRODUCTS", "bent"]

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

# Functions that are linear in a weight and a bias: the names of their arguments, as far as they may be positional, and
# the axis of the weight along which the units lie.
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED_NAMES = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
PRODUCERS: dict[Any, tuple[tuple[str, ...], int]] = {
    F.linear: (_NAMES[:3], 0),
    **dict.fromkeys(_CONVOLUTIONS, (_NAMES, 0)),
    **dict.fromkeys(_TRANSPOSED, (_TRANSPOSED_NAMES, 1)),
    torch.addmm: (("bias", "input", "weight"), 1),
    **dict.fromkeys(
        (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__), (("input", "weight"), 1)
    ),
}  # fmt: skip

# Functions with a kink at 0, whose second derivative there is a delta.
KINKED = {
    F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.leaky_relu, F.hardtanh,
    torch.abs, torch.abs_, Tensor.abs, Tensor.abs_, F.prelu, torch.prelu,
}  # fmt: skip

# Functions of several tensors that are linear in each.
PRODUCTS = {
    torch.mul, torch.matmul, torch.bmm, torch.mm, torch.einsum, Tensor.mul, Tensor.__mul__, Tensor.__rmul__,
    Tensor.mul_, Tensor.__imul__, Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm, F.linear, F.batch_norm,
    *_CONVOLUTIONS, *_TRANSPOSED,
}  # fmt: skip
_SUMS = {
    torch.add, torch.sub, torch.neg, torch.clone, Tensor.add, Tensor.sub, Tensor.neg, Tensor.clone, Tensor.__add__,
    Tensor.__radd__, Tensor.__sub__, Tensor.__rsub__, Tensor.__neg__, Tensor.__iadd__, Tensor.__isub__, Tensor.add_,
    Tensor.sub_, F.batch_norm, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, Tensor.to,
    Tensor.float, Tensor.double, Tensor.type_as,
}  # fmt: skip
LINEAR = PRODUCTS | _SUMS | {
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.movedim, torch.squeeze, torch.unsqueeze,
    torch.cat, torch.stack, torch.sum, torch.mean, torch.chunk, torch.split, torch.swapaxes, torch.t, torch.concat,
    torch.repeat_interleave, torch.roll, torch.flip, torch.index_select,
    Tensor.flatten, Tensor.reshape, Tensor.view, Tensor.permute, Tensor.transpose, Tensor.movedim, Tensor.squeeze,
    Tensor.unsqueeze, Tensor.sum, Tensor.mean, Tensor.contiguous, Tensor.chunk, Tensor.split, Tensor.expand,
    Tensor.repeat, Tensor.__getitem__, Tensor.unflatten, Tensor.T.__get__, Tensor.mT.__get__, Tensor.index_select,
    F.pad, F.interpolate, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
    # linear as long as no maximum changes places
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d,
}  # fmt: skip

# Functions that act on each entry by itself, where their other arguments are given.
ENTRYWISE = KINKED | _SUMS | {
    torch.mul, torch.div, Tensor.mul, Tensor.div, Tensor.__mul__, Tensor.__rmul__, Tensor.__truediv__, Tensor.mul_,
    Tensor.div_, Tensor.__imul__, Tensor.__itruediv__,
    F.gelu, F.silu, F.mish, F.softplus, F.elu, F.celu, F.selu, F.logsigmoid, F.softsign, F.tanh, F.sigmoid,
    F.hardswish, F.hardsigmoid, F.tanhshrink, F.softshrink, torch.selu, torch.celu,
    torch.tanh, torch.sigmoid, torch.exp, torch.square, torch.pow, torch.sin, torch.cos, torch.sqrt, torch.log,
    torch.log1p, torch.erf, torch.reciprocal,
    Tensor.tanh, Tensor.sigmoid, Tensor.exp, Tensor.square, Tensor.pow, Tensor.__pow__, Tensor.sin, Tensor.cos,
    Tensor.sqrt, Tensor.log, Tensor.erf, Tensor.reciprocal,
}  # fmt: skip
# Those of the above that write into their first argument.
IN_PLACE = {f for f in LINEAR | ENTRYWISE if f.__name__.startswith("__i") or f.__name__.rstrip("_") + "_" == f.__name__}


def bent(function: Callable[[Tensor], Tensor], z: Tensor, *, beta: float) -> Tensor:
    """Apply a function with a kink at 0, with the second derivative of a softplus in place of a delta.

    Args:
        function: continuous and, away from kinks, linear.
        z: any shape.
        beta: sharpness of the softplus.

    Returns:
        `function(z)`, with its own first derivative. The second one is `jump * beta s (1 - s)` with
        `s = sigmoid(beta z)`, where `jump` is the change of slope at 0.

    Source: Wu, Wang and Liu (2019), appendix, with beta = 3 in the reference code.
    """
    with torch.enable_grad():
        apart = z.detach().requires_grad_()
        value = function(apart)
        (slope,) = torch.autograd.grad(value.sum(), apart)
    with torch.no_grad():
        one = torch.ones_like(z[:1])  # one sample: slopes may differ from channel to channel
        jump = function(one) - 2 * function(torch.zeros_like(one)) + function(-one)
        s = (beta * z).sigmoid_()
        curvature = torch.addcmul(s, s, s, value=-1).mul_(beta * jump)
    bent_value: Tensor = _Bent.apply(z, value.detach(), slope, curvature)
    return bent_value


class _Bent(torch.autograd.Function):
    """A value with given first and second derivatives."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
        ctx.save_for_backward(z, slope, curvature)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Slope.apply(*gradients, *ctx.saved_tensors), None, None, None


class _Slope(torch.autograd.Function):
    """A gradient times a slope with a given derivative."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, z: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
        ctx.save_for_backward(gradient, slope, curvature)
        return gradient * slope

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (outer,) = gradients
        gradient, slope, curvature = ctx.saved_tensors
        own = outer * slope if ctx.needs_input_grad[0] else None
        return own, outer * gradient * curvature, None, None
