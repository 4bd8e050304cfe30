"""Every width of a network that nobody wrote can be widened and narrowed exactly, or is refused and left alone."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

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


UNEVEN = st.lists(st.integers(0, 11), min_size=1, max_size=3)
# As the element of a collection without duplicates an example is drawn anew each time: hypothesis would else make
# five more networks out of each by copying parts of it over others, which find little.
CASES = st.lists(
    st.tuples(st.one_of(programs(TOKENS), programs(IMAGES)), UNEVEN), min_size=1, max_size=1, unique_by=str
).map(lambda cases: cases[0])


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
        longer = program.inputs(2, longer=1)
        self.questions += [longer] if runs(self.model, longer) else []
        self.trains = runs(copy.deepcopy(self.model).train(), self.questions[1])
        self.expected = self.answers()

    def learn(self) -> dict[str, Tensor]:
        """The gradients on the example."""
        self.optimizer.zero_grad()
        self.model(self.example).sin().square().mean().backward()
        return self.gradients()

    def gradients(self) -> dict[str, Tensor]:
        return {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}

    def step(self) -> None:
        self.learn()
        self.optimizer.step()

    def answers(self) -> list[Tensor]:
        """What the network says in evaluation mode, and once in training mode."""
        with torch.no_grad():
            answers = [self.model(question) for question in self.questions]
            if self.trains:
                kept = [buffer.clone() for buffer in self.model.buffers()]
                answers.append(self.model.train()(self.questions[1]))
                self.model.eval()
                for buffer, value in zip(self.model.buffers(), kept, strict=True):
                    buffer.copy_(value)
        return answers

    def has_moved(self) -> bool:
        """Whether the network says anything else than before it was edited."""
        return distance(self.expected, self.answers()) > TOLERANCE

    def apply(self, edit: growkit.Edit) -> growkit.Change:
        return growkit.apply(self.model, edit, example=(self.example,), optimizers=[self.optimizer])

    def picture(self) -> tuple[Any, ...]:
        """Everything that a refused edit must leave as it is."""
        state = {key: value.flatten().tolist() for key, value in self.model.state_dict().items()}
        return repr(self.model), [answer.tolist() for answer in self.answers()], state


def runs(model: nn.Module, inputs: Tensor) -> bool:
    try:
        with torch.no_grad():
            model(inputs)
    except (RuntimeError, ValueError, IndexError):
        return False
    return True


# ------------------------------------------------------------------ the law


class Tally:
    """How many widths were seen, and why some that were called growable were refused nevertheless."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.refused: dict[str, str] = {}  # the shortest program by reason

    def refuse(self, program: Program, error: growkit.GrowkitError) -> None:
        self.seen["refused"] += 1
        text, key = f"{error}{program}\n", re.sub(r"[\d.e+-]+", "#", error.seen)
        if key not in self.refused or len(text) < len(self.refused[key]):
            self.refused[key] = text

    def __str__(self) -> str:
        return "\n".join([str(dict(self.seen)), *self.refused.values()])


def check_network(program: Program, uneven: Sequence[int], tally: Tally) -> None:
    """Whatever growkit calls growable is growable, exactly and in every way that the width allows."""
    subject = Subject(program)
    structure = growkit.trace(subject.model, subject.example)
    tally.seen["networks"] += 1
    tally.seen["frozen"] += len(structure.widths) - len(structure.growable)
    grown = []
    for width in structure.growable:
        tally.seen["widths"] += 1
        errors = [check_edit(subject, edit, width.size) for edit in edits_of(width, uneven)]
        refused = [error for error in errors if error is not None]
        if refused:
            tally.refuse(program, refused[0])
        else:
            grown.append(width.name)
    if (error := check_in_turn(subject, grown)) is not None:
        tally.refuse(program, error)


def check_edit(subject: Subject, edit: growkit.Widen, size: int) -> growkit.GrowkitError | None:
    """The edit and its way back are exact, or else refused, which leaves the network alone; the error, if refused."""
    edited = copy.deepcopy(subject)
    edited.learn()
    if (error := attempt(edited, edit)) is not None:
        return error
    check_edited(edited, edit)
    if edit.copies:
        back = growkit.Narrow(edit.width, range(size, size + len(edit.copies)), into=edit.copies)
        if (error := attempt(edited, back)) is not None:
            return error
        assert not edited.has_moved(), f"{edit} and back"
    if not edit.new:
        before, after = subject.model.state_dict(), edited.model.state_dict()
        assert all(torch.allclose(after[key], value, rtol=1e-9, atol=1e-11) for key, value in before.items()), edit
        assert repr(subject.model) == repr(edited.model), edit
    return None


def attempt(subject: Subject, edit: growkit.Edit) -> growkit.GrowkitError | None:
    """Make an edit; if that is refused, the network must be as it was."""
    before = subject.picture()
    try:
        subject.apply(edit)
    except growkit.GrowkitError as error:
        assert subject.picture() == before, edit
        return error
    return None


def check_edited(edited: Subject, edit: growkit.Widen) -> None:
    """The network answers as before, has the gradients that it would have, and learns on."""
    assert not edited.has_moved(), edit
    learning = copy.deepcopy(edited)
    carried, learnt = edited.gradients(), learning.learn()
    for name in learnt:
        if not edit.new and "parametrizations" not in name:  # a weight norm has no such law
            assert torch.allclose(carried[name], learnt[name], rtol=1e-7, atol=1e-10), f"{name} after {edit}"
    learning.optimizer.step()
    check_optimizer(learning.model, learning.optimizer)


def check_in_turn(subject: Subject, widths: Sequence[str]) -> growkit.GrowkitError | None:
    """All widths grow, one after the other, each in the network that the one before has left."""
    edited = copy.deepcopy(subject)
    for name in widths:
        width = growkit.trace(edited.model, edited.example)[name]
        if (error := attempt(edited, growkit.Widen(name, range(width.size)))) is not None:
            return error
        assert not edited.has_moved(), f"{name} after others"
    return None


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
    @given(CASES)
    def law(case: tuple[Program, list[int]]) -> None:
        check_network(*case, tally)

    law()
    assert tally.seen["widths"] > tally.seen["networks"], str(tally)
    assert tally.seen["refused"] <= 0.03 * tally.seen["widths"], str(tally)


def test_random_networks():
    check_random_networks(40)


@pytest.mark.slow
def test_many_random_networks():
    check_random_networks(400)
