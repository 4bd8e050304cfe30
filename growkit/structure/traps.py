"""Demands on axes that depend on what becomes of a tensor: whether it is used at all, or for more than to divide by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from growkit.structure.dimensions import Expr, forbid_exact, freeze
from growkit.structure.roles import Axis
from growkit.structure.tensors import TensorTable

__all__ = ["Trap", "Traps"]

aten = torch.ops.aten


class Trap(NamedTuple):
    """A demand on an axis, to be made with a reason if a tensor is used.

    Attributes:
        demand: takes the axis' expression and the reason.
        axis: the axis.
        reason: the reason.
        norm: whether the tensor is a norm over the axis, which may be scaled, and divide other tensors.
    """

    demand: Callable[[Expr, str], None]
    axis: Axis
    reason: str
    norm: bool


class Traps:
    """The traps that are set in one pass."""

    def __init__(self) -> None:
        self._traps: TensorTable[Trap] = TensorTable()

    def __bool__(self) -> bool:
        return bool(self._traps)

    def set(self, tensor: Tensor, axis: Axis, reason: str) -> None:
        """Let any use of a tensor freeze an axis."""
        self._traps[tensor] = Trap(freeze, axis, reason, norm=False)

    def set_norm(self, tensor: Tensor, axis: Axis, reason: str) -> None:
        """Let any use of a norm but to scale it and to divide by it forbid exact changes of the axis."""
        self._traps[tensor] = Trap(forbid_exact, axis, reason, norm=True)

    def sprung(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensor: Tensor) -> Trap | None:
        """Return the trap that an operation springs by its use of a tensor, if any."""
        trap = self.at(tensor)
        spares = (
            trap is not None and trap.norm and (_scales(packet, args, tensor) or _divides(packet, args, kwargs, tensor))
        )
        return None if spares else trap

    def at(self, tensor: Tensor) -> Trap | None:
        """Return the trap that is set at a tensor, if any."""
        return self._traps.get(tensor)

    def hand_on(self, packet: Any, args: tuple[Any, ...], out: Any) -> None:
        """Note that a norm that was scaled is a norm, too."""
        tensor = args[0] if args else None
        trap = self.at(tensor) if isinstance(tensor, Tensor) else None
        if trap is not None and trap.norm and _scales(packet, args, tensor):
            self._traps[out] = trap


_SCALES = {aten.clamp, aten.clamp_min, aten.clamp_min_, aten.expand, aten.clone, aten.alias, aten.detach}
_SCALES |= {aten.mul, aten.div}


def _scales(packet: Any, args: tuple[Any, ...], tensor: Any) -> bool:
    """Say whether the result of an operation is proportional to a tensor, and depends on no others."""
    others = any(isinstance(argument, Tensor) and argument.dim() for argument in args[1:])
    return packet in _SCALES and args[0] is tensor and not others


def _divides(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensor: Tensor) -> bool:
    """Say whether an operation divides another tensor by this one, entry by entry."""
    by_it = packet is aten.div and args[1] is tensor and not kwargs
    return by_it and isinstance(args[0], Tensor) and args[0].dim() > 0
