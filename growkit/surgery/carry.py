"""What an applied edit did to each parameter, and how to bring any tensor of the old shape along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from growkit.errors import SurgeryError, suggestion
from growkit.structure.dimensions import Expr, Route, Symbol, resolve
from growkit.structure.positions import Term, expand
from growkit.structure.roles import Axis, Role, Roles
from growkit.surgery.edits import Edit, UnitMap

__all__ = ["AxisMap", "AxisMaps", "Change", "Like", "ParamChange"]

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
            return self._copy.of(tensor, axis)
        first, *others = self._weight if like == "weight" else self._gradient
        if like == "square" and others:
            # Gradients of merged units add, so their root mean squares do.
            return self.apply(tensor.sqrt(), axis, "gradient").square()
        result = first.of(tensor, axis, power=2 if like == "square" else 1)
        for other in others:
            other.add_to(result, tensor, axis)
        return result

    # What one tensor needs is worked out once, and serves every tensor that goes with it.

    @cached_property
    def _weight(self) -> list[_Selection]:
        return [_Selection(*term) for term in self.weight]

    @cached_property
    def _gradient(self) -> list[_Selection]:
        return [_Selection(*term) for term in self.gradient]

    @cached_property
    def _copy(self) -> _Selection:
        source = self.weight[0][0]
        return _Selection(source, torch.ones(len(source), dtype=torch.float64))


# Multiplying a run costs a call, and a jump for each strip of memory in it: from so many bytes on, that is less than
# what a second pass over the copy costs.
_RUN, _STRIP = 2**16, 2**10


class _Selection:
    """For each new position of an axis, the old one there, -1 for zeros, and a factor."""

    def __init__(self, source: Tensor, scale: Tensor) -> None:
        self._source, self._scale = source, scale

    def of(self, tensor: Tensor, axis: int, *, power: int = 1) -> Tensor:
        """Return a new tensor of the selected entries times a power of their factors."""
        if self._scaled and self._has_long_runs(tensor, axis):
            return self._run_by_run(tensor, axis, power)
        return self._entries(tensor, axis, slice(None), power)

    def add_to(self, result: Tensor, tensor: Tensor, axis: int) -> None:
        """Add the selected entries times their factors."""
        held = (self._source >= 0).nonzero().flatten()
        result.index_add_(axis, held.to(tensor.device), self._entries(tensor, axis, held))

    @cached_property
    def _scaled(self) -> bool:
        return bool(((self._scale != 1) & (self._source >= 0)).any())

    def _entries(self, tensor: Tensor, axis: int, at: slice | Tensor, power: int = 1) -> Tensor:
        source = self._source[at].to(tensor.device)
        scale = (self._scale[at] ** power).to(tensor) if self._scaled else None
        held = source.clamp(min=0)
        if scale is not None and _is_table(tensor, axis):
            rows = nn.functional.embedding_bag(
                held[:, None], tensor.flatten(1), mode="sum", per_sample_weights=scale[:, None]
            )
            result = rows.view(len(held), *tensor.shape[1:])
        else:
            result = tensor.index_select(axis, held)
            if scale is not None:
                result *= scale.view([-1 if position == axis else 1 for position in range(tensor.dim())])
        missing = (source < 0).nonzero().flatten()
        return result.index_fill_(axis, missing, 0) if len(missing) else result

    def _has_long_runs(self, tensor: Tensor, axis: int) -> bool:
        strip = tensor.element_size() * math.prod(tensor.shape[axis + 1 :]) * len(self._source)
        whole = strip * math.prod(tensor.shape[:axis])
        if whole < _RUN or _is_table(tensor, axis) or not (tensor.is_floating_point() or tensor.is_complex()):
            return False
        return min(whole / _RUN, strip / _STRIP) >= len(self._starts)

    @cached_property
    def _starts(self) -> Tensor:
        """Where runs start, of positions that lie side by side before and after and have one factor."""
        here, there = self._source[:-1], self._source[1:]
        follows = torch.where(here < 0, there < 0, there == here + 1) & (self._scale[:-1] == self._scale[1:])
        return nn.functional.pad((~follows).nonzero().flatten() + 1, (1, 0))

    @cached_property
    def _runs(self) -> tuple[list[int], list[int], list[float]]:
        """Lengths of the runs, old positions of their starts, and factors."""
        starts = self._starts
        lengths = torch.diff(starts, append=torch.tensor([len(self._source)]))
        return lengths.tolist(), self._source[starts].tolist(), self._scale[starts].tolist()

    def _run_by_run(self, tensor: Tensor, axis: int, power: int) -> Tensor:
        lengths, firsts, factors = self._runs
        result = tensor.new_empty([*tensor.shape[:axis], len(self._source), *tensor.shape[axis + 1 :]])
        targets = torch.split(result, lengths, axis)
        for target, length, first, factor in zip(targets, lengths, firsts, factors, strict=True):
            if first < 0:
                target.zero_()
            elif factor == 1:
                target.copy_(tensor.narrow(axis, first, length))
            else:
                torch.mul(tensor.narrow(axis, first, length), factor**power, out=target)
        return result


def _is_table(tensor: Tensor, axis: int) -> bool:
    """Say whether an embedding bag of one entry selects and multiplies in one pass: rows in single precision."""
    rows = axis == 0 and tensor.dim() > 1 and tensor.is_contiguous() and tensor.numel() > 0
    return rows and tensor.dtype == torch.float32 and tensor.device.type == "cpu"


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

        return AxisMap(weight=expand(expr, weight), gradient=expand(expr, gradient))


def _scaled(terms: list[Term], factor: float) -> list[Term]:
    return terms if factor == 1.0 else [(source, factor * weight) for source, weight in terms]
