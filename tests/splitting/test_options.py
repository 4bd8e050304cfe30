"""What the settings of the plugin do: shares, names, seeds, rounds, statistics, restarts."""

from __future__ import annotations

import copy

import pytest
import torch
from growth.stubs import Asks, has_four_parts, mlp
from splitting.helpers import data, data_for, dense, grow, law_holds, matrices_of, settle
from splitting.networks import NETWORKS, of
from torch import nn

import growkit
from growkit_plugins.splitting import Splitting


def offered(plugin: Splitting, model: nn.Module, batches: list) -> list[growkit.Candidate]:
    """What a plugin proposes; nothing is grown."""
    candidates: list[growkit.Candidate] = []
    grow(copy.deepcopy(model), batches, Asks(lambda context: candidates.extend(plugin.growkit_propose(context))))
    return candidates


@pytest.mark.parametrize("method", ["fast", "exact"])
def test_the_share_is_one_of_all_neurons_of_all_layers_and_the_best_of_them(method):
    torch.manual_seed(0)
    model = settle(mlp(3, 6, 6, 2, activation=nn.Tanh))
    batches = data((3,), (2,))
    found = matrices_of(copy.deepcopy(model), batches)
    indices = torch.cat([torch.linalg.eigvalsh(dense(found, n.width))[:, 0] for n in found.neurons]).sort().values
    assert (indices < 0).sum() > 6
    for fraction, count in ((0.01, 1), (0.25, 3), (0.5, 6)):
        plugin = Splitting(fraction, step=1.0, tolerance=0.0, method=method)
        gains = torch.tensor([candidate.gain for candidate in offered(plugin, model, batches)]).double()
        torch.testing.assert_close(gains, -0.5 * indices[:count], rtol=1e-6, atol=0)


def test_names_choose_the_widths():
    model = settle(mlp(3, 5, 4, 2, activation=nn.Softplus))
    happened = grow(model, data((3,), (2,)), Splitting(1.0, widths=["2"]))
    assert {edit.width for edit in happened.change.edits} == {"2"}


def test_no_width_of_that_name_is_an_error_that_names_the_widths():
    with pytest.raises(growkit.StructureError, match="no width matches '9'") as caught:
        grow(settle(mlp(3, 5, 2)), data((3,), (2,)), Splitting(1.0, widths=["0", "9"]))
    assert has_four_parts(caught.value)
    assert "'0'" in caught.value.seen


@pytest.mark.parametrize(
    "options",
    [
        *({"fraction": 0}, {"fraction": 1.1}, {"step": 0}, {"step": -1.0}, {"batches": 0}, {"beta": 0.0}),
        *({"beta": -3.0}, {"method": "slow"}, {"tolerance": -0.1}, {"products": 1}, {"mass": 0.9}),
        *({"offspring": 1}, {"offspring": 5}, {"rounds": -1}, {"norm_statistics": "measure"}),
        *({"fraction": float("nan")}, {"step": float("nan")}, {"mass": float("nan")}),
        *({"step": float("inf")}, {"mass": float("inf")}, {"beta": float("inf")}, {"widths": "blocks.*"}),
    ],
)
def test_settings_that_make_no_sense(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"Splitting takes {name} "):
        Splitting(**options)


@pytest.mark.parametrize("mass", [1.0, 3.0])
def test_the_same_seed_splits_the_same_neurons_in_the_same_directions(mass):
    weights = []
    batches = data((3,), (2,))
    for noise in (5, 6):
        torch.manual_seed(0)
        model = settle(mlp(3, 6, 6, 2))
        torch.manual_seed(noise)
        grow(model, batches, Splitting(0.5, mass=mass))
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(map(torch.equal, *weights))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype):
    model = mlp(3, 4, 4, 2).to(dtype)
    batches = [(inputs.to(dtype), targets.to(dtype)) for inputs, targets in data((3,), (2,), count=20)]
    happened = grow(model, batches, Splitting(0.5))
    assert happened.note["gain"] > 0
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_as_many_batches_as_are_asked_for():
    batches = data((3,), (2,), batches=5)
    model = settle(mlp(3, 4, 2))
    contexts = []

    def ask(context):
        contexts.append(context)
        return Splitting(1.0, batches=3).growkit_propose(context)

    grow(model, batches, Asks(ask))
    assert contexts[0].looked_at == 3


# ---------------------------------------------------------------- rounds and restarts


def test_no_more_rounds_than_asked_for():
    model = settle(mlp(3, 4, 2))
    batches, journal = data((3,), (2,)), growkit.Journal()
    happened = [grow(model, batches, Splitting(0.3, rounds=2), journal=journal) for _ in range(4)]
    assert [event is not None for event in happened] == [True, True, False, False]
    assert grow(settle(mlp(3, 4, 2)), batches, Splitting(0.3, rounds=0)) is None


