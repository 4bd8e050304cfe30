"""What the model puts out on the example, before and after an edit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from growkit.errors import SurgeryError
from growkit.structure.dimensions import Route, Symbol, leaves
from growkit.structure.forward import Example, call, evaluation, tensors_in
from growkit.structure.positions import Term, expand
from growkit.structure.roles import Axis
from growkit.surgery.units import UnitMap

__all__ = ["Output", "Places", "failed_run", "output_of", "places_of", "probes_of", "verify"]

# By how much rounding alone may move the output, relative to its scale.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

# For each tensor of the output, by axis: where the entries of before the edit lie after it.
Places = list[dict[int, Tensor]]


class Output(NamedTuple):
    """What the model puts out.

    Attributes:
        tensors: every tensor of the output, numbers included.
        form: how the output is built of them.
    """

    tensors: list[Tensor]
    form: str


def output_of(model: nn.Module, example: Example) -> Output:
    """Run the model in evaluation mode, leaving no trace in it."""
    with evaluation(model, example):
        output = call(model, example)
        tensors = [_numbers(tensor).clone() for tensor in tensors_in(output)]
    leaves_, form = tree_flatten(output)
    numbers = [torch.tensor(x, dtype=torch.float64) for x in leaves_ if isinstance(x, (bool, int, float))]
    return Output([*tensors, *numbers], f"{form} of {', '.join(type(leaf).__name__ for leaf in leaves_)}")


def probes_of(model: nn.Module, example: Example) -> list[tuple[Example, Output]]:
    """Run the model on the example; if all entries of a floating point input are alike, on one with noise as well.

    On inputs like `torch.ones` all positions are alike, and much that an edit breaks, as the scale of attention scores,
    has no effect.

    Returns:
        The inputs, each with the output.
    """
    probes = [(example, output_of(model, example))]
    with suppress(Exception):  # it may want just these values
        if (other := _varied(example)) is not None:
            probes.append((other, output_of(model, other)))
    return probes


def _varied(example: Example) -> Example | None:
    leaves_, form = tree_flatten(example)
    generator = torch.Generator().manual_seed(0)
    varied = [_with_noise(x, generator) if isinstance(x, Tensor) and _is_constant(x) else x for x in leaves_]
    changed = any(new is not old for new, old in zip(varied, leaves_, strict=True))
    return tree_unflatten(varied, form) if changed else None


def _is_constant(tensor: Tensor) -> bool:
    plain = tensor.layout == torch.strided and tensor.is_floating_point() and tensor.numel() > 1
    return plain and bool((tensor == tensor.flatten()[0]).all())


def _with_noise(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return tensor.detach() + torch.randn(tensor.shape, generator=generator).to(tensor)


def _numbers(tensor: Tensor) -> Tensor:
    """Return a tensor as one that is dense and real."""
    dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return torch.view_as_real(dense) if dense.is_complex() else dense


def places_of(results: Sequence[Sequence[Axis]], units: Mapping[Symbol, UnitMap]) -> Places:
    """Say where the entries of the model's output lie once its widths have changed.

    Args:
        results: the axes of each tensor of the output.
        units: what becomes of the units of some widths that the model puts out.
    """

    def terms(symbol: Symbol, route: Route) -> list[Term] | None:
        return [(units[symbol].source, units[symbol].share)] if symbol in units else None

    places: Places = []
    for axes in results:
        moved = {}
        for position, axis in enumerate(axes):
            if any(symbol in units for symbol in leaves(axis.expr)):
                source = expand(axis.expr, terms)[0][0]
                # Originals stand before their copies.
                moved[position] = torch.stack([(source == old).nonzero()[0, 0] for old in range(axis.expr.size)])
        places.append(moved)
    return places


def verify(edits: str, before: Output, after: Output, places: Places, *, exact: bool, seen: Set[torch.dtype]) -> float:
    """Compare two outputs; return how far they moved, relative to their scale.

    Args:
        edits: what was done, for the message.
        before: output before the edits.
        after: output after them.
        places: where entries lie now, for outputs that grew on demand.
        exact: refuse an output that moved by more than rounding.
        seen: types of the numbers that the model computes with; in double precision some still compute in single.

    Raises:
        SurgeryError: the output has another form, or moved although it should not.
    """
    if len(before.tensors) != len(after.tensors) or (before.form != after.form and not any(places)):
        raise SurgeryError(
            f"{edits} changes what the model computes: its output has another form",
            seen=f"{len(after.tensors)} tensors in {after.form}",
            expected=f"{len(before.tensors)} tensors in {before.form}",
            advice="look for a decision in `forward` that depends on a size",
        )
    distances = [0.0]
    for number, (old, new) in enumerate(zip(before.tensors, after.tensors, strict=True)):
        distance = _distance(old, _former(new, places[number] if number < len(places) else {}))
        distances.append(distance)
        allowed = _TOLERANCE.get(old.dtype, 0.0)
        if allowed and torch.float32 in seen:
            allowed = max(allowed, _TOLERANCE[torch.float32])
        if exact and not distance <= allowed:
            raise SurgeryError(
                f"{edits} changes what the model computes",
                seen=f"the output on the example moved by {distance:.3g} of its scale",
                expected=f"at most {allowed:.0e} ({old.dtype})",
                advice="pass exact=False if the output may change; else look for sizes written as numbers in "
                "`forward`, and for removed units that were still in use",
            )
    return max(distances)


def _former(tensor: Tensor, places: Mapping[int, Tensor]) -> Tensor:
    for axis, index in places.items():
        if axis < tensor.dim() and tensor.shape[axis] > int(index.max()):
            tensor = tensor.index_select(axis, index.to(tensor.device))
    return tensor


def _distance(old: Tensor, new: Tensor) -> float:
    """Return the largest difference, relative to the largest entry of `old` or 1; infinite where shapes differ."""
    if old.shape != new.shape:
        return float("inf")
    if not old.numel():
        return 0.0
    old, new = old.double(), new.double()
    difference = torch.where((old == new) | (old.isnan() & new.isnan()), 0.0, (old - new).abs())
    scale = old[old.isfinite()].abs().max().item() if bool(old.isfinite().any()) else 1.0
    return float(difference.nan_to_num(nan=torch.inf).max().item()) / max(scale, 1.0)


def failed_run(edits: Iterable[object], error: Exception) -> SurgeryError:
    """Return the error for a model that no longer runs."""
    return SurgeryError(
        f"{', '.join(map(str, edits))} leaves a model that does not run",
        seen=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        expected="a forward pass that follows the new sizes",
        advice="look for a size written as a number in `forward`; take it from a tensor's shape instead",
    )
