"""Weight norms: a gain times a direction of norm 1, where sharing out the direction must not change the weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from growkit.surgery.carry import AxisMap, ParamChange
from growkit.surgery.sites import successor

__all__ = ["follow_directions"]


def follow_directions(
    gains: Iterable[tuple[str, str, int]], changes: list[ParamChange], tensors: Mapping[str, Tensor]
) -> None:
    """Let the gains of weight norms follow planned changes of their directions.

    Args:
        gains: names of a direction and its gain, and the axis over which the gain runs.
        changes: planned ones; the new values of gains are set in place, and gains that keep their shape are added.
        tensors: the model's, by name.
    """
    by_name = {change.name: change for change in changes}
    for direction, gain, axis in gains:
        change = by_name.get(direction)
        if change is None:
            continue
        others = [position for position in range(change.old.dim()) if position != axis]
        old = tensors[gain].detach()
        weight = old * change.old.detach() / _norm(change.old.detach(), others)
        grown = _norm(change.carry(weight), others)
        if gain not in by_name:
            by_name[gain] = ParamChange(gain, tensors[gain], successor(tensors[gain], old.clone()), (None,) * old.dim())
            changes.append(by_name[gain])
        target = by_name[gain]
        target.new.data.copy_(grown * target.carry(old, like="copy").sign())
        changes[changes.index(target)] = by_name[gain] = replace(target, maps=tuple(map(_unsigned, target.maps)))


def _unsigned(mapped: AxisMap | None) -> AxisMap | None:
    """Return the map of a gain whose direction has the signs of the shares already."""
    if mapped is None:
        return None
    (_, share), (source, scale) = mapped.weight[0], mapped.gradient[0]
    return replace(
        mapped,
        weight=[(origin, weight.abs()) for origin, weight in mapped.weight],
        gradient=[(source, scale * share.sign()), *mapped.gradient[1:]],
    )


def _norm(tensor: Tensor, dims: list[int]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True)
    return norm
