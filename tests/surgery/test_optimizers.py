"""Optimizers follow an edit: state is carried as if the network had been this wide all along."""

from __future__ import annotations

import copy

import pytest
import torch
from optimizer_cases import COPIES, OPTIMIZERS, PROBE, SHARE, UNITS, network, standing_still, state_of, train, variants
from small_models import BY_NAME
from torch import Tensor, nn, optim

from growkit.surgery import Narrow, Widen, apply

ALL = OPTIMIZERS | variants("foreach", "fused", "maximize")
# torch has no fused Adagrad for CUDA.
ON_GPU = {
    n: make for n, make in variants("foreach", "fused", "capturable").items() if "Adagrad" not in n or "foreach" in n
}

# ------------------------------------------------------------------ the moments, written out by hand


def gathered(old: dict[str, Tensor], key: str, power: int) -> dict[str, Tensor]:
    """What becomes of state that behaves like the gradient to some power."""
    share = SHARE**power
    return {
        f"0.weight {key}": old[f"0.weight {key}"][UNITS] * share[:, None],
        f"0.bias {key}": old[f"0.bias {key}"][UNITS] * share,
        f"2.weight {key}": old[f"2.weight {key}"][:, UNITS],
        f"2.bias {key}": old[f"2.bias {key}"],
    }


EXPECTED = {
    "SGD momentum": {"momentum_buffer": 1},
    "Adam": {"exp_avg": 1, "exp_avg_sq": 2},
    "Adam amsgrad": {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2},
    "AdamW": {"exp_avg": 1, "exp_avg_sq": 2},
    "AdamW amsgrad": {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2},
    "RMSprop": {"square_avg": 2},
    "RMSprop centered": {"square_avg": 2, "grad_avg": 1},
    # Its momentum gathers steps, that is gradients divided by their own size, which shares do not change.
    "RMSprop momentum": {"square_avg": 2, "grad_avg": 1, "momentum_buffer": 0},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_moments_are_carried_as_gradients_are(name):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    old = state_of(model, optimizer)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    new = state_of(model, optimizer)
    for key, power in EXPECTED[name].items():
        for entry, value in gathered(old, key, power).items():
            assert torch.equal(new[entry], value), entry


@pytest.mark.parametrize("name", EXPECTED)
def test_steps_are_counted_on(name):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    old = {key: value for key, value in state_of(model, optimizer).items() if key.endswith(" step")}
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    new = {key: value for key, value in state_of(model, optimizer).items() if key.endswith(" step")}
    assert old == new
    train(model, optimizer, 1)
    for key, value in state_of(model, optimizer).items():
        assert not key.endswith(" step") or value == 4


# ------------------------------------------------------------------ the independent oracle for every kind of state


def gathers_its_own(make, device="cpu"):
    """Widening after the steps must give the state that a network gathers that was widened before them."""
    after, before = network(device), network(device)
    probe = (PROBE[0].to(device),)
    optimizer = standing_still(make(after.parameters()))
    train(after, optimizer, 3)
    apply(after, Widen("0", COPIES), example=probe, optimizers=[optimizer])
    apply(before, Widen("0", COPIES), example=probe)
    other = standing_still(make(before.parameters()))
    train(before, other, 3)
    carried, own = state_of(after, optimizer), state_of(before, other)
    assert carried.keys() == own.keys()
    for key, value in own.items():
        assert torch.allclose(carried[key], value, rtol=1e-6, atol=1e-15), key
        assert carried[key].device == value.device


@pytest.mark.parametrize("name", ALL)
def test_widening_after_the_steps_gives_the_state_of_widening_before_them(name):
    gathers_its_own(ALL[name])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ON_GPU)
def test_the_same_where_the_state_lies_on_a_gpu(name):
    gathers_its_own(ON_GPU[name], "cuda")


