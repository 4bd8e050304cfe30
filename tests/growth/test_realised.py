"""What an event did to the training loss: measured, told in the note, and without any other effect."""

from __future__ import annotations

import gc
import json
import math
import random
import weakref

import numpy as np
import pytest
import torch
from growth.stubs import Asks, Follows, Proposes, Selects, event, has_four_parts, mlp, take_steps, widen
from torch import Tensor, nn

import growkit
from growkit.growth import Ranks
from growkit.growth.realised import LossChange

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
BATCHES = [X, 2 * X, X - 1]


def square(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def mean_loss(model: nn.Module, batches) -> float:
    with torch.no_grad():
        return sum(square(model, batch).item() for batch in batches) / len(batches)


def looks_at(*counts: int):
    def ask(context):
        for count in counts:
            list(context.batches(count))
        return [widen("0", 1, bias__0=torch.tensor([0.3, -0.2], dtype=torch.float64), gain=0.5)]

    return Asks(ask)


@pytest.mark.parametrize(("counts", "expected"), [((), 1), ((1,), 1), ((2, 3, 1), 3), ((9,), 3)])
def test_before_and_after_are_those_of_the_batches_that_plugins_looked_at(counts, expected):
    model, journal = mlp(3, 2, 1), growkit.Journal()
    before = mean_loss(model, BATCHES[:expected])
    happened = event(model, looks_at(*counts), example=(X,), batches=BATCHES, journal=journal)
    after = mean_loss(model, BATCHES[:expected])
    assert happened.note["loss"] == {"before": pytest.approx(before), "after": pytest.approx(after)}
    assert abs(after - before) > 1e-4
    assert json.loads(journal.to_json())["entries"][0]["note"]["loss"] == happened.note["loss"]


def test_batches_that_a_selection_looks_at_count():
    choose = Selects(lambda candidates, budget, context: (list(context.batches(2)), candidates)[1])
    model = mlp(3, 2, 1)
    expected = mean_loss(model, BATCHES[:2])
    happened = event(model, Proposes(widen("0", 1)), choose, example=(X,), batches=BATCHES)
    assert happened.note["loss"]["before"] == pytest.approx(expected)
    assert happened.note["loss"]["after"] == pytest.approx(expected)


def test_without_batches_nothing_is_measured():
    assert event(mlp(3, 2, 1), Proposes(widen("0", 1)), example=(X,)).note["loss"] is None


def test_it_is_measured_in_evaluation_mode_whatever_plugins_did_to_their_copy():
    def ruin(context):
        with torch.no_grad():
            for parameter in context.model.train().parameters():
                parameter.zero_()
        return [widen("0.0", 1)]

    model = nn.Sequential(mlp(3, 2), nn.BatchNorm1d(2).double(), nn.Dropout(0.5), mlp(2, 1)).train()
    with torch.no_grad():
        model[1].running_mean.fill_(0.7)
    expected = mean_loss(model.eval(), [X])
    model.train()
    happened = event(model, Asks(ruin), example=(X,), batches=[X])
    assert happened.note["loss"] == {"before": pytest.approx(expected), "after": pytest.approx(expected)}
    assert model.training


def test_both_times_the_loss_draws_the_same_random_numbers_and_nobody_else_sees_them():
    def noisy(model, batch):
        return square(model, batch + torch.randn_like(batch) * np.random.rand() + random.random())

    model = mlp(3, 2, 1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    loss = event(model, Proposes(widen("0", 1)), example=(X,), batches=BATCHES, loss=noisy).note["loss"]
    assert loss["before"] == pytest.approx(loss["after"])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tobytes())


def test_the_model_its_gradients_and_its_optimizer_are_as_without_measuring():
    def outcome(batches):
        torch.manual_seed(0)
        model = mlp(3, 2, 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        take_steps(model, optimizer, X)
        event(model, Proposes(widen("0", 1)), example=(X,), optimizers=[optimizer], batches=batches)
        gradients = [parameter.grad for parameter in model.parameters()]
        take_steps(model, optimizer, X)
        return gradients + list(model.parameters())

    assert all(map(torch.equal, outcome([]), outcome(BATCHES)))


def test_copies_graphs_and_batches_are_let_go_of():
    alive = []

    def loss(model, batch):
        value = square(model, batch)
        alive.extend(map(weakref.ref, (model, value, batch)))
        assert not value.requires_grad
        return value

    gc.disable()
    try:
        event(mlp(3, 2, 1), Proposes(widen("0", 1)), example=(X,), batches=(X + k for k in range(1)), loss=loss)
        assert [reference() for reference in alive] == [None] * 3 * (len(alive) // 3)
    finally:
        gc.enable()
    assert alive


def test_a_loss_may_differentiate_by_its_inputs():
    def rough(model, batch):
        inputs = batch.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
        return slope.square().mean()

    loss = event(mlp(3, 2, 1), Proposes(widen("0", 1)), example=(X,), batches=[X], loss=rough).note["loss"]
    assert loss["before"] == pytest.approx(loss["after"])
    assert loss["before"] > 0


def test_nothing_is_measured_where_nothing_grows():
    calls = []
    loss = lambda model, batch: calls.append(batch)  # noqa: E731
    assert event(mlp(3, 2, 1), Asks(lambda context: []), example=(X,), batches=[X], loss=loss) is None
    assert calls == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_told_as_text(value):
    journal = growkit.Journal()
    loss = lambda model, batch: square(model, batch) * 0 + value  # noqa: E731
    event(mlp(3, 2, 1), Proposes(widen("0", 1)), example=(X,), batches=[X], loss=loss, journal=journal)

    def refuse(constant):
        raise ValueError(constant)

    (entry,) = json.loads(journal.to_json(), parse_constant=refuse)["entries"]
    assert entry["note"]["loss"] == {"before": str(value), "after": str(value)}


def test_a_loss_that_fails_before_the_event_only_goes_without_saying_how_it_changed(caplog):
    def fails(model, batch):
        raise AttributeError("no optimizers here")

    model = mlp(3, 2, 1)
    happened = event(model, Proposes(widen("0", 1)), example=(X,), batches=[X], loss=fails)
    assert happened.note["loss"] is None
    assert model[0].out_features == 3
    assert "not measured, since the loss fails: AttributeError: no optimizers here" in caplog.text


@pytest.mark.parametrize(
    "error", [RuntimeError("sizes do not match"), growkit.SurgeryError("a", seen="b", expected="c", advice="d")]
)
def test_a_loss_that_fails_on_the_grown_model_undoes_the_event(unchanged, error):
    def fails(model, batch):
        if model[0].out_features == 3:
            raise error
        return square(model, batch)

    model, journal, told = mlp(3, 2, 1), growkit.Journal(), []
    optimizer = torch.optim.Adam(model.parameters())
    take_steps(model, optimizer, X)
    plugins = Proposes(widen("0", 1)), Follows(lambda event, model: told.append(event))
    options = {"example": (X,), "optimizers": [optimizer], "batches": [X], "loss": fails, "journal": journal}
    with unchanged(model, optimizer), pytest.raises(growkit.SurgeryError, match=r"sizes do not match|: a\n") as caught:
        event(model, *plugins, **options)
    assert has_four_parts(caught.value)
    assert len(journal) == len(told) == 0


def test_the_loss_of_a_batch_on_a_model_of_ones_own():
    found = {}

    def ask(context):
        (batch,) = context.batches(1)
        other = growkit.trace(context.model, X).model
        doubled = mlp(3, 2, 1)
        doubled.load_state_dict({name: 2 * value for name, value in other.state_dict().items()})
        found.update(own=context.loss(batch), other=context.loss(batch, doubled), expected=square(doubled, X))
        assert context.example == (X,)
        return []

    model = mlp(3, 2, 1)
    event(model, Asks(ask), example=(X,), batches=[X])
    assert found["own"].item() == pytest.approx(mean_loss(model, [X]))
    assert torch.equal(found["other"], found["expected"])
    found["other"].backward()


class Beside(Ranks):
    """One of two processes; the other has seen so many batches, with losses of so much in all."""

    def __init__(self, total: float, count: int) -> None:
        super().__init__()
        self.other = torch.tensor([total, count], dtype=torch.float64)

    def mean(self, tensor: Tensor) -> Tensor:
        return (tensor + self.other) / 2


@pytest.mark.parametrize(
    ("batches", "other", "expected"),
    [
        (BATCHES[:2], (6.0, 2), lambda own: (2 * own + 6) / 4),
        ([], (6.0, 2), lambda own: 3.0),
        (BATCHES[:1], (0.0, 0), lambda own: own),
    ],
)
def test_processes_count_by_their_batches(batches, other, expected):
    model = mlp(3, 2, 1)
    own = mean_loss(model, batches) if batches else 0.0
    context = growkit.Context(
        *(growkit.trace(model, X), growkit.Journal()),
        example=(X,),
        step=0,
        epoch=0,
        seed=0,
        loss=square,
        batches=lambda count: batches[:count],
        ranks=Beside(*other),
    )
    context.batches(2)
    change = LossChange(context).after()
    assert change == {"before": pytest.approx(expected(own)), "after": pytest.approx(expected(own))}
