"""Tiny deterministic models, one of each kind that plugins meet most."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from growkit import randomness

__all__ = ["tiny_models"]


class _Residual(nn.Module):
    """Two convolutions with a shortcut, so that one width is made by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        logits: Tensor = self.head((x + self.branch(x).tanh()).mean((2, 3)))
        return logits


def tiny_models() -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield name, model and a batch of inputs, all in float64; every model has two outputs.

    A perceptron, a convolutional network with batch norm, one with a shortcut, and a transformer-like block with
    layer norm, whose outer width only uniform copying preserves.
    """
    with randomness.isolated(0):
        vectors, images = torch.randn(16, 5).double(), torch.randn(16, 1, 6, 6).double()
        perceptron = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        yield "perceptron", perceptron.double(), vectors
        convolutional = nn.Sequential(
            *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.SiLU()),
            *(nn.Flatten(), nn.Linear(16, 2)),
        )
        yield "convolutional", convolutional.double(), images
        yield "residual", _Residual().double(), images
        normed = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2))
        yield "layer norm", normed.double(), vectors
