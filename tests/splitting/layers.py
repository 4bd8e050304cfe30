"""Single layers and activations, as the start of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Even kernels make torch pad a copy of the input, which it points out.
even_kernel = pytest.mark.filterwarnings("ignore:Using padding='same'")

LAYERS: dict[str, tuple[Callable[[], Sequence[nn.Module]], tuple[int, ...], int]] = {
    # layers, shape of the input, size of their flattened output
    "linear": (lambda: [nn.Linear(3, 4)], (3,), 4),
    "linear without bias": (lambda: [nn.Linear(3, 4, bias=False)], (3,), 4),
    "linear on sequences": (lambda: [nn.Linear(3, 4)], (5, 3), 20),
    "linear on grids": (lambda: [nn.Linear(3, 2)], (2, 2, 3), 8),
    "linear and norm": (lambda: [nn.Linear(3, 4), nn.BatchNorm1d(4)], (3,), 4),
    "conv1d": (lambda: [nn.Conv1d(2, 3, 3, stride=2, padding=1)], (2, 7), 12),
    "conv1d dilated": (lambda: [nn.Conv1d(2, 3, 2, dilation=3, bias=False)], (2, 7), 12),
    "conv2d": (lambda: [nn.Conv2d(2, 2, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1))], (2, 5, 6), 18),
    "conv2d same": (lambda: [nn.Conv2d(1, 2, (2, 4), padding="same", dilation=(3, 1))], (1, 4, 4), 32),
    "conv2d valid": (lambda: [nn.Conv2d(1, 2, 3, padding="valid")], (1, 4, 4), 8),
    "conv2d one by one": (lambda: [nn.Conv2d(3, 2, 1)], (3, 2, 2), 8),
    "conv3d": (lambda: [nn.Conv3d(1, 2, (2, 1, 3), stride=(1, 2, 1), padding=(0, 1, 1))], (1, 3, 2, 3), 24),
    "conv1d and norm": (lambda: [nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3)], (2, 5), 9),
    "conv2d and norm": (lambda: [nn.Conv2d(2, 2, 2, bias=False), nn.BatchNorm2d(2, eps=0.1)], (2, 3, 3), 8),
    "conv2d and a norm without weights": (lambda: [nn.Conv2d(2, 2, 2), nn.BatchNorm2d(2, affine=False)], (2, 3, 3), 8),
    "conv3d and norm": (lambda: [nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2)], (1, 2, 3, 2), 4),
    "transposed conv2d": (lambda: [nn.ConvTranspose2d(2, 3, 2, stride=2)], (2, 2, 2), 48),
    "conv1d with reflections": (lambda: [nn.Conv1d(2, 3, 3, padding=1, padding_mode="reflect")], (2, 4), 12),
}


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "GELU": nn.GELU,
    "GELU tanh": lambda: nn.GELU("tanh"),
    "SiLU": nn.SiLU,
    "SiLU in place": lambda: nn.SiLU(inplace=True),
    "Mish": nn.Mish,
    "Mish in place": lambda: nn.Mish(inplace=True),
    "Softplus": lambda: nn.Softplus(beta=2.0),
    "ELU": lambda: nn.ELU(0.7),
    "ELU in place": lambda: nn.ELU(0.7, inplace=True),
    "CELU": lambda: nn.CELU(1.25),
    "CELU in place": lambda: nn.CELU(1.25, inplace=True),
    "SELU": nn.SELU,
    "SELU in place": lambda: nn.SELU(inplace=True),
    "LogSigmoid": nn.LogSigmoid,
    "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
    "Tanhshrink": nn.Tanhshrink,
    "Sigmoid": nn.Sigmoid,
    "F.silu": lambda: Call(F.silu),
    "F.elu": lambda: Call(lambda x: F.elu(x, 0.5)),
    "F.elu keywords": lambda: Call(lambda x: F.elu(input=x, alpha=0.5)),
    "F.elu in place": lambda: Call(lambda x: F.elu(x, alpha=0.5, inplace=True)),
    "F.softplus": lambda: Call(lambda x: F.softplus(x, beta=2.0)),
    "F.gelu": lambda: Call(lambda x: F.gelu(x, approximate="tanh")),
    "F.tanh": lambda: Call(F.tanh),
    "torch.tanh": lambda: Call(torch.tanh),
    "torch.sigmoid": lambda: Call(torch.sigmoid),
    "method tanh": lambda: Call(lambda x: x.tanh()),
    "method sigmoid": lambda: Call(lambda x: x.sigmoid()),
    "sine": lambda: Call(torch.sin),
    "cube": lambda: Call(lambda x: x**3),
    "bell": lambda: Call(lambda x: (-x.square() / 2).exp()),
    "inverse": lambda: Call(lambda x: 1 / (1 + x.square())),
}

SURROGATE: dict[str, tuple[Callable[[], nn.Module], float]] = {
    # activation, change of its slope at 0
    "ReLU": (nn.ReLU, 1.0),
    "ReLU in place": (lambda: nn.ReLU(inplace=True), 1.0),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), 0.8),
    "LeakyReLU in place": (lambda: nn.LeakyReLU(0.3, inplace=True), 0.7),
    "ReLU6": (nn.ReLU6, 1.0),
    "PReLU": (nn.PReLU, 0.75),
    "PReLU a unit": (lambda: nn.PReLU(4, init=0.5), 0.5),
    "F.relu": (lambda: Call(F.relu), 1.0),
    "F.relu in place": (lambda: Call(lambda x: F.relu(x, inplace=True)), 1.0),
    "F.relu keywords": (lambda: Call(lambda x: F.relu(input=x)), 1.0),
    "F.leaky_relu": (lambda: Call(lambda x: F.leaky_relu(x, 0.1)), 0.9),
    "F.relu6": (lambda: Call(F.relu6), 1.0),
    "torch.relu": (lambda: Call(torch.relu), 1.0),
    "torch.relu_": (lambda: Call(torch.relu_), 1.0),
    "method relu": (lambda: Call(lambda x: x.relu()), 1.0),
    "method relu_": (lambda: Call(lambda x: x.relu_()), 1.0),
    "abs": (lambda: Call(torch.abs), 2.0),
    "method abs": (lambda: Call(lambda x: x.abs()), 2.0),
}
