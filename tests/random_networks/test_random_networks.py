"""Every width of a network that nobody wrote can be widened and narrowed exactly, or is refused and left alone."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, optim

import growkit
from random_networks import Gene, Program, grow
from random_networks.networks import IMAGES, TOKENS

TOLERANCE = 1e-8

# ------------------------------------------------------------------ programs

back = st.sampled_from([0, 0, 0, 1, 2])
choice = st.integers(0, 27)


@st.composite
def programs(draw: st.DrawFn, kinds: Sequence[str]) -> Program:
    """A program; a palette of few sizes makes many of them equal."""
    palette = draw(st.lists(st.sampled_from([4, 2, 3, 6, 5]), min_size=1, max_size=3))
    sizes = st.integers(0, 2).map(lambda index: palette[index % len(palette)])
    gene = st.builds(Gene, st.sampled_from(kinds), back, back, sizes, sizes, choice, choice, choice)
    genes = draw(st.lists(gene, min_size=1, max_size=8))
    head = draw(st.builds(Gene, st.just("head"), n=sizes, m=sizes, s=choice, t=choice))
    stem = Gene("conv" if kinds is IMAGES else "linear", n=draw(sizes))
    if kinds is IMAGES:
        return grow((draw(sizes), 4, draw(st.sampled_from([4, 6]))), 0, [stem, *genes], head)
    shape = (draw(sizes), draw(sizes))[draw(st.integers(0, 1)) :]
    vocabulary = draw(st.sampled_from([0, 0, 5])) if len(shape) == 2 else 0
    return grow(shape[: 1 if vocabulary else 2], vocabulary, [stem, *genes], head)


NETWORKS = st.one_of(programs(TOKENS), programs(IMAGES))
UNEVEN = st.lists(st.integers(0, 11), min_size=1, max_size=3)


def edits_of(width: growkit.Width, uneven: Sequence[int]) -> Iterator[growkit.Widen]:
    """The ways to widen that a width allows."""
    yield growkit.Widen(width.name, range(width.size))
    copies = [unit % width.size for unit in uneven]
    if not width.uniform:
        yield growkit.Widen(width.name, copies)
    if not width.uniform and not width.copies_only:
        yield growkit.Widen(width.name, copies[1:], new=2)


# ------------------------------------------------------------------ what a network computes


def distance(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """By how much outputs differ, relative to their scale."""
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return float("inf")
    differences = [0.0]
    for old, new in zip(before, after, strict=True):
        assert bool(old.isfinite().all())
        differences.append(float((old - new).abs().max() / old.abs().max().clamp(min=1e-6)))
    return max(differences)


class Subject:
    """A network with its optimizer after a step, and the inputs that it is asked about."""

    def __init__(self, program: Program) -> None:
        self.model = program.build()
        self.optimizer = optim.Adam(self.model.parameters(), lr=1e-3)
        self.example = program.inputs(2)
        self.questions = [self.example, program.inputs(3)]
        self.step()
        try:
            with torch.no_grad():
                self.model(program.inputs(2, longer=1))
        except (RuntimeError, ValueError, IndexError):
            return
        self.questions.append(program.inputs(2, longer=1))

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(self.example).sin().square().mean().backward()
        self.optimizer.step()

    def answers(self) -> list[Tensor]:
        with torch.no_grad():
            return [self.model(question) for question in self.questions]

    def apply(self, edit: growkit.Edit) -> growkit.Change:
        return growkit.apply(self.model, edit, example=(self.example,), optimizers=[self.optimizer])

    def picture(self) -> dict[str, list[float]]:
        return {key: value.flatten().tolist() for key, value in self.model.state_dict().items()}


# ------------------------------------------------------------------ the law


class Tally:
    """How many widths were seen, and why some that were called growable were refused nevertheless."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.passed: set[str] = set()
        self.refused: dict[str, str] = {}

    def refuse(self, program: Program, edit: growkit.Edit, error: growkit.GrowkitError) -> None:
        self.seen["refused"] += 1
        text = f"{edit}: {error}{program}\n"
        key = error.seen.partition(":")[0][:60]
        if len(text) < len(self.refused.get(key, text + " ")):
            self.refused[key] = text

    def __str__(self) -> str:
        return "\n".join([str(dict(self.seen)), *self.refused.values()])


def check_network(program: Program, uneven: Sequence[int], tally: Tally) -> None:
    """Whatever growkit calls growable is growable, exactly and in every way that the width allows."""
    subject = Subject(program)
    structure = growkit.trace(subject.model, subject.example)
    tally.seen["networks"] += 1
    tally.seen["frozen"] += len(structure.widths) - len(structure.growable)
    for width in structure.growable:
        tally.seen["widths"] += 1
        for edit in edits_of(width, uneven):
            edited = copy.deepcopy(subject)
            try:
                edited.apply(edit)
            except growkit.GrowkitError as error:
                assert edited.picture() == subject.picture()
                assert all(map(torch.equal, edited.answers(), subject.answers()))
                tally.refuse(program, edit, error)
                break
            check_edited(subject, edited, edit, width.size)


def check_edited(subject: Subject, edited: Subject, edit: growkit.Widen, size: int) -> None:
    assert distance(subject.answers(), edited.answers()) <= TOLERANCE, edit
    stepped = copy.deepcopy(edited)
    stepped.step()
    check_optimizer(stepped.model, stepped.optimizer)
    if edit.copies:
        edited.apply(growkit.Narrow(edit.width, range(size, size + len(edit.copies)), into=edit.copies))
        assert distance(subject.answers(), edited.answers()) <= TOLERANCE, f"{edit} and back"
    if not edit.new:
        before, after = subject.model.state_dict(), edited.model.state_dict()
        assert all(torch.allclose(after[key], value, rtol=1e-9, atol=1e-11) for key, value in before.items())
        assert repr(subject.model) == repr(edited.model)


def check_optimizer(model: nn.Module, optimizer: optim.Adam) -> None:
    parameters = list(model.parameters())
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in parameters}
    for parameter in parameters:
        assert bool(parameter.isfinite().all())
        assert all(value.dim() == 0 or value.shape == parameter.shape for value in optimizer.state[parameter].values())


def check_random_networks(examples: int) -> None:
    """Check so many networks, and that few widths were refused that had been called growable."""
    tally = Tally()

    @settings(max_examples=examples)
    @given(NETWORKS, UNEVEN)
    def law(program: Program, uneven: Sequence[int]) -> None:
        if str(program) not in tally.passed:  # mutations often come to the same
            check_network(program, uneven, tally)
            tally.passed.add(str(program))

    law()
    assert tally.seen["widths"] > tally.seen["networks"], str(tally)
    assert tally.seen["refused"] <= 0.03 * tally.seen["widths"], str(tally)


def test_random_networks():
    check_random_networks(40)


@pytest.mark.slow
def test_many_random_networks():
    check_random_networks(400)
