"""Mirrors: module attributes that repeat a size, such as `out_features`.

While a model is traced, the module that just ran is asked which of its attributes repeat which axes of its input
and output. After an edit these attributes are set to the new sizes, so that `repr` and shape checks inside `forward`
agree with the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from growkit.structure.roles import Axis

__all__ = ["MIRRORS", "Mirror"]


class Mirror(NamedTuple):
    """The axes that an attribute repeats.

    Attributes:
        axes: one axis, or one for each entry of a tuple.
        several: the attribute is a tuple of sizes rather than a single one.
    """

    axes: Sequence[Axis]
    several: bool


_Rule = Callable[[Any, list[Axis], list[Axis]], dict[str, Mirror]]


def _one(axis: Axis) -> Mirror:
    return Mirror((axis,), several=False)


def _linear(module: nn.Linear, x: list[Axis], y: list[Axis]) -> dict[str, Mirror]:
    return {"in_features": _one(x[-1]), "out_features": _one(y[-1])}


def _convolution(dimensions: int) -> _Rule:
    channel = -1 - dimensions

    def rule(module: nn.Module, x: list[Axis], y: list[Axis]) -> dict[str, Mirror]:
        return {"in_channels": _one(x[channel]), "out_channels": _one(y[channel])}

    return rule


def _normalised(module: nn.LayerNorm | nn.RMSNorm, x: list[Axis], y: list[Axis]) -> dict[str, Mirror]:
    return {"normalized_shape": Mirror(y[len(y) - len(module.normalized_shape) :], several=True)}


def _features(attribute: str) -> _Rule:
    def rule(module: nn.Module, x: list[Axis], y: list[Axis]) -> dict[str, Mirror]:
        return {attribute: _one(x[1])}

    return rule


def _instance(dimensions: int) -> _Rule:
    def rule(module: nn.Module, x: list[Axis], y: list[Axis]) -> dict[str, Mirror]:
        return {"num_features": _one(x[-1 - dimensions])}

    return rule


def _prelu(module: nn.PReLU, x: list[Axis], y: list[Axis]) -> dict[str, Mirror]:
    return {"num_parameters": _one(x[1])} if module.num_parameters > 1 else {}


def _embedding(module: nn.Embedding, x: list[Axis], y: list[Axis]) -> dict[str, Mirror]:
    return {"embedding_dim": _one(y[-1])}


MIRRORS: dict[type[nn.Module], _Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution(1),
    nn.Conv2d: _convolution(2),
    nn.Conv3d: _convolution(3),
    nn.ConvTranspose1d: _convolution(1),
    nn.ConvTranspose2d: _convolution(2),
    nn.ConvTranspose3d: _convolution(3),
    nn.BatchNorm1d: _features("num_features"),
    nn.BatchNorm2d: _features("num_features"),
    nn.BatchNorm3d: _features("num_features"),
    nn.InstanceNorm1d: _instance(1),
    nn.InstanceNorm2d: _instance(2),
    nn.InstanceNorm3d: _instance(3),
    nn.GroupNorm: _features("num_channels"),
    nn.LayerNorm: _normalised,
    nn.RMSNorm: _normalised,
    nn.PReLU: _prelu,
    nn.Embedding: _embedding,
}
