"""What growkit finds in every architecture of the zoo, and what its edits leave behind there."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

import growkit
from growkit.structure.dimensions import leaves
from growkit.surgery.apply import Operation
from zoo.architecture import Architecture
from zoo.catalogue import ARCHITECTURES
from zoo.check import (
    attributes,
    call,
    edits_of,
    model_of,
    moved,
    names_of_tensors,
    probes_of,
    shrunk,
    step,
    structure_of,
    tolerance,
    wrong_sizes,
)

every = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)

PLACE = r"aten\.\w+ in (the model|'[\w.]+' \(\w+\))"
REASON = re.compile(
    rf"(.* )?{PLACE}( .*)?"
    r"|is axis \d+ of the model's (input \w+|output)"
    r"|runs over pairs of its units in '[\w.]+'"
    r"|is estimated by power iteration in '[\w.]+' while the model trains"
    r"|may also run through '[\w.]+', which the model did not use on this example"
)


def axes_of(structure: growkit.Structure) -> dict[str, set[growkit.Width]]:
    """The widths along each axis of each parameter and buffer."""
    found: dict[str, set[growkit.Width]] = {}
    for width in structure.widths.values():
        for piece in (*width.incoming, *width.outgoing):
            found.setdefault(f"{piece.parameter}[{piece.axis}]", set()).add(width)
    return found


def reasons(structure: growkit.Structure, axis: str) -> list[str]:
    """Why each of the dimensions that an axis consists of cannot change; that of data is mostly part of the input."""
    parameter, number = axis[:-1].split("[")
    return [symbol.reason or "can grow" for symbol in leaves(structure.axes[parameter][int(number)].expr)]


# ------------------------------------------------------------------ the trace


@every
def test_what_grows_is_found_and_what_cannot_has_a_reason(architecture: Architecture):
    structure = structure_of(model_of(architecture), probes_of(architecture)[0])
    found = axes_of(structure)
    frozen = [axis for axis in architecture.grows if all(width.frozen for width in found.get(axis, ()))]
    assert not frozen, {axis: reasons(structure, axis) for axis in frozen}
    for axis, why in architecture.stuck.items():
        assert all(re.search(why, reason) for reason in reasons(structure, axis)), (axis, why, reasons(structure, axis))
    odd = [width.frozen for width in structure.widths.values() if width.frozen and not REASON.fullmatch(width.frozen)]
    assert not odd


@every
def test_a_trace_leaves_the_model_as_it_was(architecture: Architecture, unchanged):
    model = model_of(architecture).train()
    before = attributes(model)
    inputs = probes_of(architecture)[0]
    with unchanged(model):
        structure_of(model, inputs)
    assert attributes(model) == before


# ------------------------------------------------------------------ the edits


class Witness:
    """What a model computes and how it is built, to be compared with what became of it."""

    def __init__(self, architecture: Architecture, model: nn.Module, structure: growkit.Structure) -> None:
        self.tolerance = tolerance(structure)
        self.inputs = probes_of(architecture)
        self.outputs = [call(model, inputs) for inputs in self.inputs]
        self.names = names_of_tensors(model)
        self.keys = list(model.state_dict())
        self.wrong = wrong_sizes(model).keys()
        self.state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def compare(self, model: nn.Module, label: object) -> None:
        distances = [moved(before, call(model, x)) for before, x in zip(self.outputs, self.inputs, strict=True)]
        assert max(distances) <= self.tolerance, f"{label} moved the outputs by {distances}"
        assert names_of_tensors(model) == self.names, f"{label} changed what is tied"
        assert list(model.state_dict()) == self.keys, f"{label} changed the names of the parameters"
        assert wrong_sizes(model).keys() == self.wrong, f"{label} left {wrong_sizes(model)}"

    def compare_state(self, model: nn.Module, label: object) -> None:
        """The same tensors as in the beginning, up to rounding."""
        for name, tensor in model.state_dict().items():
            assert moved([self.state[name]], [tensor]) <= self.tolerance, f"{label} changed {name}"


@every
def test_each_width_grows_and_shrinks_back(architecture: Architecture):
    model, example = model_of(architecture), probes_of(architecture)[0]
    structure = structure_of(model, example)
    witness, operation = Witness(architecture, model, structure), Operation(structure, example)
    for width in structure.growable:
        size, (*_, (_, edit)) = width.size, edits_of(width)
        operation.perform(edit)
        witness.compare(model, edit)
        operation.perform(shrunk(edit, size))
        witness.compare(model, shrunk(edit, size))
        witness.compare_state(model, edit)


@every
def test_all_widths_grow_at_once_in_the_middle_of_training(architecture: Architecture):
    model, example = model_of(architecture), probes_of(architecture)[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    reached = step(model, example, optimizer)
    structure = structure_of(model, example)
    witness = Witness(architecture, model, structure)
    edits = [list(edits_of(width))[-1][1] for width in structure.growable]
    sizes = {width.name: width.size for width in structure.widths.values()}
    growkit.apply(model, edits, example=example, optimizers=[optimizer])
    witness.compare(model, "growing")
    grown = {**sizes, **{edit.width: edit.new_size(sizes[edit.width]) for edit in edits}}
    again = structure_of(model, example)
    assert {width.name: width.size for width in again.widths.values()} == grown
    assert [w.name for w in again.growable] == [edit.width for edit in edits]
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(model.state_dict())
    witness.compare(other, "a state dict")
    assert step(model, example, optimizer) >= reached
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(map(id, model.parameters()))
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    growkit.apply(other, [shrunk(edit, sizes[edit.width]) for edit in edits], example=example)
    witness.compare(other, "shrinking")
    witness.compare_state(other, "growing and shrinking")


@pytest.mark.slow
@every
def test_each_edit_by_itself(architecture: Architecture):
    model, example = model_of(architecture), probes_of(architecture)[0]
    structure = structure_of(model, example)
    witness = Witness(architecture, model, structure)
    for width in structure.growable:
        for _, edit in edits_of(width):
            grown = copy.deepcopy(model)
            growkit.apply(grown, edit, example=example)
            witness.compare(grown, edit)
            growkit.apply(grown, shrunk(edit, width.size), example=example)
            witness.compare(grown, shrunk(edit, width.size))
            witness.compare_state(grown, edit)
