"""Mirrors: module attributes that repeat a size, such as `out_features`.

After an edit these attributes are set to the new sizes, so that `repr` and shape checks inside `forward` agree with
the parameters. An attribute counts as a mirror only if it repeats the size before the edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from growkit.structure.roles import Axis

__all__ = ["MIRRORING", "Mirror", "agrees", "output_mirrors", "parameter_mirrors"]


class Mirror(NamedTuple):
    """The axes that an attribute repeats.

    Attributes:
        axes: one axis, or one for each entry of a tuple.
        several: the attribute is a tuple of sizes rather than a single one.
    """

    axes: Sequence[Axis]
    several: bool


# Modules whose attributes the rules of convolutions, norms and lookups may set.
MIRRORING = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.Embedding,
)

# Attributes that repeat an axis of a parameter of their own module.
_OF_PARAMETERS: dict[type[nn.Module], dict[str, tuple[str, int]]] = {
    nn.Linear: {"in_features": ("weight", 1), "out_features": ("weight", 0)},
    nn.PReLU: {"num_parameters": ("weight", 0)},
    nn.RNNBase: {"input_size": ("weight_ih_l0", 1)},
}


def parameter_mirrors(module: nn.Module) -> Iterator[tuple[str, Tensor, int]]:
    """Yield the attributes of a module that repeat an axis of one of its parameters: (attribute, parameter, axis)."""
    for kind, attributes in _OF_PARAMETERS.items():
        if isinstance(module, kind):
            for attribute, (key, axis) in attributes.items():
                parameter = module._parameters.get(key)
                if parameter is not None:
                    yield attribute, parameter, axis


def output_mirrors(module: nn.Module, axes: Sequence[Axis]) -> Iterator[tuple[str, Mirror]]:
    """Yield the attributes of a norm that repeat axes of its output, for norms that run as several operations."""
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        yield "normalized_shape", Mirror(axes[len(axes) - len(module.normalized_shape) :], several=True)
    for dimensions, kind in ((1, nn.InstanceNorm1d), (2, nn.InstanceNorm2d), (3, nn.InstanceNorm3d)):
        if isinstance(module, kind):
            yield "num_features", Mirror((axes[-1 - dimensions],), several=False)


def agrees(module: nn.Module, attribute: str, mirror: Mirror) -> bool:
    """Say whether an attribute is there and repeats the sizes of the axes."""
    value: Any = getattr(module, attribute, None)
    sizes = [axis.expr.size for axis in mirror.axes]
    return list(value) == sizes if mirror.several and isinstance(value, (tuple, list)) else [value] == sizes
