"""Events at which nothing can be split: the run goes on, and says why."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from growth.stubs import mlp
from splitting.helpers import data, grow, matrices_of, settle, squared_error
from splitting.networks import hidden
from torch import nn

from growkit_plugins.splitting import Splitting

CANCEL = "without an activation in between"
NOT_FINITE = "a derivative in the loss that is not finite"


# ---------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize("method", ["fast", "exact"])
@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_grows_nothing_and_says_so(method, factor, caplog):
    model = settle(mlp(3, 4, 2))
    before = copy.deepcopy(model.state_dict())
    plugin = Splitting(1.0, mass=3.0, method=method)
    assert grow(model, data((3,), (2,)), plugin, lambda m, batch: factor * squared_error(m, batch)) is None
    assert NOT_FINITE in caplog.text
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def test_a_curvature_that_is_not_finite_is_refused():
    """The square root of a rectified value has a slope of infinity at 0."""
    model = settle(hidden(lambda m, x: m.out(m.a(x).relu().sqrt())))
    assert NOT_FINITE in matrices_of(model, data((3,), (2,))).refused["a"]


@pytest.mark.parametrize("method", ["fast", "exact"])
@pytest.mark.parametrize("scale", [1e10, 1e19, 1e25, 1e37])
def test_numbers_beyond_their_range_do_not_stop_the_run(method, scale):
    """What a run that explodes brings along: inputs and losses whose squares are infinite in single precision."""
    model = mlp(3, 4, 4, 2, activation=nn.ReLU).float()
    inputs, targets = (tensor.float() for tensor in data((3,), (2,))[0])
    for batch in ((scale * inputs, targets), (inputs, scale**0.5 * targets)):
        happened = grow(copy.deepcopy(model), [batch], Splitting(1.0, mass=3.0, method=method))
        assert happened is None or math.isfinite(happened.note["gain"])


# ---------------------------------------------------------------- what the user sees


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and r.name.startswith("growkit_plugins")]


def test_a_run_in_which_nothing_can_be_split_says_why_once(caplog):
    model, plugin = settle(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))), Splitting(1.0)
    for _ in range(3):
        assert grow(model, data((3,), (2,)), plugin) is None
    (warning,) = warnings_in(caplog)
    assert warning.startswith("splitting finds nothing to split: '0' and 1 more: ")
    assert CANCEL in warning


def test_one_whose_widths_are_all_frozen_says_where_to_look(caplog):
    assert grow(settle(nn.Sequential(nn.Linear(3, 2))), data((3,), (2,)), Splitting(1.0)) is None
    (warning,) = warnings_in(caplog)
    assert "growkit inspect" in warning


@pytest.mark.parametrize("mass", [1.0, 3.0])
def test_one_in_which_no_split_helps_says_so_once(mass, caplog):
    model, plugin = settle(mlp(3, 4, 2)), Splitting(1.0, mass=mass)
    for _ in range(2):
        assert grow(model, data((3,), (2,)), plugin, lambda m, batch: 0 * squared_error(m, batch)) is None
    (warning,) = warnings_in(caplog)
    assert "no neuron whose split would lower the loss" in warning


def test_a_run_that_grows_warns_of_nothing(caplog):
    model = settle(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)))
    assert grow(model, data((3,), (2,)), Splitting(1.0)) is not None
    assert not warnings_in(caplog)
