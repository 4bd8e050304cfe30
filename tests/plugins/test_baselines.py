"""The baselines: growth that does not look at the loss."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from growth.stubs import Proposes, Selects, event, mlp
from torch import nn

import growkit
from growkit_plugins.baselines import Net2Net, RandomUnits

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
        context = growkit.Context(
            structure,
            growkit.Journal(),
            step=0,
            epoch=0,
            seed=seed,
            loss=lambda model, batch: batch,
            batches=lambda n: [],
        )
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


@pytest.mark.parametrize("plugin", [Net2Net(1.0), RandomUnits(1.0)])
def test_a_budget_that_ends_early_favours_no_width(plugin):
    """Two equal widths, room for four of twelve units: over some seeds, both get about the same."""
    reached: Counter[str] = Counter()
    structure = growkit.trace(mlp(6, 6, 6, 6), X)
    room = growkit.Budget(parameters=structure.parameters() + 5 * 13)
    for seed in range(12):
        context = growkit.Context(
            structure,
            growkit.Journal(),
            step=0,
            epoch=0,
            seed=seed,
            loss=lambda model, batch: batch,
            batches=lambda n: [],
        )
        happened = event(mlp(6, 6, 6, 6), Proposes(*plugin.growkit_propose(context)), example=(X,), budget=room)
        reached.update({width: sum(pair) for width, pair in units(happened).items()})
    assert sum(reached.values()) == 4 * 12
    assert min(reached["0"], reached["2"]) >= 16


class UnderLayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.stream, self.norm = nn.Linear(6, 4), nn.LayerNorm(4)
        self.hidden, self.out = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.hidden(self.norm(self.stream(x))).relu())


@pytest.mark.parametrize("plugin", [Net2Net(1.0), Net2Net(1.0, noise=0.1), RandomUnits(1.0)])
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


@pytest.mark.parametrize("plugin", [Net2Net, RandomUnits])
def test_names_choose_the_widths(plugin):
    for patterns, expected in ((["3"], ["3"]), (["[03]"], ["0", "3"]), (["nothing"], None)):
        happened = event(convnet(), plugin(0.5, widths=patterns), example=(IMAGES,))
        assert expected == (happened and sorted(edit.width for edit in happened.change.edits))


@pytest.mark.parametrize("plugin", [Net2Net, RandomUnits])
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
