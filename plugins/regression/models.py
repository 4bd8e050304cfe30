"""A sum of radial basis functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RBFNetwork"]


class RBFNetwork(nn.Module):
    """A sum of radial basis functions: f(x) = sum_i w_i exp(-(a_i . x + b_i)^2 / 2).

    `hidden` holds the a_i and b_i, `output` the w_i.

    Args:
        neurons: how many functions; at least 1.
        inputs: number of entries of x; at least 1.

    Source: Wu, Wang and Liu (2019), arXiv:1910.02366, section on toy regression, where `inputs` is 1.
    """

    def __init__(self, neurons: int, inputs: int = 1) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, neurons)
        self.output = nn.Linear(neurons, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x), shape (N, 1), of points (N, inputs)."""
        z = self.hidden(x)
        result: Tensor = self.output(torch.exp(-z.square() / 2))
        return result
