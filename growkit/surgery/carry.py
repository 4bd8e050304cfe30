"""What an applied edit did to each parameter, and how to bring any tensor of the old shape along."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from growkit.errors import SurgeryError, suggestion
from growkit.structure.dimensions import Expr, Route, Symbol, resolve
from growkit.structure.positions import Term, expand
from growkit.structure.roles import COPIES, Axis, Role, Roles
from growkit.surgery.edits import Edit
from growkit.surgery.selection import Selection
from growkit.surgery.units import UnitMap

__all__ = ["AxisMap", "AxisMaps", "Change", "Like", "ParamChange"]

Like = Literal["weight", "gradient", "square", "magnitude", "step", "copy"]

# What a share does to what behaves so.
_OF_SHARES: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("weight", "gradient"), torch.clone),
    "square": torch.square,
    "magnitude": torch.abs,
    "step": torch.sign,
    "copy": torch.ones_like,
}


@dataclass(frozen=True, eq=False)
class AxisMap:
    """Of which old positions each new position of an axis is the weighted sum.

    Attributes:
        weight: terms for tensors that behave like the weight: outgoing entries are shared out.
        gradient: terms for tensors that behave like its gradient: a copy of a unit receives its share of the gradient,
            a shared weight the whole.
        shares: whether some entries of the weight are shared out, and not only copied.
        state: terms that stand for `gradient` where optimizers are concerned; None if the edit leaves it at that.
    """

    weight: Sequence[Term]
    gradient: Sequence[Term]
    shares: bool = False
    state: Sequence[Term] | None = None
    _made: dict[Like, list[Selection]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def for_state(self) -> AxisMap:
        """The map of what optimizers keep."""
        return self if self.state is None else replace(self, gradient=self.state, state=None)

    def apply(self, tensor: Tensor, axis: int, like: Like) -> Tensor:
        """Return the tensor with this axis at its new length; positions that come from nowhere are zero."""
        first, *others = self._selections(like)
        if like == "square" and others:
            # Gradients of merged units add, so their root mean squares do.
            return self.apply(tensor.sqrt(), axis, "magnitude").square()
        result = first.of(tensor, axis)
        for other in others:
            other.add_to(result, tensor, axis)
        return result

    def _selections(self, like: Like) -> list[Selection]:
        """Return what to add up. It is worked out once, and serves every tensor that goes with the one before."""
        if like not in self._made:
            terms = self.weight if like == "weight" else self.gradient
            if like in {"step", "copy"}:
                terms = terms[:1]  # neither adds
            self._made[like] = [Selection(source, _OF_SHARES[like](share)) for source, share in terms]
        return self._made[like]


@dataclass(frozen=True, eq=False)
class ParamChange:
    """What became of one parameter or buffer.

    Attributes:
        name: its qualified name.
        old: the tensor as it was; it is no longer part of the model.
        new: the tensor in its place.
        maps: for each axis, where its positions come from; None where nothing changed.
        shift: what the model adds to the parameter before it uses it: the sum is what is shared out.
    """

    name: str
    old: Tensor
    new: Tensor
    maps: tuple[AxisMap | None, ...]
    shift: float = 0.0

    @property
    def for_state(self) -> ParamChange:
        """The same change as what optimizers keep goes through it: the edit has the say, see `Widen`."""
        return replace(self, maps=tuple(mapped and mapped.for_state for mapped in self.maps))

    def carry(self, tensor: Tensor, *, like: Like = "weight") -> Tensor:
        """Bring a tensor of the old shape to the new one.

        Args:
            tensor: same shape as `old`; any device and dtype. Not modified.
            like: how its entries behave when a unit is copied: "weight" (outgoing entries are shared out, as in a
                moving average of the weights), "gradient" (incoming entries are, as in a momentum), "square" or
                "magnitude" (of a gradient, as in the second moment of Adam and the norm of Adamax), "step" (a gradient
                by its own size, so that only the sign of a share counts, as in the momentum of RMSprop), "copy" (none).

        Returns:
            A new tensor.

        Raises:
            SurgeryError: the tensor has another shape.

        Cost: one copy an axis that changed.
        """
        if tensor.shape != self.old.shape:
            raise SurgeryError(
                f"cannot carry a tensor along {self.name!r}",
                seen=f"shape {tuple(tensor.shape)}",
                expected=f"the old shape of the parameter, {tuple(self.old.shape)}",
                advice="carry what is shaped like the parameter; rebuild what is not",
            )
        return apply_maps(tensor, self.maps, like, self.shift)


def apply_maps(tensor: Tensor, maps: Sequence[AxisMap | None], like: Like, shift: float = 0.0) -> Tensor:
    """Return a new tensor with every mapped axis at its new length; shares are those of the tensor plus `shift`."""
    if shift and like == "weight" and any(mapped is not None and mapped.shares for mapped in maps):
        # The maps are linear; so entries that only stay keep every bit, in half precision, too.
        return apply_maps(tensor, maps, like) + (apply_maps(torch.full_like(tensor, shift), maps, like) - shift)
    result = tensor.detach()
    for axis, mapped in enumerate(maps):
        if mapped is not None:
            result = mapped.apply(result, axis, like)
    return result.clone() if result.data_ptr() == tensor.data_ptr() else result


@dataclass(frozen=True, eq=False)
class Change:
    """What applied edits did to a model.

    Attributes:
        edits: the edits, those of one width joined.
        parameters: one entry for each parameter and buffer that changed, by qualified name.
        moved: largest change of the model's output on the probe, relative to its scale.
        renamed: new names of parameters and buffers that moved into a container, by their names in `parameters`.
        dropped: what optimizers lost, such as "LBFGS: its history of 3 steps".
    """

    edits: tuple[Edit, ...]
    parameters: Mapping[str, ParamChange]
    moved: float = 0.0
    renamed: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def carry(self, tensor: Tensor, parameter: str, *, like: Like = "weight") -> Tensor:
        """Bring a tensor shaped like a parameter along; one whose parameter did not change is returned as it is.

        Args:
            tensor: same shape as the parameter had.
            parameter: qualified name of the parameter or buffer.
            like: see `ParamChange.carry`.

        Returns:
            A tensor of the new shape.

        Raises:
            SurgeryError: the tensor has another shape than the parameter had.
        """
        change = self.parameters.get(parameter)
        return tensor if change is None else change.carry(tensor, like=like)

    def __getitem__(self, parameter: str) -> ParamChange:
        """Return the change of one parameter.

        Raises:
            SurgeryError: it did not change.
        """
        if parameter not in self.parameters:
            raise SurgeryError(
                f"{parameter!r} was not changed",
                seen=repr(parameter),
                expected=f"one of {', '.join(map(repr, self.parameters))}",
                advice=suggestion(parameter, self.parameters, otherwise="use `carry`, which passes the unchanged"),
            )
        return self.parameters[parameter]


class AxisMaps:
    """What the unit maps of some symbols mean along axes; axes of one expression and the same roles share a map.

    Args:
        units: what becomes of the units of the symbols that change.
        roles: of all axes.
    """

    def __init__(self, units: Mapping[Symbol, UnitMap], roles: Roles) -> None:
        self._units, self._roles = units, roles
        self._made: dict[tuple[Any, ...], tuple[Expr, AxisMap]] = {}

    def of(self, axis: Axis) -> AxisMap | None:
        """Return the map of an axis; None if none of the symbols has a part in it."""
        held = {p: self._roles.of(axis, *p) for p in self._roles.places(axis) if p[0] in self._units}
        if not held:
            return None
        expr = resolve(axis.expr)
        key = (id(expr), *held.values())
        if key not in self._made:
            self._made[key] = expr, self._map(expr, held)
        return self._made[key][1]

    def _map(self, expr: Expr, held: Mapping[tuple[Symbol, Route], Role]) -> AxisMap:
        def weight(symbol: Symbol, route: Route) -> list[Term] | None:
            if (role := held.get((symbol, route))) is None:
                return None
            unit = self._units[symbol]
            return _scaled(unit.shared if role.shares else unit.whole, math.sqrt(unit.growth) ** role.power)

        def gradient(symbol: Symbol, route: Route) -> list[Term] | None:
            if (role := held.get((symbol, route))) is None:
                return None
            unit = self._units[symbol]
            return _scaled(unit.whole if role.shares else unit.shared, math.sqrt(unit.growth) ** -role.power)

        def state(symbol: Symbol, route: Route) -> list[Term] | None:
            terms = gradient(symbol, route)
            return terms and (self._units[symbol].state or terms)

        shares = any(role != Role(COPIES, 0) for role in held.values())
        asked = any(self._units[symbol].state is not None for symbol, _ in held)
        return AxisMap(expand(expr, weight), expand(expr, gradient), shares, expand(expr, state) if asked else None)


def _scaled(terms: list[Term], factor: float) -> list[Term]:
    return terms if factor == 1.0 else [(source, factor * weight) for source, weight in terms]
