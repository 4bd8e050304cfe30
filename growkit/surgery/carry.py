"""What an applied edit did to each parameter, and how to bring any tensor of the old shape along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from growkit.errors import SurgeryError, suggestion
from growkit.structure.dimensions import Route, Symbol, leaves
from growkit.structure.positions import Term, expand
from growkit.structure.roles import Axis, Roles
from growkit.surgery.edits import Edit, UnitMap

__all__ = ["AxisMap", "Change", "Like", "ParamChange", "axis_map"]

Like = Literal["weight", "gradient", "square", "copy"]


@dataclass(frozen=True, eq=False)
class AxisMap:
    """Of which old positions each new position of an axis is the weighted sum.

    Attributes:
        weight: terms for tensors that behave like the weight: outgoing entries are shared out.
        gradient: terms for tensors that behave like its gradient: a copy of a unit receives its share of the gradient,
            a shared weight the whole.
    """

    weight: Sequence[Term]
    gradient: Sequence[Term]

    def apply(self, tensor: Tensor, axis: int, like: Like) -> Tensor:
        """Return the tensor with this axis at its new length; positions that come from nowhere are zero."""
        if like == "copy":
            source = self.weight[0][0]
            return _taken(tensor, axis, source, torch.ones(len(source), dtype=torch.float64))
        terms = self.weight if like == "weight" else self.gradient
        if like == "square" and len(terms) > 1:
            # Gradients of merged units add, so their root mean squares do.
            return self.apply(tensor.sqrt(), axis, "gradient").square()
        result: Tensor | None = None
        for source, scale in terms:
            part = _taken(tensor, axis, source, scale.square() if like == "square" else scale)
            result = part if result is None else result + part
        assert result is not None
        return result


# Stretches of at least so many positions that lie side by side before and after are copied at once, unless there are
# too many of them.
_LONG, _MANY = 16, 48


def _taken(tensor: Tensor, axis: int, source: Tensor, scale: Tensor) -> Tensor:
    """Return, for each new position of an axis, the old one there times a number; -1 stands for zeros."""
    stretches = _stretches(source, scale)
    if len(stretches) > _MANY or not (tensor.is_floating_point() or tensor.is_complex()):
        return _gather(tensor, axis, source, scale)
    shape = list(tensor.shape)
    shape[axis] = len(source)
    result = tensor.new_empty(shape)
    for start, stop, regular in stretches:
        target = result.narrow(axis, start, stop - start)
        first, factor = int(source[start]), float(scale[start])
        if not regular:
            target.copy_(_gather(tensor, axis, source[start:stop], scale[start:stop]))
        elif first < 0:
            target.zero_()
        elif factor == 1:
            target.copy_(tensor.narrow(axis, first, stop - start))
        else:
            torch.mul(tensor.narrow(axis, first, stop - start), factor, out=target)
    return result


def _stretches(source: Tensor, scale: Tensor) -> list[tuple[int, int, bool]]:
    """Cut an axis into stretches (start, stop, True); short neighbours are joined into one, which is irregular."""
    here, there = source[:-1], source[1:]
    follows = torch.where(here < 0, there < 0, there == here + 1) & (scale[:-1] == scale[1:])
    cuts = [0, *((~follows).nonzero().flatten() + 1).tolist(), len(source)]
    found: list[tuple[int, int, bool]] = []
    for start, stop in pairwise(cuts):
        regular = stop - start >= _LONG
        if not regular and found and not found[-1][2]:
            found[-1] = found[-1][0], stop, False
        else:
            found.append((start, stop, regular))
    return found


def _gather(tensor: Tensor, axis: int, source: Tensor, scale: Tensor) -> Tensor:
    source = source.to(tensor.device)
    missing = (source < 0).nonzero().flatten()
    result = tensor.index_select(axis, source.clamp(min=0))
    if len(missing):
        result.index_fill_(axis, missing, 0)
    if bool((scale != 1).any()):
        result *= scale.to(result).view([-1 if position == axis else 1 for position in range(tensor.dim())])
    return result


@dataclass(frozen=True, eq=False)
class ParamChange:
    """What became of one parameter or buffer.

    Attributes:
        name: its qualified name.
        old: the tensor as it was; it is no longer part of the model.
        new: the tensor in its place.
        maps: for each axis, where its positions come from; None where nothing changed.
    """

    name: str
    old: Tensor
    new: Tensor
    maps: tuple[AxisMap | None, ...]

    def carry(self, tensor: Tensor, *, like: Like = "weight") -> Tensor:
        """Bring a tensor of the old shape to the new one.

        Args:
            tensor: same shape as `old`; any device and dtype. Not modified.
            like: how its entries behave when a unit is copied: "weight" (outgoing entries are shared out, as in a
                moving average of the weights), "gradient" (incoming entries are, as in a momentum), "square" (of a
                gradient, as in Adam's second moment), "copy" (none).

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
        return apply_maps(tensor, self.maps, like)


def apply_maps(tensor: Tensor, maps: Sequence[AxisMap | None], like: Like) -> Tensor:
    """Return a new tensor with every mapped axis at its new length."""
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
    """

    edits: tuple[Edit, ...]
    parameters: Mapping[str, ParamChange]
    moved: float = 0.0
    renamed: Mapping[str, str] = field(default_factory=dict)

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


def axis_map(axis: Axis, units: Mapping[Symbol, UnitMap], roles: Roles) -> AxisMap | None:
    """Work out what the unit maps of some symbols mean along one axis; None if it has none of them."""
    touched = [symbol for symbol in leaves(axis.expr) if symbol in units]
    if not touched:
        return None
    scales = {s: math.sqrt(units[s].growth) for s in touched}
    whole = {s: [(units[s].source, torch.ones_like(units[s].share))] for s in touched}
    shared = {s: [(units[s].source, units[s].share), *units[s].folds] for s in touched}

    def weight(symbol: Symbol, route: Route) -> list[Term] | None:
        if symbol not in units:
            return None
        role = roles.of(axis, symbol, route)
        return _scaled((shared if role.shares else whole)[symbol], scales[symbol] ** role.power)

    def gradient(symbol: Symbol, route: Route) -> list[Term] | None:
        if symbol not in units:
            return None
        role = roles.of(axis, symbol, route)
        return _scaled((whole if role.shares else shared)[symbol], scales[symbol] ** -role.power)

    return AxisMap(weight=expand(axis.expr, weight), gradient=expand(axis.expr, gradient))


def _scaled(terms: list[Term], factor: float) -> list[Term]:
    return terms if factor == 1.0 else [(source, factor * weight) for source, weight in terms]
