"""What growkit finds in every architecture of the zoo, and what its edits leave behind there."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pytest
import torch
from torch import nn

import growkit
from growkit.structure.dimensions import leaves
from growkit.surgery.apply import Operation
from zoo.architecture import Architecture
from zoo.catalogue import ARCHITECTURES
from zoo.check import (
    Part,
    attributes,
    call,
    edits_of,
    inputs_of,
    loaded,
    model_of,
    moved,
    names_of_tensors,
    probes_of,
    rebuilt,
    shrunk,
    step,
    structure_of,
    tolerance,
    wrong_sizes,
)

# What is known to be wrong.
FLAWS: Mapping[str, str] = {}


def every(flaws: Mapping[str, str] = MappingProxyType({}), among: Sequence[Architecture] = ARCHITECTURES):
    """Every architecture; those with a flaw have to fail."""
    marks = {name: [pytest.mark.xfail(strict=True, reason=why)] for name, why in flaws.items()}
    return pytest.mark.parametrize(
        "architecture", [pytest.param(a, id=a.name, marks=marks.get(a.name, ())) for a in among]
    )


PLACE = r"aten\.\w+ in (the model|'[\w.]+' \(\w+\))"
REASON = re.compile(
    rf"(.* )?{PLACE}( .*)?"
    r"|is axis \d+ of the model's (input \w+|output)"
    r"|runs over pairs of its units in '[\w.]+'"
    r"|has its units in no parameter, only in '[\w.]+'"
    r"|is estimated by power iteration in '[\w.]+' while the model trains"
    r"|is used as a number in the forward pass of \w+"
    r"|may also run through '[\w.]+', which the model did not use on this example"
)


def reasons(structure: growkit.Structure, axis: str) -> list[str | None]:
    """Why each of the widths along an axis cannot change; where there are none, why the data there cannot."""
    parameter, number = axis[:-1].split("[")
    symbols = leaves(structure.axes[parameter][int(number)].expr)
    return [s.reason for s in symbols if not s.extent] or [s.reason or "belongs to the data" for s in symbols]


@every()
def test_a_trace_finds_what_can_grow_and_why_the_rest_cannot(architecture: Architecture):
    model, example = model_of(architecture), inputs_of(architecture)
    twin = copy.deepcopy(model)
    structure = structure_of(model, example)
    for axis in architecture.grows:
        assert None in reasons(structure, axis), (axis, reasons(structure, axis))
    for axis, why in architecture.stuck.items():
        told = reasons(structure, axis)
        assert all(reason and re.search(why, reason) for reason in told), (axis, why, told)
    told = [width.frozen for width in structure.widths.values() if width.frozen]
    assert all(bool(width.advice) == bool(width.frozen) for width in structure.widths.values())
    assert not [reason for reason in told if not REASON.fullmatch(reason)]
    assert moved(call(twin, example), call(model, example)) == 0.0


class Witness:
    """What a model computes and how it is built, to be compared with what became of it."""

    def __init__(self, architecture: Architecture, model: nn.Module) -> None:
        self.inputs = probes_of(architecture)
        self.outputs = [call(model, inputs) for inputs in self.inputs]
        self.names, self.wrong = names_of_tensors(model), wrong_sizes(model).keys()
        self.state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def compare(self, model: nn.Module, structure: growkit.Structure, label: object) -> None:
        distances = [moved(before, call(model, x)) for before, x in zip(self.outputs, self.inputs, strict=True)]
        assert max(distances) <= tolerance(structure), f"{label} moved the outputs by {distances}"
        assert names_of_tensors(model) == self.names, f"{label} changed what is tied"
        assert list(model.state_dict()) == list(self.state), f"{label} changed the names of the parameters"
        assert wrong_sizes(model).keys() == self.wrong, f"{label} left {wrong_sizes(model)}"

    def compare_state(self, model: nn.Module, structure: growkit.Structure, label: object) -> None:
        """The same tensors as in the beginning, up to rounding."""
        for name, tensor in model.state_dict().items():
            assert moved([self.state[name]], [tensor]) <= tolerance(structure), f"{label} changed {name}"


ROUNDS = 3  # in which the widths of a model grow, several at once if there are more


@every(FLAWS)
def test_widths_grow_in_the_middle_of_training_and_shrink_back(architecture: Architecture, unchanged):
    model, example = Part(model_of(architecture)), inputs_of(architecture)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    reached = step(model, example, optimizer)
    witness = Witness(architecture, model)
    call(model, example)  # some models keep what they saw last
    numbers = attributes(model)
    with unchanged(model, optimizer):
        structure = structure_of(model, example)
    assert attributes(model) == numbers
    operation, sizes = Operation(structure, example, [optimizer]), {w.name: w.size for w in structure.growable}
    edits = [list(edits_of(width))[-1][1] for width in structure.growable]
    for some in filter(None, (edits[start::ROUNDS] for start in range(ROUNDS))):
        operation.perform(some)
        witness.compare(model, structure, some)
    other = loaded(model)
    witness.compare(other, structure, "a state dict")
    again = structure_of(other, example)
    assert {w.name: w.size for w in again.growable} == {e.width: e.new_size(sizes[e.width]) for e in edits}
    assert list(again.widths) == list(structure.widths)
    if edits:
        Operation(again, example).perform([shrunk(edit, sizes[edit.width]) for edit in edits])
        witness.compare(other, structure, "shrinking")
        witness.compare_state(other, structure, "growing and shrinking")
    assert step(model, example, optimizer) >= reached
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(map(id, model.parameters()))
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.slow
@every(FLAWS)
def test_each_width_grows_and_shrinks_by_itself(architecture: Architecture):
    model, example = model_of(architecture), inputs_of(architecture)
    structure, witness = structure_of(model, example), Witness(architecture, model)
    for width in structure.growable:
        for _, edit in edits_of(width):
            grown = copy.deepcopy(model)
            growkit.apply(grown, edit, example=example)
            witness.compare(grown, structure, edit)
            growkit.apply(grown, shrunk(edit, width.size), example=example)
            witness.compare(grown, structure, shrunk(edit, width.size))
            witness.compare_state(grown, structure, edit)


@pytest.mark.slow
@every(FLAWS)
def test_new_units_change_nothing(architecture: Architecture):
    model, example = Part(model_of(architecture)), inputs_of(architecture)
    structure, witness = structure_of(model, example), Witness(architecture, model)
    operation = Operation(structure, example)
    for width in structure.growable:
        if not (width.uniform or width.copies_only):
            operation.perform(growkit.Widen(width.name, new=2))
            witness.compare(model, structure, width)
            operation.perform(growkit.Narrow(width.name, range(width.size - 2, width.size)))
            witness.compare(model, structure, f"taking the new units of {width} away")


SOME = ("bert", "albert", "gpt 2", "llama", "mixtral", "t5", "vit", "convnext")
CONFIGURED = [
    architecture for architecture in ARCHITECTURES if architecture.name in map("hugging face {}".format, SOME)
]


@pytest.mark.slow
@every(among=CONFIGURED)
def test_a_configuration_that_fits_the_grown_model_describes_it(architecture: Architecture):
    """Every width doubled at once, as a configuration can say it."""
    model, example = model_of(architecture), inputs_of(architecture)
    structure, witness = structure_of(model, example), Witness(architecture, model)
    edits = [growkit.Widen(width.name, tuple(range(width.size))) for width in structure.growable]
    growkit.apply(model, edits, example=example)
    witness.compare(model, structure, "doubling")
    if (other := rebuilt(model)) is not None:
        witness.compare(other, structure, "building the model again")