@pytest.mark.parametrize("name", ALL)
def test_folding_the_copies_back_restores_the_state(name):
    model = network()
    optimizer = standing_still(ALL[name](model.parameters()))
    train(model, optimizer, 3)
    old = state_of(model, optimizer)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    apply(model, Narrow("0", (4, 5, 6), into=COPIES), example=PROBE, optimizers=[optimizer])
    for key, value in state_of(model, optimizer).items():
        assert torch.allclose(value, old[key], rtol=1e-12, atol=1e-15), key


# ------------------------------------------------------------------ new units


def test_moments_of_new_units_start_at_nothing():
    model = network()
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    train(model, optimizer, 3)
    apply(model, Widen("0", new=2), example=PROBE, optimizers=[optimizer])
    for key in ("exp_avg", "exp_avg_sq"):
        assert optimizer.state[model[0].weight][key][4:].abs().max() == 0
        assert optimizer.state[model[0].weight][key][:4].abs().max() > 0
        assert optimizer.state[model[2].weight][key][:, 4:].abs().max() == 0


@pytest.mark.parametrize(
    ("name", "key", "start"),
    [("Rprop", "step_size", 0.001), ("Adagrad with a start", "sum", 0.1)],
)
def test_what_starts_above_nothing_does_so_for_new_units(name, key, start):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    old = state_of(model, optimizer)
    apply(model, Widen("0", new=2), example=PROBE, optimizers=[optimizer])
    new = state_of(model, optimizer)
    assert torch.allclose(new[f"0.weight {key}"][:4], old[f"0.weight {key}"], rtol=1e-12)
    assert torch.allclose(new[f"0.weight {key}"][4:], torch.tensor(start, dtype=torch.float64))
    assert torch.allclose(new[f"2.weight {key}"][:, 4:], torch.tensor(start, dtype=torch.float64))


def test_a_start_is_one_in_the_precision_of_the_state():
    """0.1 is rounded down in half precision: less 0.1, it would have no root."""
    model, inputs = network().half(), PROBE[0].half()
    optimizer = OPTIMIZERS["Adagrad with a start"](model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    apply(model, Narrow("0", (3,), into=(1,)), example=(inputs,), optimizers=[optimizer], exact=False)
    assert all(value.isfinite().all() for value in state_of(model, optimizer).values())


def test_an_average_of_weights_of_new_units_is_their_weight():
    model = network()
    optimizer = OPTIMIZERS["ASGD"](model.parameters())
    train(model, optimizer, 3)
    old = state_of(model, optimizer)
    apply(model, Widen("0", (1,), new=2), example=PROBE, optimizers=[optimizer])
    new = state_of(model, optimizer)
    assert torch.equal(new["0.weight ax"][:5], old["0.weight ax"][[0, 1, 2, 3, 1]])
    assert torch.equal(new["0.weight ax"][5:], model[0].weight[5:])
    assert torch.equal(new["0.bias ax"][5:], model[0].bias[5:])
    assert new["0.weight ax"][5:].any()
    assert not new["2.weight ax"][:, 5:].any()
    assert not any(value.requires_grad for value in new.values())


# ------------------------------------------------------------------ training goes on


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_plain_training_loop_goes_on(name):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    before = train(model, optimizer, 20)
    apply(model, Widen("0", COPIES, new=1), example=PROBE, optimizers=[optimizer])
    middle = train(model, optimizer, 20)
    apply(model, Narrow("0", (7,)), example=PROBE, optimizers=[optimizer], exact=False)
    after = train(model, optimizer, 20)
    assert before[0] > before[-1] > middle[-1]
    assert after[-1] < middle[0]
    for parameter in model.parameters():
        for value in optimizer.state[parameter].values():
            assert not isinstance(value, Tensor) or value.dim() == 0 or value.shape == parameter.shape
    assert set(optimizer.state) <= set(model.parameters())


def test_a_step_after_an_edit_that_moves_nothing_is_the_same_step():
    """Growing and folding back between two steps must not be felt."""
    for name, make in ALL.items():
        plain, edited = network(), network()
        optimizers = [make(plain.parameters()), make(edited.parameters())]
        train(plain, optimizers[0], 3)
        train(edited, optimizers[1], 3)
        apply(edited, Widen("0", COPIES), example=PROBE, optimizers=optimizers[1:])
        apply(edited, Narrow("0", (4, 5, 6), into=COPIES), example=PROBE, optimizers=optimizers[1:])
        train(plain, optimizers[0], 3)
        train(edited, optimizers[1], 3)
        for a, b in zip(plain.parameters(), edited.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-12), name


def test_a_convolutional_network_with_norms_goes_on():
    case = BY_NAME["convnet"]
    model, inputs = case.model(torch.float32), case.inputs(4, torch.float32)
    optimizer = optim.AdamW(model.parameters(), 1e-3)
    for size in (4, 8):
        for _ in range(2):
            optimizer.zero_grad()
            model(*inputs).square().mean().backward()
            optimizer.step()
        apply(model, Widen("0", range(size)), example=inputs, optimizers=[optimizer])
    model(*inputs).square().mean().backward()
    optimizer.step()
    assert optimizer.state[model[0].weight]["exp_avg"].shape == (16, 2, 3, 3)


def test_muon_trains_the_matrices_and_another_optimizer_the_rest():
    model = network()
    matrices, vectors = ([p for p in model.parameters() if (p.dim() == 2) == wanted] for wanted in (True, False))
    optimizers = [optim.Muon(matrices, 0.02), optim.AdamW(vectors, 0.01)]
    before = [train(model, optimizer, 3) for optimizer in optimizers for _ in range(3)]
    old = state_of(model, optimizers[0])
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=optimizers)
    new = state_of(model, optimizers[0])
    assert set(new) == {"0.weight momentum_buffer", "2.weight momentum_buffer"}
    assert torch.equal(new["0.weight momentum_buffer"], old["0.weight momentum_buffer"][UNITS] * SHARE[:, None])
    assert torch.equal(new["2.weight momentum_buffer"], old["2.weight momentum_buffer"][:, UNITS])
    after = [train(model, optimizer, 3) for optimizer in optimizers for _ in range(3)]
    assert after[-1][-1] < before[0][0]


