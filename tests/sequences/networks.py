"""Small networks of every kind, in double precision and a known state, for lives of edits and steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from small_models import BY_NAME, Apply, Residual
from torch import Tensor, nn


class Network(NamedTuple):
    """How to build a network and its inputs.

    Attributes:
        build: makes the model, in training mode.
        inputs: makes so many samples.
        random: whether it draws in training mode.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    random: bool = False


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed, self.core, self.head = nn.Linear(3, 4), kind(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.core(self.embed(x).tanh())[0])


class Attention(nn.Module):
    """A transformer block with heads written out, and its feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
        self.query, self.key, self.value, self.out = (nn.Linear(4, 4) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        normed = self.norm(x)
        q, k, v = (each(normed).unflatten(-1, (2, -1)).transpose(1, 2) for each in (self.query, self.key, self.value))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(x + self.down(F.gelu(self.up(x))))


class Gated(nn.Module):
    """A gated linear unit, once as a chunk of one projection and once as a product of two."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.both = nn.Linear(3, 4), nn.Linear(4, 6)
        self.gate, self.value, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.both(self.enter(x).tanh()), -1)
        return self.head(F.silu(self.gate(x)) * self.value(x))


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder, turned around."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.inner, self.out = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encode(x).tanh()
        hidden = F.linear(self.inner(hidden).tanh(), self.inner.weight.T)
        return self.out(F.linear(hidden, self.encode.weight.T))


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 2))


def _convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1)),
        *(nn.BatchNorm2d(4), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    )


def _residual() -> nn.Module:
    blocks = [Residual(nn.Linear(4, n), nn.BatchNorm1d(n), nn.SiLU(), nn.Linear(n, 4)) for n in (3, 5)]
    return nn.Sequential(nn.Linear(3, 4), *blocks, nn.Linear(4, 2))


def _normed() -> nn.Module:
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))
    return Apply(
        lambda m, x: m.head(m.inner(m.first(x).tanh()).relu()),
        first=nn.Linear(3, 4),
        inner=parametrized,
        head=nn.Linear(5, 2),
    )


def _vectors(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, 3, dtype=torch.float64),)


def _images(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, 2, 4, 4, dtype=torch.float64),)


def _sequences(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, 3, 3, dtype=torch.float64),)


NETWORKS = {
    "perceptron": Network(_perceptron, _vectors),
    "convolutional": Network(_convolutional, _images),
    "residual": Network(_residual, _vectors),
    "weight norm": Network(_normed, _vectors),
    "GRU": Network(lambda: Recurrent(nn.GRU), _sequences),
    "LSTM": Network(lambda: Recurrent(nn.LSTM), _sequences),
    "attention": Network(Attention, _sequences),
    "gated": Network(Gated, _vectors),
    "autoencoder": Network(Tied, _vectors),
    **{
        f"case {name}": Network(lambda case=case: case.build(case.widths), case.inputs, case.random)
        for name, case in BY_NAME.items()
    },
}


def build(name: str, seed: int) -> nn.Module:
    """Return a network with random weights and buffers, none of them trivial."""
    torch.manual_seed(seed)
    model = NETWORKS[name].build().double()
    with torch.no_grad():
        for key, tensor in (*model.named_parameters(), *model.named_buffers()):
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.4)
    return model


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        model.get_parameter(name).requires_grad_(False)