def test_rounds_of_others_do_not_count():
    model = settle(mlp(3, 4, 2))
    batches, journal = data((3,), (2,)), growkit.Journal()
    other = Asks(lambda context: [growkit.Candidate(growkit.Widen("0", copies=[0]))], name="other")
    grow(model, batches, other, journal=journal)
    assert grow(model, batches, Splitting(0.3, rounds=1), journal=journal) is not None
    assert grow(model, batches, Splitting(0.3, rounds=1), journal=journal) is None


def test_schedules_restart_after_its_own_events_if_that_is_wanted():
    batches = data((3,), (2,))
    plugin = Splitting(0.3, restart=True)
    happened = grow(settle(mlp(3, 4, 2)), batches, plugin)
    assert plugin.growkit_rewarm(event=happened) == growkit.Rewarm(restart=True)
    assert Splitting(0.3).growkit_rewarm(event=happened) is None
    other = Asks(lambda context: [growkit.Candidate(growkit.Widen("0", copies=[0]))], name="other")
    assert plugin.growkit_rewarm(event=grow(settle(mlp(3, 4, 2)), batches, other)) is None


# ---------------------------------------------------------------- running statistics


def measured(model: nn.Sequential, norm: int, batches: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of what arrives at a norm, as averages over batches."""
    with torch.no_grad():
        outputs = [model[:norm](inputs).transpose(0, 1).flatten(1) for inputs, _ in batches]
    means, variances = zip(*((each.mean(1), each.var(1, correction=0)) for each in outputs), strict=True)
    return torch.stack(means).mean(0), torch.stack(variances).mean(0)


@pytest.mark.parametrize("mass", [1.0, 3.0])
@pytest.mark.parametrize("batches", [1, 2])
def test_statistics_follow_the_offspring(batches, mass):
    """They are off from those of the batches as those of the originals were: means by as much, variances in ratio."""
    model = settle(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(16, 2)))
    data_ = data_for(model, (2, 4, 4), batches=batches)
    mean, variance = measured(model, 1, data_)
    norm = model[1]
    off = norm.running_mean - mean, norm.running_var / variance
    plugin = Splitting(0.5, step=0.1, batches=batches, mass=mass, norm_statistics="follow")
    happened = grow(model, data_, plugin)
    origins = [*range(4), *happened.change.edits[0].copies]
    assert len(origins) == len(norm.running_mean) > 4
    mean, variance = measured(model, 1, data_)
    torch.testing.assert_close(norm.running_mean - mean, off[0][origins])
    tolerance = {} if batches == 1 else {"rtol": 0.05, "atol": 0.0}  # a mean of ratios is no ratio of means
    torch.testing.assert_close(norm.running_var / variance, off[1][origins], **tolerance)


def test_statistics_of_a_norm_that_is_called_twice_follow_the_mean_of_the_calls():
    """The same layer and norm look at two inputs."""
    model = settle(
        of(
            lambda m, x: m.out(m.norm(m.a(x)).tanh()) + m.out(m.norm(m.a(x.flip(1))).sin()),
            **{"a": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4), "out": nn.Linear(4, 2)},
        )
    )
    ((inputs, _),) = batches = data((3,), (2,))

    def off() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            calls = torch.stack([model.a(inputs), model.a(inputs.flip(1))])
        return model.norm.running_mean - calls.mean((0, 1)), calls.var(1, correction=0)

    (mean, variances), value = off(), model.norm.running_var.clone()
    happened = grow(model, batches, Splitting(0.5, step=0.1, norm_statistics="follow"))
    origins = [*range(4), *happened.change.edits[0].copies]
    new_mean, new_variances = off()
    torch.testing.assert_close(new_mean, mean[origins])
    expected = value[origins] * (new_variances / variances[:, origins]).mean(0)
    torch.testing.assert_close(model.norm.running_var, expected)


def test_statistics_are_copied_by_default_and_the_law_is_for_that():
    network = NETWORKS["depthwise separable block"]
    model = settle(network.build())
    before = model[1].running_var.clone()
    happened = law_holds(model, data_for(model, network.shape), widths=["0"])
    origins = [*range(4), *happened.change.edits[0].copies]
    assert torch.equal(model[1].running_var, before[origins])


def test_following_statistics_leaves_layers_without_norms_alone():
    model = settle(mlp(3, 4, 2, activation=nn.Softplus))
    law_holds(model, data((3,), (2,)), norm_statistics="follow")
