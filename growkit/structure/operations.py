"""What there is to know about an operation, whatever its arguments, and how many FLOPs it takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

__all__ = ["Facts", "facts_of", "flops_of"]


class Facts(NamedTuple):
    """What never changes about an operation.

    Attributes:
        packet: its overload packet.
        name: of that.
        decides: whether it looks at values, so that other values may lead elsewhere.
        foreign: whether it is not one of torch's own, so that it may look at values without saying so.
    """

    packet: Any
    name: str
    decides: bool
    foreign: bool


@functools.cache
def facts_of(func: Any) -> Facts:
    """Return what there is to know about an operation."""
    decides = torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
    return Facts(func.overloadpacket, str(func.overloadpacket), decides, func.namespace not in {"aten", "prims"})


def flops_of(func: Any, arguments: tuple[Any, ...], out: Any) -> int | None:
    """Return the FLOPs of an operation, or None if torch does not know."""
    formula = flop_registry.get(func.overloadpacket)
    if formula is None:
        return None
    plain: Callable[..., Any] | None = getattr(formula, "__wrapped__", None)
    if plain is None or not isinstance(out, Tensor) or any(map(_has_tensors, arguments)):
        return int(formula(*arguments, out_val=out))
    # Torch's wrapper turns tensors into shapes, too, but takes its time to look for them inside of arguments.
    return int(plain(*(a.shape if isinstance(a, Tensor) else a for a in arguments), out_shape=out.shape))


def _has_tensors(argument: Any) -> bool:
    return isinstance(argument, (list, tuple)) and any(isinstance(child, Tensor) for child in argument)
