"""What cannot be split is refused, with the reason; never split wrongly."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from growth.stubs import mlp
from splitting.helpers import (
    assert_any_direction_obeys,
    data,
    data_for,
    grow,
    matrices_of,
    neurons_of,
    settle,
    squared_error,
)
from splitting.networks import hidden, of
from torch import nn

import growkit
from growkit_plugins.splitting import Splitting, SplittingMatrices

CANCEL = "without an activation in between"
LOST = "not all that its units run through could be followed"
NO_LAYER = "no linear layer or convolution with weights to train"
UNIFORM = "cannot be split one by one"
MIXED = "does not run over its units alone"


class Sine(torch.autograd.Function):
    """A sine whose derivative is one of its own making: that of a straight line."""

    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def attention(model, x):
    scores = model.query(x) @ model.key(x).transpose(1, 2)
    return model.out(scores.softmax(-1) @ model.value(x))


def fused_attention(model, x):
    return model.out(F.scaled_dot_product_attention(model.query(x), model.key(x), model.value(x)))


def projections(forward: Callable) -> nn.Module:
    parts = {name: nn.Linear(3, 4) for name in ("query", "key", "value")}
    return of(forward, **parts, out=nn.Linear(4, 2))


def parallel(model, x):
    """One layer makes query, key, value and the hidden features of an MLP, as in PaLM."""
    query, key, value, features = model.fused(x).split([4, 4, 4, model.back.weight.shape[1]], -1)
    return model.out((query @ key.transpose(1, 2)).softmax(-1) @ value) + model.back(F.gelu(features))


def changed_constant(model, x):
    shift = model.scale.clone()
    z = model.a(x) + shift
    shift.mul_(2)  # nothing that autograd has to keep
    return model.out(z.tanh())


def changed_in_part(model, x):
    features = model.a(x).sin()
    features[:2].mul_(3)
    return model.out(features)


def written_elsewhere(model, x):
    features = model.a(x)
    result = torch.zeros_like(features)
    result[:] = features.tanh()
    return model.out(result)


def written_behind_a_pool(model, x):
    """What is behind the pool is curved, and no function of units that anybody could see."""
    pooled = F.avg_pool1d(model.a(x).tanh(), 2)
    result = model.zeros.expand(pooled.shape).clone()
    result[:] = pooled
    return model.out(result.sin().mean(2))


def gated_by_hand(model, x):
    """A cell of torch's: one function, whatever it is made of."""
    return model.out(model.cell(x[:, 1], model.cell(x[:, 0])))


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    # model, shape of the input, name of the width, reason
    "no activation": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (3,), "0", CANCEL),
    "values of attention": (lambda: projections(attention), (5, 3), "value", CANCEL),
    "queries and keys": (lambda: projections(attention), (5, 3), "query", CANCEL),
    "values of fused attention": (lambda: projections(fused_attention), (5, 3), "value", CANCEL),
    "queries of fused attention": (lambda: projections(fused_attention), (5, 3), "query", CANCEL),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)),
        *((3,), "0", UNIFORM),
    ),
    "softmax over units": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 2)), (3,), "0", UNIFORM),
    "a norm over groups": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 2)),
        *((2, 4), "0.weight", UNIFORM),
    ),
    "grouped convolution": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 1, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)),
        *((2, 3), "0", MIXED),
    ),
    "several channels for each channel before": (
        lambda: nn.Sequential(
            *(nn.Conv1d(2, 3, 1), nn.Tanh(), nn.Conv1d(3, 6, 1, groups=3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 2))
        ),
        *((2, 3), "0", MIXED),
    ),
    "frozen layer": (
        lambda: of(lambda m, x: m.out(m.a(x).tanh()), a=nn.Linear(3, 4).requires_grad_(False), out=nn.Linear(4, 2)),
        *((3,), "a", NO_LAYER),
    ),
    "recurrent layer of torch": (
        lambda: of(lambda m, x: m.out(m.layer(x)[0]), layer=nn.LSTM(3, 4, batch_first=True), out=nn.Linear(4, 2)),
        *((5, 3), "layer", NO_LAYER),
    ),
    "recurrent cell of torch": (
        lambda: of(gated_by_hand, cell=nn.GRUCell(3, 4), out=nn.Linear(4, 2)),
        *((2, 3), "cell", NO_LAYER),
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Softplus(), nn.Linear(4, 2)),
        *((3,), "0.parametrizations.weight", NO_LAYER),
    ),
    "a weight on the left": (
        lambda: of(
            lambda m, x: (m.w @ x.T).tanh().T @ m.v,
            w=nn.Parameter(torch.randn(4, 3)),
            v=nn.Parameter(torch.randn(4, 2)),
        ),
        *((3,), "w", NO_LAYER),
    ),
    "a function with a derivative of its own": (
        lambda: hidden(lambda m, x: m.out(Sine.apply(m.a(x)))),
        *((3,), "a", LOST),
    ),
    "a part of it with a derivative of its own": (
        lambda: hidden(lambda m, x: m.out(Sine.apply(z := m.a(x)) + z.tanh())),
        *((3,), "a", LOST),
    ),
    "dropout that never rests": (lambda: hidden(lambda m, x: m.out(F.dropout(m.a(x)).tanh())), (3,), "a", LOST),
    "a part changed in place": (lambda: hidden(changed_in_part), (3,), "a", LOST),
    "written into another tensor": (lambda: hidden(written_elsewhere), (3,), "a", f"{LOST}|{CANCEL}"),
    "written into another tensor behind a pool": (
        lambda: of(written_behind_a_pool, a=nn.Conv1d(3, 4, 1), out=nn.Linear(4, 2), zeros=torch.zeros(1, 4, 1)),
        *((3, 4), "a", LOST),
    ),
    "no part in the loss": (
        lambda: hidden(
            lambda m, x: m.out(m.a(x).tanh()) + m.other(m.b(x).tanh()).detach(),
            b=nn.Linear(3, 4),
            other=nn.Linear(4, 2),
        ),
        *((3,), "b", "no part in the loss"),
    ),
    "joined before their norm": (
        lambda: of(
            lambda m, x: m.out(m.norm(torch.cat([m.a(x), m.b(x)], 1)).tanh()),
            **{"a": nn.Linear(3, 4), "b": nn.Linear(3, 5), "norm": nn.BatchNorm1d(9), "out": nn.Linear(9, 2)},
        ),
        *((3,), "a", MIXED),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused_with_a_reason(name):
    make, shape, width, reason = REFUSED[name]
    model = settle(make())
    found = matrices_of(model, data_for(model, shape))
    assert width in found.refused, (found.refused, list(neurons_of(found)))
    assert re.search(reason, found.refused[width]), found.refused
    assert width not in neurons_of(found)


def test_nothing_of_a_parallel_block_is_split_since_one_layer_makes_it_all():
    model = settle(
        of(parallel, fused=nn.Linear(3, 17), back=nn.Linear(5, 2), out=nn.Linear(4, 2)),
    )
    found = matrices_of(model, data_for(model, (4, 3)))
    assert not found.neurons
    assert all(MIXED in reason or UNIFORM in reason for reason in found.refused.values())


def test_constants_that_change_later_are_refused_or_split_as_they_were():
    model = settle(hidden(changed_constant, scale=torch.rand(4)))
    assert_any_direction_obeys(model, data((3,), (2,)))


def test_a_norm_that_follows_its_batch_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double().train()
    found = matrices_of(model, data((3,), (2,)))
    assert not found.neurons
    assert "batch_norm with the statistics of their batch" in found.refused["0"]


def test_a_layer_that_was_not_called_is_refused():
    model = settle(
        hidden(
            lambda m, x: m.out(m.a(x).tanh()) + (m.b(x).tanh().sum() if m.both else 0),
            b=nn.Linear(3, 4),
        )
    )
    batches = data((3,), (2,))
    model.both = True
    structure = growkit.trace(model, batches[0][0])
    model.both = False
    found = SplittingMatrices(model, structure, lambda batch: squared_error(model, batch), batches)
    assert set(neurons_of(found)) == {"a"}
    assert "b" not in found.refused or "none of the layers" in found.refused["b"] or UNIFORM in found.refused["b"]


def test_what_the_loss_itself_makes_of_the_units_is_refused():
    """A penalty on activations: the sum over the units is none of the model's."""
    model = settle(mlp(3, 4, 2))

    def loss(model, batch):
        return squared_error(model, batch) + model[1](model[0](batch[0])).square().mean()

    assert LOST in matrices_of(model, data((3,), (2,)), loss).refused["0"]


def test_nor_is_what_it_makes_of_their_means():
    model = settle(nn.Sequential(nn.Conv1d(3, 4, 1), nn.Tanh(), nn.AvgPool1d(4), nn.Flatten(), nn.Linear(4, 2)))

    def loss(model, batch):
        return squared_error(model, batch) + model[:3](batch[0]).square().mean()

    assert LOST in matrices_of(model, data((3, 4), (2,)), loss).refused["0"]


def test_a_penalty_on_the_gradient_by_the_input_is_refused():
    """The loss depends on the slope of the activation, too."""
    model = settle(mlp(3, 4, 2))

    def loss(model, batch):
        inputs = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
        return squared_error(model, batch) + slope.square().mean()

    assert LOST in matrices_of(model, data((3,), (2,)), loss).refused["0"]


def test_another_layers_part_of_the_loss_does_not_hinder():
    """Weight decay in the loss looks at weights that share out the units, and at nothing else."""
    model = settle(mlp(3, 4, 3, 2))

    def loss(model, batch):
        return squared_error(model, batch) + 0.1 * model[0].weight.square().sum()

    assert set(neurons_of(matrices_of(model, data((3,), (2,)), loss))) == {"0", "2"}


def test_a_model_with_frozen_layers_and_a_trainable_head_does_not_stop_the_run():
    """Fine-tuning: nothing before the head needs a gradient."""
    model = settle(mlp(3, 4, 4, 2))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    assert grow(model, data((3,), (2,)), Splitting(1.0)) is None


def test_a_loss_without_gradient_does_not_stop_the_run():
    model = settle(mlp(3, 4, 2)).requires_grad_(False)
    assert grow(model, data((3,), (2,)), Splitting(1.0)) is None


def test_a_frozen_bias_stays():
    model = settle(mlp(3, 4, 2))
    model[0].bias.requires_grad_(False)
    (neurons,) = matrices_of(model, data((3,), (2,))).neurons
    assert list(neurons.rows) == ["0.weight"]


def test_widths_that_are_passed_over_are_logged(caplog):
    model = settle(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)))
    with caplog.at_level("INFO", logger="growkit_plugins.splitting.plugin"):
        grow(model, data((3,), (2,)), Splitting(1.0))
    assert "'0'" in caplog.text
    assert CANCEL in caplog.text
