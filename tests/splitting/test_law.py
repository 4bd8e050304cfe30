"""The law: splitting along v changes the loss by step^2 / 2 v^T S v, through real growth events."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from growth.stubs import Asks, Proposes, mlp, widen
from splitting.helpers import STEP, assert_any_direction_obeys, data, data_for, grow, law_holds, mean_loss, settle
from splitting.layers import LAYERS, SMOOTH, even_kernel
from splitting.networks import NETWORKS
from torch import nn

from growkit_plugins.splitting import Splitting


@pytest.mark.parametrize("name", NETWORKS)
def test_any_direction_of_any_neuron(name):
    network = NETWORKS[name]
    model = settle(network.build())
    found = assert_any_direction_obeys(model, data_for(model, network.shape, batches=2))
    assert found >= network.widths


@pytest.mark.parametrize("method", ["exact", "fast"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_best_splits(name, method):
    """The splits of every layer at once."""
    network = NETWORKS[name]
    model = settle(network.build())
    law_holds(model, data_for(model, network.shape), method=method)


@even_kernel
@pytest.mark.parametrize("method", ["exact", "fast"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name, method):
    layers, shape, size = LAYERS[name]
    model = settle(nn.Sequential(*layers(), nn.Softplus(), nn.Flatten(), nn.Linear(size, 2)))
    law_holds(model, data(shape, (2,), batches=2, count=12), fraction=0.01, method=method)


@pytest.mark.parametrize("name", ["GELU", "SiLU in place", "Tanh", "Sigmoid", "Mish", "Softsign", "F.softplus"])
def test_other_activations(name):
    model = settle(nn.Sequential(nn.Linear(3, 4), SMOOTH[name](), nn.Linear(4, 2)))
    law_holds(model, data((3,), (2,)), fraction=0.01)


def tiny(model: str, config: str, **settings: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        return getattr(transformers, model)(getattr(transformers, config)(**settings))

    return build


LAYERED = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 11, "initializer_range": 0.3}
WORDS = {"vocab_size": 13, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LIBRARY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    # how to build it, the width of its MLPs
    "gpt 2": (
        tiny(
            *("GPT2Model", "GPT2Config"),
            **{**WORDS, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 11, "n_positions": 9, "use_cache": False},
            initializer_range=0.3,
        ),
        "h.0.mlp.c_fc",
    ),
    "llama": (
        tiny("LlamaModel", "LlamaConfig", **WORDS, **LAYERED, hidden_size=8, use_cache=False),
        "layers.1.mlp.gate_proj",
    ),
    "bert": (
        tiny("BertModel", "BertConfig", **WORDS, **LAYERED, hidden_size=8, max_position_embeddings=9),
        "encoder.layer.0.intermediate.dense",
    ),
    "vit": (
        tiny("ViTModel", "ViTConfig", **LAYERED, hidden_size=8, image_size=8, patch_size=4),
        "layers.1.mlp.fc1",
    ),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_transformers_of_the_library(name):
    build, width = LIBRARY[name]
    model = settle(build())

    def loss(model, batch):
        outputs = model(batch[0]).last_hidden_state
        return (outputs - batch[1]).square().mean()

    inputs = torch.randn(4, 3, 8, 8).double() if name == "vit" else torch.randint(3, 13, (4, 6))
    with torch.no_grad():
        targets = torch.randn_like(model(inputs).last_hidden_state)
    step, rel = (3e-2, 0.05) if name == "llama" else (STEP, 0.01)  # it computes norms in single precision
    assert width in assert_any_direction_obeys(model, [(inputs, targets)], loss, step=step, rel=rel)
    law_holds(model, [(inputs, targets)], loss=loss, step=step, rel=rel, fraction=0.2)


@pytest.mark.parametrize("step", [1e-1, 3e-2, 1e-2, 3e-3])
def test_the_error_is_of_second_order_in_the_step(step):
    torch.manual_seed(3)
    model = settle(mlp(3, 4, 2, activation=nn.Softplus))
    batches = data((3,), (2,))
    before = mean_loss(model, batches)
    happened = grow(model, batches, Splitting(0.01, step=step))
    ratio = (before - mean_loss(model, batches)) / happened.note["gain"]
    assert abs(ratio - 1) < 20 * step**2 + 1e-6


def test_splits_of_several_layers_add_up():
    """Every neuron with a negative index of every layer, at once: also halved directions are put to the test."""
    torch.manual_seed(1)
    model = settle(mlp(3, 5, 4, 3, 2, activation=nn.Softplus))
    happened = law_holds(model, data((3,), (2,), batches=2))
    assert {edit.width for edit in happened.change.edits} == {"0", "2", "4"}
    assert len(happened.candidates) >= 6


def test_splits_of_convolutions_with_norms_and_pools_add_up():
    model = settle(
        nn.Sequential(
            *(nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.SiLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(16, 5), nn.Tanh()),
            nn.Linear(5, 2),
        )
    )
    happened = law_holds(model, data((1, 6, 6), (2,)))
    assert {edit.width for edit in happened.change.edits} == {"0", "4", "8"}


def test_two_splits_of_one_layer_fall_as_much_together_as_alone():
    batches = data((3,), (2,))

    def fall(count: int, skip: int) -> float:
        """Split `count` neurons of the ranking from place `skip` on."""
        torch.manual_seed(1)
        model = settle(mlp(3, 6, 2, activation=nn.Tanh))
        before = mean_loss(model, batches)
        splitting = Splitting(1.0, step=3e-3, tolerance=0.0)
        chosen = Asks(lambda context: splitting.growkit_propose(context)[skip : skip + count])
        assert len(grow(model, batches, chosen).candidates) == count
        return before - mean_loss(model, batches)

    first, second, both = fall(1, 0), fall(1, 1), fall(2, 0)
    assert both == pytest.approx(first + second, rel=0.01)
    assert first > second > 0.01 * first


def test_all_layers_of_a_residual_stream_move():
    """Where two convolutions make the units of a stream, theta has the weights of both."""
    model = settle(NETWORKS["residual block that goes down"].build())
    happened = law_holds(model, data_for(model, (2, 3, 3)), widths=["3.downsample.0"], mass=3.0)
    for candidate in happened.candidates:
        assert candidate.offsets.keys() == {"3.conv2.weight", "3.downsample.0.weight"}
        assert all(offset.abs().max() > 0 for offset in candidate.offsets.values())


def test_the_bias_moves_along():
    model = settle(mlp(3, 4, 2, activation=nn.Softplus))
    bias = model[0].bias.detach().clone()
    happened = grow(model, data((3,), (2,)), Splitting(0.01, step=0.01))
    (unit,) = happened.change.edits[0].copies
    assert model[0].bias[unit].item() != bias[unit].item()
    middle = (model[0].bias[unit] + model[0].bias[4]) / 2
    torch.testing.assert_close(middle.detach(), bias[unit])


@pytest.mark.parametrize("name", ["linear", "conv2d", "conv2d and norm", "linear and norm"])
def test_offspring_lie_at_plus_and_minus_the_step_and_share_the_outgoing_weights(name):
    layers, shape, size = LAYERS[name]
    model = settle(nn.Sequential(*layers(), nn.Softplus(), nn.Flatten(), nn.Linear(size, 2)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    happened = grow(model, data(shape, (2,)), Splitting(0.01, step=0.25))
    (unit,) = happened.change.edits[0].copies
    theta = torch.cat([before[key][unit].flatten() for key in ("0.weight", "0.bias") if key in before])
    after = model.state_dict()
    plus, minus = (
        torch.cat([after[key][row].flatten() for key in ("0.weight", "0.bias") if key in before]) for row in (unit, -1)
    )
    torch.testing.assert_close((plus + minus) / 2, theta)
    assert (plus - theta).norm().item() == pytest.approx(0.25)
    others = [row for row in range(len(before["0.weight"])) if row != unit]
    assert torch.equal(after["0.weight"][others], before["0.weight"][others])
    old = before[f"{len(model) - 1}.weight"].view(2, len(before["0.weight"]), -1)
    new = after[f"{len(model) - 1}.weight"].view(2, len(before["0.weight"]) + 1, -1)
    torch.testing.assert_close(new[:, unit], old[:, unit] / 2)
    torch.testing.assert_close(new[:, -1], old[:, unit] / 2)
    for key in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
        if "norm" in name:
            assert torch.equal(after[key], torch.cat([before[key], before[key][unit : unit + 1]]))


def test_directions_of_the_next_layer_are_halved_and_doubled_with_its_columns():
    """Both layers split at once; the direction of the second was found for columns that are halves now."""
    model = settle(mlp(2, 2, 2, 1, activation=nn.Softplus))
    before = model[2].weight.detach().clone()
    direction = torch.tensor([[0.6, -0.8]]).double()
    offset = torch.cat([0.1 * direction, -0.1 * direction])
    batches = data((2,), (1,))
    grow(model, batches, Proposes(widen("0", 1), widen("2", 0, weight__2=offset)))
    halves = torch.tensor([0.6, -0.4, -0.4]).double()
    old = torch.stack([before[:, 0], before[:, 1] / 2, before[:, 1] / 2], 1)
    expected = torch.stack([old[0] + 0.1 * halves, old[1], old[0] - 0.1 * halves])
    torch.testing.assert_close(model[2].weight.detach(), expected)


@pytest.mark.parametrize("mass", [1.0, 3.0])
@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_the_function_is_preserved_as_the_step_goes_to_zero(fraction, mass):
    model = settle(mlp(3, 5, 4, 2, activation=nn.ReLU))
    ((inputs, _),) = batches = data((3,), (2,))
    before = model(inputs)
    parameters = sum(p.numel() for p in model.parameters())
    grow(model, batches, Splitting(fraction, step=1e-13, mass=mass))
    assert sum(p.numel() for p in model.parameters()) > parameters
    torch.testing.assert_close(model(inputs), before, rtol=0, atol=1e-10)
