"""Blocks that start as the identity, after any module."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from small_models import Apply
from torch import Tensor, nn

import growkit
from growkit import Deepen, Journal, SurgeryError, Widen


class Net(nn.Module):
    """Layers called by name, one of them with a keyword, one of whose attributes the forward pass reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.mix = Apply(lambda m, x, scale: m.linear(x) * scale, linear=nn.Linear(4, 6))
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu().mean((2, 3)) / self.conv.out_channels
        x = self.mix(x, 2.0)
        for layer in self.layers:
            x = layer(x).tanh()
        return self.head(x)


def network() -> Net:
    torch.manual_seed(0)
    return Net().double()


X = torch.randn(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

PLACES = {
    "a convolution": Deepen("conv", "conv2d", 4),
    "a module of its own": Deepen("mix", "linear", 6, hidden=3),
    "an element of a list": Deepen("layers.0", "linear", 6),
    "the last layer": Deepen("head", "linear", 3),
    "a layer without a residual branch": Deepen("conv", "conv2d", 4, residual=False),
    "a linear layer without a residual branch": Deepen("layers.1", "linear", 6, residual=False),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_block_after_any_module_preserves_the_function(place):
    model = network()
    before = model(X)
    optimizer = torch.optim.Adam(model.parameters())
    change = growkit.apply(model, PLACES[place], example=(X,), optimizers=[optimizer])
    assert (model(X) - before).abs().max() <= 1e-12
    assert change.moved <= 1e-12
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("place", PLACES)
def test_what_moved_is_told_and_the_rest_keeps_its_keys(place):
    model = network()
    old = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    change = growkit.apply(model, PLACES[place], example=(X,))
    new = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    assert all(new[change.renamed.get(name, name)] == tensor for name, tensor in old.items())
    moved = {name for name in old if name.startswith(PLACES[place].after + ".")}
    assert change.renamed == {name: f"{PLACES[place].after}.0.{name[len(PLACES[place].after) + 1 :]}" for name in moved}


def test_a_sequence_takes_the_block_and_no_key_changes():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    keys = set(model.state_dict())
    change = growkit.apply(model, Deepen("0", "linear", 4), example=(torch.randn(2, 3).double(),))
    assert change.renamed == {}
    assert keys < set(model.state_dict())


def test_a_block_without_a_residual_branch_is_one_layer_with_the_identity():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    growkit.apply(model, Deepen("1", "linear", 4, residual=False), example=(torch.randn(2, 3),))
    layer = model[2]
    assert isinstance(layer, nn.Linear)
    assert torch.equal(layer.weight, torch.eye(4))
    assert not layer.bias.any()


def test_widths_keep_their_names_and_grow_with_the_block():
    model = network()
    before, names = model(X), set(growkit.trace(model, X).widths)
    growkit.apply(model, Deepen("conv", "conv2d", 4, hidden=3), example=(X,))
    assert names < set(growkit.trace(model, X).widths)
    growkit.apply(model, Widen("layers.0", (0, 2)), example=(X,))
    growkit.apply(model, Widen("conv.1.incoming", (1,)), example=(X,))
    assert (model(X) - before).abs().max() <= 1e-12


def test_the_block_learns():
    model = network()
    growkit.apply(model, Deepen("conv", "conv2d", 4), example=(X,))
    model(X).square().sum().backward()
    assert model.get_parameter("conv.1.outgoing.weight").grad.any()


def test_a_journal_replays_it_and_says_what_was_renamed():
    model, journal = network(), Journal()
    fresh = copy.deepcopy(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for edit in (Deepen("conv", "conv2d", 4), Deepen("conv", "conv2d", 4), Deepen("mix", "linear", 6)):
        journal.append(growkit.apply(model, edit, example=(X,)))
    renamed = Journal.from_json(journal.to_json()).replay(fresh, example=(X,))
    assert set(fresh.state_dict()) == set(model.state_dict())
    assert renamed["conv.weight"] == "conv.0.0.weight"
    for name, tensor in state.items():
        assert torch.equal(fresh.state_dict()[renamed.get(name, name)], tensor)


def test_the_grown_model_is_a_module_like_any_other():
    model = network()
    growkit.apply(model, Deepen("mix", "linear", 6), example=(X,))
    expected = model(X)
    assert torch.equal(copy.deepcopy(model)(X), expected)
    growkit.apply(model := network(), Deepen("conv", "conv2d", 4), example=(X,))
    state = pickle.loads(pickle.dumps(model.conv))
    assert torch.equal(state(X), model.conv(X))
    assert model.conv.out_channels == 4


@pytest.mark.parametrize("edit", [Deepen("conv", "conv2d", 5), Deepen("mix", "linear", 7, residual=False)])
def test_a_block_that_does_not_fit_leaves_everything(edit):
    model = network()
    keys, output = list(model.state_dict()), model(X)
    with pytest.raises(SurgeryError, match="does not run"):
        growkit.apply(model, edit, example=(X,))
    assert list(model.state_dict()) == keys
    assert torch.equal(model(X), output)


def test_a_plain_layer_has_no_hidden_units():
    with pytest.raises(SurgeryError, match="describes no block"):
        Deepen("conv", "conv2d", 4, hidden=2, residual=False)


def test_a_copy_keeps_the_block_whatever_the_module_says_of_copies():
    model = nn.Sequential()
    model.body = Apply(lambda m, x: m.layer(x), layer=nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)))
    growkit.apply(model, Deepen("body.layer", "linear", 4), example=(torch.randn(2, 3),))
    nn.init.normal_(model.get_parameter("body.layer.1.outgoing.weight"))
    copied, x = copy.deepcopy(model), torch.randn(2, 3)
    assert copied.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(copied(x), model(x))


IDLE = {
    "parameters that a function uses": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        "out_proj",
        (torch.randn(2, 5, 4),) * 3,
    ),
    "a module that nothing uses": (
        lambda: Apply(lambda m, x: m.used(x), used=nn.Linear(3, 4), unused=nn.Linear(3, 4)),
        "unused",
        (torch.randn(2, 3),),
    ),
    "a sequence that is indexed": (
        lambda: Apply(lambda m, x: m.layers[0](x), layers=nn.Sequential(nn.Linear(3, 4))),
        "layers.0",
        (torch.randn(2, 3),),
    ),
}


@pytest.mark.parametrize("case", IDLE)
def test_a_block_that_would_never_run_is_refused(case, unchanged):
    build, after, example = IDLE[case]
    model = build()
    optimizer = torch.optim.Adam(model.parameters())
    with unchanged(model, optimizer), pytest.raises(SurgeryError, match=f"after '{after}'\n.*did not run"):
        growkit.apply(model, Deepen(after, "linear", 4), example=example, optimizers=[optimizer])
