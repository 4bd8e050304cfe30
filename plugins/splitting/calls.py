"""Calls of the layers that make units: linear functions of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from growkit_plugins.splitting.functions import PRODUCERS

__all__ = ["Call", "call_of"]


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a layer that makes units.

    Attributes:
        output: the units, as they came out.
        edge: where the gradient of the output arrives; None if there is none.
        function: that was called.
        leaves: its arguments, flattened.
        spec: how they were nested.
        slots: the name of the parameter for the positions of weight and bias among the arguments, None for one that
            is not trained; empty if the function is not linear in them, or if nothing of it is trained.
    """

    output: Tensor
    edge: GradientEdge | None
    function: Any
    leaves: tuple[Any, ...]
    spec: TreeSpec
    slots: Mapping[int, str | None]

    def move(self, weights: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return how the output moves when weights do.

        Args:
            weights: how far each parameter moves; those that are not named stay.
            dtype: to compute in.

        Returns:
            Shape of the output; linear in `weights`.
        """
        leaves = [leaf.to(dtype) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        for position, name in self.slots.items():
            leaves[position] = weights[name] if name in weights else torch.zeros_like(leaves[position])
        args, kwargs = tree_unflatten(leaves, self.spec)
        out: Tensor = self.function(*args, **kwargs)
        return out


def call_of(
    function: Any, arguments: Any, made: Mapping[int, tuple[str, int]], output: Tensor, edge: GradientEdge | None
) -> Call:
    """Return what is to be known of a call.

    Args:
        function: that was called.
        arguments: positional and keyword ones.
        made: the parameters among them that make units, by identity: their names, and the axis of the units.
        output: a copy of the result.
        edge: where its gradient arrives.
    """
    leaves, spec = tree_flatten(arguments)
    slots: dict[int, str | None] = {}
    names, axis = PRODUCERS.get(function, ((), 0))
    args, kwargs = arguments
    bound = dict(zip(names, args, strict=False)) | kwargs
    weight = bound.get("weight")
    if edge is not None and id(weight) in made and made[id(weight)][1] == axis:
        for tensor in (weight, bound.get("bias")):
            if isinstance(tensor, Tensor):
                position = next(i for i, leaf in enumerate(leaves) if leaf is tensor)
                trained = tensor.requires_grad and id(tensor) in made
                slots[position] = made[id(tensor)][0] if trained else None
        if not any(slots.values()):
            slots = {}
    kept = tuple(leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    return Call(output, edge, function, kept, spec, slots)
