"""Optimizers follow an edit: parameters keep their places, state is carried, schedules go on."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from small_models import BY_NAME
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from growkit.errors import GrowkitError, SurgeryError
from growkit.surgery import Deepen, Narrow, ParamChange, Widen, apply

COPIES = (1, 1, 3)
UNITS = [0, 1, 2, 3, 1, 1, 3]
SHARE = torch.tensor([1, 1 / 3, 1, 1 / 2, 1 / 3, 1 / 3, 1 / 2], dtype=torch.float64)
PROBE = (torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64),)

Make = Callable[[list[nn.Parameter]], optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: optim.SGD(p, 0.05),
    "SGD momentum": lambda p: optim.SGD(p, 0.05, momentum=0.9),
    "SGD Nesterov": lambda p: optim.SGD(p, 0.02, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: optim.Adam(p, 0.01),
    "Adam amsgrad": lambda p: optim.Adam(p, 0.01, amsgrad=True),
    "Adam foreach": lambda p: optim.Adam(p, 0.01, foreach=True),
    "Adam fused": lambda p: optim.Adam(p, 0.01, fused=True),
    "AdamW": lambda p: optim.AdamW(p, 0.01),
    "AdamW amsgrad": lambda p: optim.AdamW(p, 0.01, amsgrad=True),
    "RMSprop": lambda p: optim.RMSprop(p, 0.005),
    "RMSprop centered": lambda p: optim.RMSprop(p, 0.005, centered=True),
    "RMSprop momentum": lambda p: optim.RMSprop(p, 0.001, momentum=0.9, centered=True),
    "NAdam": lambda p: optim.NAdam(p, 0.01),
    "RAdam": lambda p: optim.RAdam(p, 0.01),
    "Adagrad": lambda p: optim.Adagrad(p, 0.05),
    "Adadelta": lambda p: optim.Adadelta(p, 1.0),
    "Adamax": lambda p: optim.Adamax(p, 0.01),
    "Rprop": lambda p: optim.Rprop(p, 0.001),
    "ASGD": lambda p: optim.ASGD(p, 0.05, t0=0),
}


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def data(count: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return inputs, inputs[:, :2].sin()


def train(model: nn.Module, optimizer: optim.Optimizer, steps: int, *schedulers: object) -> list[float]:
    inputs, targets = data()
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean() * (1 + step % 2)
        loss.backward()
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        losses.append(loss.item() / (1 + step % 2))
    return losses


def standing_still(optimizer: optim.Optimizer) -> optim.Optimizer:
    """Without a learning rate the state gathers gradients of one model; eps, decay and least steps are away too."""
    still = {"lr": 0.0, "eps": 1e-14, "weight_decay": 0.0, "step_sizes": (0.0, 50.0)}
    for group in optimizer.param_groups:
        group.update({key: value for key, value in still.items() if key in group})
    return optimizer


def state_of(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name} {key}": value.clone()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
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


def test_moments_of_new_units_start_at_nothing():
    model = network()
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    train(model, optimizer, 3)
    apply(model, Widen("0", new=2), example=PROBE, optimizers=[optimizer])
    for key in ("exp_avg", "exp_avg_sq"):
        assert optimizer.state[model[0].weight][key][4:].abs().max() == 0
        assert optimizer.state[model[0].weight][key][:4].abs().max() > 0
        assert optimizer.state[model[2].weight][key][:, 4:].abs().max() == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_widening_after_the_steps_gives_the_state_of_widening_before_them(name):
    """The independent oracle for every kind of state: the widened model gathers its own."""
    after, before = network(), network()
    optimizer = standing_still(OPTIMIZERS[name](after.parameters()))
    train(after, optimizer, 3)
    apply(after, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    apply(before, Widen("0", COPIES), example=PROBE)
    other = standing_still(OPTIMIZERS[name](before.parameters()))
    train(before, other, 3)
    carried, gathered = state_of(after, optimizer), state_of(before, other)
    assert carried.keys() == gathered.keys()
    for key, value in gathered.items():
        assert torch.allclose(carried[key], value, rtol=1e-6, atol=1e-15), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_folding_the_copies_back_restores_the_state(name):
    model = network()
    optimizer = standing_still(OPTIMIZERS[name](model.parameters()))
    train(model, optimizer, 3)
    old = state_of(model, optimizer)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    apply(model, Narrow("0", (4, 5, 6), into=COPIES), example=PROBE, optimizers=[optimizer])
    for key, value in state_of(model, optimizer).items():
        assert torch.allclose(value, old[key], rtol=1e-12, atol=1e-15), key


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
    for name, make in OPTIMIZERS.items():
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


# ------------------------------------------------------------------ groups


def test_parameters_keep_their_group_place_and_settings():
    model = network()
    (a, b), (c, d) = model[0].parameters(), model[2].parameters()
    stranger = nn.Parameter(torch.zeros(4))
    groups = [
        {"params": [d, a], "lr": 0.1, "weight_decay": 0.5},
        {"params": [stranger, c], "lr": 0.2},
        {"params": [b], "lr": 0.3, "name": "bias"},
    ]
    optimizer = optim.SGD(groups, momentum=0.9)
    train(model, optimizer, 1)
    held = [group["params"] for group in optimizer.param_groups]
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    (a, b), (c, d) = model[0].parameters(), model[2].parameters()
    for group, parameters in zip(optimizer.param_groups, [[d, a], [stranger, c], [b]], strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in parameters]
    assert all(group["params"] is same for group, same in zip(optimizer.param_groups, held, strict=True))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2, 0.3]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0, 0]
    assert optimizer.param_groups[2]["name"] == "bias"
    train(model, optimizer, 1)


def test_state_of_unchanged_parameters_is_not_touched():
    model = network()
    optimizer = optim.Adam(model.parameters())
    train(model, optimizer, 2)
    bias, state = model[2].bias, optimizer.state[model[2].bias]
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    assert model[2].bias is bias
    assert optimizer.state[bias] is state
    assert len(optimizer.state) == 4


def test_each_of_several_optimizers_follows_with_its_own_state():
    model = network()
    first, last = optim.Adam(model[0].parameters()), optim.SGD(model[2].parameters(), 0.1, momentum=0.9)
    for optimizer in (first, last):
        train(model, optimizer, 2)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[first, last])
    assert [id(p) for p in first.param_groups[0]["params"]] == [id(p) for p in model[0].parameters()]
    assert [id(p) for p in last.param_groups[0]["params"]] == [id(p) for p in model[2].parameters()]
    assert first.state[model[0].weight]["exp_avg"].shape == (7, 3)
    assert last.state[model[2].weight]["momentum_buffer"].shape == (2, 7)
    assert set(first.state) == set(model[0].parameters())


def test_two_optimizers_may_hold_the_same_parameters():
    model = network()
    both = [optim.Adam(model.parameters()), optim.SGD(model.parameters(), 0.1, momentum=0.9)]
    for optimizer in both:
        train(model, optimizer, 1)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=iter(both))
    for optimizer in both:
        train(model, optimizer, 1)
        assert set(optimizer.state) == set(model.parameters())


def test_one_optimizer_may_be_named_twice():
    model = network()
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, 1)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer, optimizer])
    train(model, optimizer, 1)
    assert set(optimizer.state) == set(model.parameters())


def test_an_optimizer_that_has_not_stepped_yet_follows():
    model = network()
    optimizer = optim.Adam(model.parameters())
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    assert len(optimizer.state) == 0
    train(model, optimizer, 1)
    assert set(optimizer.state) == set(model.parameters())


def test_tied_parameters_have_one_place_and_one_state():
    case = BY_NAME["tied"]
    model, inputs = case.model(), case.inputs(3)
    optimizer = optim.Adam(model.parameters())
    model(*inputs).square().mean().backward()
    optimizer.step()
    apply(model, Widen("embedding", range(4)), example=inputs, optimizers=[optimizer])
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    assert optimizer.state[model.score.weight]["exp_avg"].shape == (7, 8)


def test_an_optimizer_checkpoint_fits_a_model_built_so():
    model, built = network(), nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    optimizer = optim.AdamW(model.parameters(), 0.01, amsgrad=True)
    train(model, optimizer, 3)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    other = optim.AdamW(built.parameters(), 0.01, amsgrad=True)
    built.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(built, other, 5) == train(model, optimizer, 5)


# ------------------------------------------------------------------ schedules


def schedule(kind: str, optimizer: optim.Optimizer) -> LambdaLR | OneCycleLR:
    if kind == "LambdaLR":
        return LambdaLR(optimizer, [lambda step: 0.9**step, lambda step: 1 / (1 + step)])
    return OneCycleLR(optimizer, max_lr=[0.1, 0.2], total_steps=12)


@pytest.mark.parametrize("kind", ["LambdaLR", "OneCycleLR"])
def test_schedules_go_on_as_if_nothing_had_happened(kind):
    rates = []
    for edited in (False, True):
        model = network()
        groups = [{"params": list(layer.parameters())} for layer in (model[0], model[2])]
        optimizer = optim.SGD(groups, 0.05, momentum=0.9)
        scheduler = schedule(kind, optimizer)
        seen = []
        for step in range(10):
            train(model, optimizer, 1, scheduler)
            seen.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
            if edited and step in (3, 6):
                apply(model, Widen("0", (0, 1)), example=PROBE, optimizers=[optimizer])
        assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
        rates.append(seen)
    assert rates[0] == rates[1]


# ------------------------------------------------------------------ state that cannot be carried


def closure_for(model: nn.Module, optimizer: optim.Optimizer) -> Callable[[], Tensor]:
    inputs, targets = data()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        return loss

    return closure


def deep() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


@pytest.mark.parametrize("width", ["0", "2"], ids=["of the first parameter", "of later parameters"])
def test_lbfgs_cannot_follow_once_it_has_a_history(width, unchanged):
    model = deep()
    optimizer = optim.LBFGS(model.parameters(), max_iter=3)
    optimizer.step(closure_for(model, optimizer))
    with unchanged(model, optimizer), pytest.raises(SurgeryError) as caught:
        apply(model, Widen(width, (0,)), example=PROBE, optimizers=[optimizer])
    assert "LBFGS" in caught.value.what
    assert "growkit_carry_optimizer_state" in caught.value.advice
    optimizer.step(closure_for(model, optimizer))


def test_lbfgs_follows_before_its_first_step():
    model = deep()
    optimizer = optim.LBFGS(model.parameters(), max_iter=3)
    apply(model, Widen("2", (0,)), example=PROBE, optimizers=[optimizer])
    closure = closure_for(model, optimizer)
    first = optimizer.step(closure)
    assert closure() < first


def test_adafactor_is_refused_and_says_which_state_stands_in_the_way(unchanged):
    model = network()
    optimizer = optim.Adafactor(model.parameters())
    train(model, optimizer, 1)
    with unchanged(model, optimizer), pytest.raises(SurgeryError) as caught:
        apply(model, Widen("0", (0,)), example=PROBE, optimizers=[optimizer])
    assert caught.value.what == "Adafactor keeps state for '0.weight' that growkit cannot carry"
    assert caught.value.seen == "'row_var' is a tensor of shape (4, 1)"


def test_an_answer_to_what_cannot_be_carried_is_taken():
    model = network()
    optimizer = optim.Adafactor(model.parameters())
    train(model, optimizer, 1)
    asked = []

    def carry(asking: optim.Optimizer, change: ParamChange, state: dict) -> dict:
        asked.append((asking, change.name, set(state)))
        return {"step": state["step"], **{k: v.new_zeros(1) for k, v in state.items() if k != "step"}}

    apply(model, Widen("0", (0,)), example=PROBE, optimizers=[optimizer], carry_state=carry)
    assert [name for _, name, _ in asked] == ["0.weight", "0.bias", "2.weight"]
    assert all(asking is optimizer for asking, _, _ in asked)
    assert asked[0][2] == {"step", "row_var", "col_var"}
    assert optimizer.state[model[0].weight]["row_var"].shape == (1,)
    assert optimizer.state[model[0].weight]["step"] == 1


def test_whoever_does_not_know_an_optimizer_leaves_it_to_growkit():
    model = network()
    optimizer = optim.Adam(model.parameters())
    train(model, optimizer, 1)
    asked = []
    apply(
        model,
        Widen("0", (0,)),
        example=PROBE,
        optimizers=[optimizer],
        carry_state=lambda *question: asked.append(question),
    )
    assert len(asked) == 3
    assert optimizer.state[model[0].weight]["exp_avg"].shape == (5, 3)


def test_an_answer_that_raises_leaves_everything(unchanged):
    model = network()
    optimizer = optim.Adam(model.parameters())
    train(model, optimizer, 1)

    def carry(*_: object) -> None:
        raise KeyError("exp_avg")

    with unchanged(model, optimizer), pytest.raises(KeyError):
        apply(model, Widen("0", (0,)), example=PROBE, optimizers=[optimizer], carry_state=carry)


# ------------------------------------------------------------------ wholly new parameters


def places_of(model: nn.Module, optimizer: optim.Optimizer) -> list[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def test_new_parameters_stand_right_behind_their_neighbour():
    model = network()
    optimizer = optim.SGD(model.parameters(), 0.1)
    apply(model, Deepen("1", "linear", 4), example=PROBE, optimizers=[optimizer])
    assert places_of(model, optimizer) == [name for name, _ in model.named_parameters()]


def test_names_in_an_optimizer_follow_its_parameters():
    model = network()
    optimizer = optim.SGD(model.named_parameters(), 0.1)
    apply(model, [Widen("0", (0,)), Deepen("1", "linear", 5)], example=PROBE, optimizers=[optimizer])
    assert optimizer.param_groups[0]["param_names"] == places_of(model, optimizer)


def test_new_parameters_join_the_group_of_their_neighbour():
    model = network()
    optimizer = optim.SGD([{"params": list(layer.parameters())} for layer in (model[2], model[0])], 0.1)
    apply(model, Deepen("1", "linear", 4), example=PROBE, optimizers=[optimizer])
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 6]


@pytest.mark.parametrize(
    ("name", "held"),
    [("first", slice(None)), ("behind frozen layers", slice(2, None))],
    ids=["nothing stands before it", "what stands before it is not trained"],
)
def test_new_parameters_are_trained_wherever_the_block_stands(name, held):
    """A block that no optimizer knows would stay the identity for ever, and nobody would notice."""
    model = nn.Sequential(nn.Identity(), *network())
    after, size = ("0", 3) if name == "first" else ("1", 4)
    optimizer = optim.SGD(list(model.parameters())[held], 0.1)
    try:
        apply(model, Deepen(after, "linear", size), example=PROBE, optimizers=[optimizer])
    except GrowkitError:
        return
    block = model.get_submodule(f"{after}_deeper")
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in block.parameters()} <= known
