"""Second derivatives of activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PIECEWISE_LINEAR", "SMOOTH", "second_derivative"]

# Functions of one tensor, as torch names them, that act on each entry by itself.
SMOOTH = {
    F.gelu, F.silu, F.mish, F.softplus, F.elu, F.celu, F.selu, F.logsigmoid, F.softsign,
    F.tanh, F.sigmoid, torch.tanh, torch.sigmoid, torch.selu, torch.celu, Tensor.tanh, Tensor.sigmoid,
}  # fmt: skip
PIECEWISE_LINEAR = {F.relu, F.leaky_relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6}


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
        jump = function(unit) - (function(z.new_zeros(())) - function(-unit))
        s = torch.sigmoid(beta * z)
        return jump * beta * s * (1 - s)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(z).sum(), z, create_graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(z)
        (curvature,) = torch.autograd.grad(slope.sum(), z)
    return curvature