def test_an_optimizer_checkpoint_fits_a_model_built_so():
    model, built = network(), nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    optimizer = optim.AdamW(model.parameters(), 0.01, amsgrad=True)
    train(model, optimizer, 3)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    other = optim.AdamW(built.parameters(), 0.01, amsgrad=True)
    built.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(built, other, 5) == train(model, optimizer, 5)


# ------------------------------------------------------------------ state of another precision, on another device


def with_state(model: nn.Module, **options: object) -> optim.Optimizer:
    """An optimizer that keeps its moments elsewhere than the parameters are: in other precision, in host memory."""
    optimizer = optim.AdamW(model.parameters(), 0.01)
    for parameter in model.parameters():
        moments = {key: torch.rand(parameter.shape).to(**options) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(3.0), **moments}
    return optimizer


def test_state_is_carried_in_its_own_precision():
    model = network().bfloat16()
    optimizer = with_state(model, dtype=torch.float32)
    old = state_of(model, optimizer)
    apply(model, Widen("0", COPIES), example=(PROBE[0].bfloat16(),), optimizers=[optimizer])
    assert model[0].weight.dtype == torch.bfloat16
    for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
        carried = optimizer.state[model[0].weight][key]
        assert carried.dtype == torch.float32
        assert torch.equal(carried, old[f"0.weight {key}"][UNITS] * (SHARE**power).float()[:, None])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_state_is_carried_where_it_lies():
    model = network("cuda")
    optimizer = with_state(model, device="cpu")
    old = state_of(model, optimizer)
    apply(model, Widen("0", COPIES), example=(PROBE[0].cuda(),), optimizers=[optimizer])
    carried = optimizer.state[model[0].weight]["exp_avg"]
    assert carried.device.type == "cpu"
    assert torch.equal(carried, old["0.weight exp_avg"][UNITS] * SHARE.float()[:, None])
