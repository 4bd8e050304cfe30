"""The baselines: growth that does not look at the loss."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch
from growth.stubs import Proposes, Selects, event, mlp
from torch import nn

import growkit
from growkit_plugins.baselines import Net2Net, RandomSplit, RandomUnits

X = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(8, 6)
EVERYTHING = Selects(lambda candidates, budget, context: candidates)


def convnet() -> nn.Sequential:
    model = nn.Sequential(
        *(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
        ),
        *(nn.Flatten(), nn.Linear(6 * 4, 5), nn.ReLU(), nn.Linear(5, 2)),
    ).double()
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight), nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


IMAGES = torch.linspace(-1, 1, 2 * 36, dtype=torch.float64).reshape(2, 1, 6, 6)


def context_of(structure: growkit.Structure, seed: int) -> growkit.Context:
    """What a plugin may look at that needs no data."""
    return growkit.Context(
        structure,
        growkit.Journal(),
        step=0,
        epoch=0,
        seed=seed,
        example=(X,),
        loss=lambda model, batch: batch,
        batches=lambda n: [],
    )


def units(happened: growkit.Event) -> dict[str, tuple[int, int]]:
    """Number of copies and of new units of each width."""
    return {edit.width: (len(edit.copies), edit.new) for edit in happened.change.edits}


@pytest.mark.parametrize("plugin", [Net2Net, RandomUnits])
@pytest.mark.parametrize("fraction", [0.01, 0.5, 1.0])
def test_growth_is_exact_and_takes_the_same_share_of_every_width(plugin, fraction):
    model = convnet()
    before = model(IMAGES)
    happened = event(model, plugin(fraction), example=(IMAGES,))
    assert happened.change.moved <= 1e-10
    torch.testing.assert_close(model(IMAGES), before, rtol=0, atol=1e-10)
    position = 0 if plugin is Net2Net else 1
    counts = {width: pair[position] for width, pair in units(happened).items()}
    assert counts == {
        "0": max(1, round(4 * fraction)),
        "3": max(1, round(6 * fraction)),
        "7": max(1, round(5 * fraction)),
    }
    assert {pair[1 - position] for pair in units(happened).values()} == {0}


def test_no_unit_is_copied_twice_in_one_event():
    model = mlp(6, 8, 8, 2)
    happened = event(model, Net2Net(0.75), example=(X,))
    for edit in happened.change.edits:
        assert len(edit.copies) == 6
        assert max(Counter(edit.copies).values()) == 1


def test_other_seeds_copy_other_units():
    structure, drawn = growkit.trace(mlp(6, 8, 8, 2), X), set()
    for seed in range(8):
        context = context_of(structure, seed)
        drawn.add(tuple((c.edit.width, c.edit.copies) for c in Net2Net(0.25).growkit_propose(context)))
    assert len(drawn) == 8


def test_noise_moves_copies_only_and_by_the_right_scale():
    torch.manual_seed(0)
    model = mlp(300, 40, 30, 2)
    with torch.no_grad():
        model[0].weight.mul_(3.0)
    scale = model[0].weight.std().item()
    x = torch.randn(2, 300).double()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    happened = event(model, Net2Net(0.5, noise=0.1), EVERYTHING, example=(x,))
    copies = dict((edit.width, list(edit.copies)) for edit in happened.change.edits)["0"]
    weight, bias = model[0].weight.detach(), model[0].bias.detach()
    assert torch.equal(weight[:40], before["0.weight"])
    assert torch.equal(bias, torch.cat([before["0.bias"], before["0.bias"][copies]]))
    moved = weight[40:] - before["0.weight"][copies]
    assert moved.shape == (20, 300)
    assert moved.std().item() == pytest.approx(0.1 * scale, rel=0.05)
    assert abs(moved.mean().item()) < 0.01 * scale
    assert (moved.abs() > 0).all()


def test_noise_of_a_layer_whose_inputs_were_copied_too_is_shared_out_like_its_weights():
    """The columns of a copied input are halves of what they were, and so is the noise on them."""
    torch.manual_seed(0)
    model = mlp(6, 20, 200, 2)
    before = model[2].weight.detach().clone()
    happened = event(model, Net2Net(1.0, noise=0.5), EVERYTHING, example=(X,))
    edits = {edit.width: list(edit.copies) for edit in happened.change.edits}
    columns = [*range(20), *edits["0"]]
    moved = model[2].weight.detach()[200:] - 0.5 * before[edits["2"]][:, columns]
    assert moved.std().item() == pytest.approx(0.5 * 0.5 * before.std().item(), rel=0.05)


def test_noise_breaks_the_symmetry_a_little_and_none_does_not():
    outputs = {}
    for noise in (0.0, 1e-4):
        torch.manual_seed(0)
        model = convnet()
        before = model(IMAGES)
        event(model, Net2Net(1.0, noise=noise), example=(IMAGES,))
        outputs[noise] = (model(IMAGES) - before).abs().max().item()
    assert outputs[0.0] < 1e-10 < outputs[1e-4] < 1e-2


def test_new_units_have_fresh_incoming_and_no_outgoing_weights_and_a_neutral_norm():
    model = convnet()
    event(model, RandomUnits(0.5), example=(IMAGES,))
    conv, norm, following = model[0], model[1], model[3]
    assert conv.weight.shape == (6, 1, 3, 3)
    fresh = conv.weight.detach()[4:].flatten(1)
    assert (fresh.abs() > 0).all()
    assert fresh.abs().max() <= 1 / 3  # as Conv2d initialises itself: uniform in +- 1 / sqrt(fan in)
    assert fresh.abs().max() > 0.1
    assert not torch.equal(fresh[0], fresh[1])
    assert norm.weight[4:].tolist() == norm.running_var[4:].tolist() == [1.0, 1.0]
    assert norm.bias[4:].tolist() == norm.running_mean[4:].tolist() == [0.0, 0.0]
    assert torch.equal(following.weight.detach()[:6, 4:], torch.zeros(6, 2, 3, 3).double())
    linear = model[7]
    assert linear.weight.shape == (5 + 2, 9 * 4)
    assert torch.equal(linear.weight.detach()[:5, 24:], torch.zeros(5, 12).double())


def test_new_units_learn():
    """Zero outgoing weights have a gradient, unlike zero everything."""
    model = mlp(6, 4, 1)
    event(model, RandomUnits(0.5), example=(X,))
    model(X).square().sum().backward()
    assert (model[2].weight.grad[:, 4:].abs() > 0).all()


@pytest.mark.parametrize("plugin", [Net2Net(1.0), RandomUnits(1.0), RandomSplit(1.0), RandomSplit(1.0, even=True)])
def test_a_budget_that_ends_early_favours_no_width(plugin):
    """Two equal widths, room for four or five of twelve units: over some seeds, both get about the same."""
    reached: Counter[str] = Counter()
    structure = growkit.trace(mlp(6, 6, 6, 6), X)
    room = growkit.Budget(parameters=structure.parameters() + 5 * 13)
    for seed in range(12):
        context = context_of(structure, seed)
        happened = event(mlp(6, 6, 6, 6), Proposes(*plugin.growkit_propose(context)), example=(X,), budget=room)
        reached.update({width: sum(pair) for width, pair in units(happened).items()})
    assert 4 * 12 <= sum(reached.values()) <= 5 * 12  # a fifth has room where all lie in one width
    assert min(reached["0"], reached["2"]) >= 16


class UnderLayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.stream, self.norm = nn.Linear(6, 4), nn.LayerNorm(4)
        self.hidden, self.out = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.hidden(self.norm(self.stream(x))).relu())


@pytest.mark.parametrize("plugin", [Net2Net(1.0), Net2Net(1.0, noise=0.1), RandomUnits(1.0), RandomSplit(1.0)])
def test_widths_that_only_uniform_copying_preserves_are_passed_over(plugin):
    model = UnderLayerNorm().double()
    happened = event(model, plugin, example=(X,))
    assert [edit.width for edit in happened.change.edits] == ["hidden"]


def test_new_units_pass_over_widths_that_take_copies_only():
    class Maximum(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.skip = nn.Linear(6, 4), nn.Linear(6, 2)

        def forward(self, x):
            return self.hidden(x).amax(-1, keepdim=True) * self.skip(x)

    model = Maximum().double()
    assert event(model, RandomUnits(1.0), example=(X,)) is None
    assert units(event(model, Net2Net(1.0), example=(X,))) == {"hidden": (4, 0)}


@pytest.mark.parametrize("plugin", [Net2Net, RandomUnits, partial(RandomSplit, even=True)])
def test_names_choose_the_widths(plugin):
    for patterns, expected in ((["3"], ["3"]), (["[03]"], ["0", "3"]), (["nothing"], None)):
        happened = event(convnet(), plugin(0.5, widths=patterns), example=(IMAGES,))
        assert expected == (happened and sorted(edit.width for edit in happened.change.edits))


@pytest.mark.parametrize("plugin", [Net2Net, RandomUnits, RandomSplit])
@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan")])
def test_a_fraction_is_a_share(plugin, fraction):
    with pytest.raises(ValueError, match="fraction must lie in"):
        plugin(fraction)


def test_a_layer_with_a_single_weight_can_be_copied_with_noise():
    model = mlp(1, 1, 1)
    x = X[:, :1]
    event(model, Net2Net(1.0, noise=0.1), example=(x,))
    assert model[0].weight.shape == (2, 1)
    assert torch.isfinite(model[0].weight).all()


@pytest.mark.parametrize("fraction", [0.01, 0.3, 1.0])
def test_random_splits_are_a_share_of_all_units_of_all_widths_together(fraction):
    """As many as splitting would take of the 4 + 6 + 5 units, none twice."""
    happened = event(convnet(), RandomSplit(fraction), example=(IMAGES,))
    copies = [(edit.width, unit) for edit in happened.change.edits for unit in edit.copies]
    assert len(copies) == len(set(copies)) == max(1, round(15 * fraction))


def test_every_unit_is_split_equally_often_wherever_it_is():
    """600 draws of 3 of 15 units: each is drawn 120 times, give or take 10 (one standard deviation)."""
    structure, drawn = growkit.trace(convnet(), IMAGES), Counter()
    for seed in range(600):
        for candidate in RandomSplit(0.2).growkit_propose(context_of(structure, seed)):
            drawn[candidate.edit.width, candidate.edit.copies[0]] += 1
    assert len(drawn) == 15
    assert all(abs(count - 120) < 40 for count in drawn.values())


def test_even_random_splits_widen_uniformly():
    happened = event(convnet(), RandomSplit(0.5, even=True), example=(IMAGES,))
    assert units(happened) == {"0": (2, 0), "3": (3, 0), "7": (2, 0)}


def test_offspring_part_by_a_step_in_opposite_directions_and_share_the_outgoing_weights():
    model = mlp(6, 4, 5, 2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    happened = event(model, RandomSplit(1.0, step=0.1, widths=["0"]), EVERYTHING, example=(X,))
    copies = list(happened.change.edits[0].copies)
    weight, bias = model[0].weight.detach(), model[0].bias.detach()
    up = torch.cat([weight[copies], bias[copies, None]], dim=1)
    down = torch.cat([weight[4:], bias[4:, None]], dim=1)
    parent = torch.cat([before["0.weight"], before["0.bias"][:, None]], dim=1)[copies]
    torch.testing.assert_close((up + down) / 2, parent)
    torch.testing.assert_close((up - parent).norm(dim=1), torch.full((4,), 0.1).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(model[2].weight.detach()[:, 4:], 0.5 * before["2.weight"][:, copies])


def test_directions_are_uniform_on_the_sphere():
    """Over many units, weights and bias alike have mean 0 and variance 1 / dimension, and are uncorrelated."""
    structure = growkit.trace(mlp(3, 2000, 1), X[:, :3])
    offsets = [c.offsets for c in RandomSplit(1.0, step=1.0).growkit_propose(context_of(structure, 0))]
    directions = torch.stack([torch.cat([o["0.weight"][0], o["0.bias"][:1]]) for o in offsets])
    assert directions.shape == (2000, 4)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(2000), rtol=1e-5, atol=0)
    assert directions.mean(0).abs().max() < 0.05
    torch.testing.assert_close(directions.T @ directions / 2000, torch.eye(4) / 4, rtol=0, atol=0.03)


def test_random_splits_copy_norms_as_they_are_and_change_the_function_at_second_order():
    changes = {}
    for step in (0.2, 0.02):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(64, 2))
        model = model.double().eval()
        nn.init.uniform_(model[1].weight), nn.init.normal_(model[1].running_mean)
        norm, before = model[1].weight.detach().clone(), model(IMAGES)
        happened = event(model, RandomSplit(1.0, step=step), EVERYTHING, example=(IMAGES,))
        assert torch.equal(model[1].weight.detach()[4:], norm[list(happened.change.edits[0].copies)])
        changes[step] = (model(IMAGES) - before).abs().max().item()
    assert changes[0.2] / changes[0.02] == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("step", [0, -0.1, float("nan")])
def test_a_step_is_positive(step):
    with pytest.raises(ValueError, match="step must lie above 0"):
        RandomSplit(step=step)
