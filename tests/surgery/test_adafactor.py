"""Adafactor keeps the second moment as a product of its means over rows and columns."""

from __future__ import annotations

import pytest
import torch
from optimizer_cases import COPIES, PROBE, SHARE, UNITS, network, state_of, train
from torch import Tensor, nn, optim

from growkit.surgery import Narrow, Widen, apply


def deep() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def convolutional() -> nn.Sequential:
    """Kernels of 3 x 1 over columns: their gradient for one sample of one output is an outer product."""
    torch.manual_seed(2)
    body = (nn.Conv2d(2, 4, (3, 1)), nn.Tanh(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    return nn.Sequential(nn.Unflatten(1, (1, 3, 1)), nn.Conv2d(1, 2, 1), *body).double()


def both(build, edits, options) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the carried state and that which the grown network gathers, for one sample, whose gradient has rank 1."""
    states = []
    for early in (True, False):
        model = build()
        if early:
            apply(model, edits, example=PROBE)
        optimizer = optim.Adafactor(model.parameters(), 0.0, **options)
        train(model, optimizer, 3, count=1)
        if not early:
            apply(model, edits, example=PROBE, optimizers=[optimizer])
        states.insert(0, state_of(model, optimizer))
    return states[0], states[1]


CASES = {
    "rows": (network, Widen("0", COPIES)),
    "rows with shares": (network, Widen("0", COPIES, shares=(2, -1.5, -0.5))),
    "rows and columns": (deep, [Widen("0", COPIES), Widen("2", (0, 2))]),
    "channels": (convolutional, Widen("2", (1, 1, 3))),
    "channels with shares": (convolutional, Widen("2", (1, 1, 3), shares=(2, -1.5, -0.5))),
    "channels on both sides": (convolutional, [Widen("1", (0,)), Widen("2", (1, 1, 3)), Widen("4", (2,))]),
}


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"maximize": True}], ids=["plain", "foreach", "maximize"])
@pytest.mark.parametrize("name", CASES)
def test_the_factors_are_those_of_a_network_that_was_this_wide(name, options):
    carried, gathered = both(*CASES[name], options)
    assert carried.keys() == gathered.keys()
    assert any(key.endswith("row_var") for key in carried)
    for key, value in gathered.items():
        assert torch.allclose(carried[key], value, rtol=1e-9, atol=1e-18), key


def test_the_formula_written_out():
    model = network()
    optimizer = optim.Adafactor(model.parameters())
    train(model, optimizer, 3)
    old = state_of(model, optimizer)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    new = state_of(model, optimizer)
    rows, columns = old["0.weight row_var"], old["0.weight col_var"]
    wide = rows[UNITS] * SHARE[:, None] ** 2
    assert torch.equal(new["0.weight row_var"], wide)
    assert torch.equal(new["0.weight col_var"], columns * (wide.mean() / rows.mean()))
    rows, columns = old["2.weight row_var"], old["2.weight col_var"]
    wide = columns[:, UNITS]
    assert torch.equal(new["2.weight col_var"], wide)
    assert torch.equal(new["2.weight row_var"], rows * (wide.mean() / columns.mean()))
    assert torch.equal(new["0.bias variance"], old["0.bias variance"][UNITS] * SHARE**2)
    assert torch.equal(new["2.bias variance"], old["2.bias variance"])


def test_folding_the_copies_back_restores_the_factors():
    model = network()
    optimizer = optim.Adafactor(model.parameters(), 0.0)
    train(model, optimizer, 3)
    old = state_of(model, optimizer)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    apply(model, Narrow("0", (4, 5, 6), into=COPIES), example=PROBE, optimizers=[optimizer])
    for key, value in state_of(model, optimizer).items():
        assert torch.allclose(value, old[key], rtol=1e-12, atol=1e-18), key


def test_no_gradient_so_far_is_no_gradient_of_copies():
    model = network()
    optimizer = optim.Adafactor(model.parameters(), 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    apply(model, Widen("0", COPIES, new=1), example=PROBE, optimizers=[optimizer])
    assert all(value.isfinite().all() for value in state_of(model, optimizer).values())
    assert not optimizer.state[model[0].weight]["row_var"].any()


@pytest.mark.parametrize("build", [network, convolutional])
def test_training_goes_on(build):
    model = build()
    optimizer = optim.Adafactor(model.parameters(), 0.05)
    width = "0" if build is network else "2"
    before = train(model, optimizer, 20)
    apply(model, Widen(width, COPIES, new=1), example=PROBE, optimizers=[optimizer])
    middle = train(model, optimizer, 20)
    apply(model, Narrow(width, (7,)), example=PROBE, optimizers=[optimizer], exact=False)
    after = train(model, optimizer, 20)
    assert before[0] > before[-1] > middle[-1]
    assert after[-1] < middle[0]
