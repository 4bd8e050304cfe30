"""How torch's functions treat the output of a neuron, and the second derivatives of activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LINEAR", "PIECEWISE_LINEAR", "PRODUCTS", "SMOOTH", "second_derivative"]

# Functions of one tensor, as torch names them, that act on each entry by itself.
SMOOTH = {
    F.gelu, F.silu, F.mish, F.softplus, F.elu, F.celu, F.selu, F.logsigmoid, F.softsign,
    F.tanh, F.sigmoid, torch.tanh, torch.sigmoid, torch.selu, torch.celu, Tensor.tanh, Tensor.sigmoid,
}  # fmt: skip
PIECEWISE_LINEAR = {F.relu, F.leaky_relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh}

# Functions through which half of one activation plus half of another is half of one result plus half of the other,
# at least as long as no maximum changes places. A batch norm is one of them in evaluation mode.
PRODUCTS = {
    torch.mul, torch.div, torch.matmul, torch.bmm, torch.mm, torch.einsum,
    Tensor.mul, Tensor.div, Tensor.__mul__, Tensor.__rmul__, Tensor.__truediv__, Tensor.mul_, Tensor.div_,
    Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm,
}  # fmt: skip
LINEAR = PRODUCTS | {
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.movedim, torch.squeeze, torch.unsqueeze,
    torch.cat, torch.stack, torch.add, torch.sub, torch.neg, torch.sum, torch.mean, torch.clone, torch.chunk,
    torch.split, torch.swapaxes, torch.t, torch.concat, torch.repeat_interleave,
    Tensor.flatten, Tensor.reshape, Tensor.view, Tensor.permute, Tensor.transpose, Tensor.movedim, Tensor.squeeze,
    Tensor.unsqueeze, Tensor.add, Tensor.sub, Tensor.neg, Tensor.sum, Tensor.mean, Tensor.clone, Tensor.contiguous,
    Tensor.chunk, Tensor.split, Tensor.expand, Tensor.repeat, Tensor.__add__, Tensor.__radd__, Tensor.__sub__,
    Tensor.__rsub__, Tensor.__neg__, Tensor.__getitem__, Tensor.__iadd__, Tensor.add_, Tensor.sub_, Tensor.to,
    Tensor.float, Tensor.double, Tensor.detach, Tensor.unflatten, Tensor.T.__get__, Tensor.mT.__get__,
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.pad, F.interpolate, F.batch_norm,
    F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d,
}  # fmt: skip


def second_derivative(function: Callable[[Tensor], Tensor], z: Tensor, *, beta: float | None) -> Tensor:
    """Return the second derivative of an activation at each entry.

    Args:
        function: the activation.
        z: pre-activations, any shape.
        beta: None for a smooth activation, whose derivative is taken by automatic differentiation. For a
            piecewise linear one, whose second derivative is a delta at 0, the sharpness of the softplus whose
            derivative replaces it: `jump * beta s (1 - s)` with `s = sigmoid(beta z)`, where `jump` is the change of
            slope at 0.

    Returns:
        Same shape as `z`.

    Source: Wu, Wang and Liu (2019), appendix, with beta = 3 in the reference code.
    """
    if beta is not None:
        unit = z.new_ones(())
        jump = function(unit) - 2 * function(z.new_zeros(())) + function(-unit)
        s = torch.sigmoid(beta * z)
        return jump * beta * s * (1 - s)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(z).sum(), z, create_graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(z)
        (curvature,) = torch.autograd.grad(slope.sum(), z)
    return curvature
