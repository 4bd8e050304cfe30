"""Parameters keep their places: in groups, in several optimizers, in optimizers that hold another one."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from optimizer_cases import COPIES, PROBE, SHARE, UNITS, network, state_of, train
from small_models import BY_NAME
from torch import nn, optim

from growkit.surgery import Deepen, Widen, apply

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


def test_frozen_parameters_stay_frozen_and_without_state():
    model = network()
    model[0].requires_grad_(False)
    optimizer = optim.Adam(model.parameters())
    train(model, optimizer, 2)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    frozen = model[0].weight.clone()
    train(model, optimizer, 2)
    assert torch.equal(model[0].weight, frozen)
    assert set(optimizer.state) == set(model[2].parameters())
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def test_parameters_that_no_optimizer_holds_change_all_the_same():
    model = network()
    optimizer = optim.SGD([model[2].weight], 0.1, momentum=0.9)
    train(model, optimizer, 2)
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    assert model[0].weight.shape == (7, 3)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(model[2].weight)]
    train(model, optimizer, 1)


# ------------------------------------------------------------------ several optimizers


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


# ------------------------------------------------------------------ optimizers that hold another one


class SAM(optim.Optimizer):
    """Sharpness-aware minimisation, as most have it: github.com/davda54/sam."""

    def __init__(self, params, base, **options):
        super().__init__(params, {})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old_p"] = p.clone()
        self.base_optimizer.step()


class Lookahead(optim.Optimizer):
    """Slow weights that follow the fast ones, as timm has it: the state is that of the optimizer inside."""

    def __init__(self, base, key):
        super().__init__(base.param_groups, {})
        self.inner, self.key = [base], key
        self.param_groups, self.state = base.param_groups, base.state

    @torch.no_grad()
    def step(self):
        self.inner[0].step()
        for group in self.param_groups:
            for p in group["params"]:
                slow = self.state[p].setdefault(self.key, p.clone())
                p.copy_(slow.lerp_(p, 0.5))


class Apart(optim.Optimizer):
    """An optimizer that holds another one, each with groups of its own."""

    def __init__(self, base):
        super().__init__([{"params": list(group["params"])} for group in base.param_groups], {})
        self.base, self.state = base, defaultdict(dict)

    def step(self):
        self.base.step()


def wrapped(name, model):
    adam = optim.Adam(model.named_parameters(), 0.01)
    if name == "SAM":
        return SAM(model.named_parameters(), optim.Adam, lr=0.01)
    return Apart(adam) if name == "groups of its own" else Lookahead(adam, "slow_param")


@pytest.mark.parametrize("name", ["SAM", "Lookahead", "groups of its own"])
def test_the_optimizer_inside_follows_too(name, unchanged):
    model = network()
    outer = wrapped(name, model)
    inner = next(o for o in (*vars(outer).values(), *vars(outer).get("inner", ())) if isinstance(o, optim.Optimizer))
    train(model, outer, 3)
    old = state_of(model, inner)
    with unchanged(model, outer, inner), pytest.raises(KeyError):
        apply(model, Widen("0", COPIES), example=PROBE, optimizers=[outer], carry_state=lambda *_: {}["nothing"])
    apply(model, [Widen("0", COPIES), Deepen("1", "linear", 7)], example=PROBE, optimizers=[outer])
    new = state_of(model, inner)
    assert torch.equal(new["0.weight exp_avg"], old["0.weight exp_avg"][UNITS] * SHARE[:, None])
    for optimizer in (outer, inner):
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
        assert set(optimizer.state) <= set(model.parameters())
    if "param_names" in inner.param_groups[0]:
        assert inner.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]
    before = train(model, outer, 1)
    assert train(model, outer, 20)[-1] < before[0]


@pytest.mark.parametrize("key", ["slow_param", "slow_buffer", "lookahead_slow_buff", "z"])
def test_slow_weights_are_weights(key):
    model = network()
    optimizer = Lookahead(optim.SGD(model.parameters(), 0.1), key)
    train(model, optimizer, 3)
    change = apply(model, Widen("0", COPIES, new=2), example=PROBE, optimizers=[optimizer])
    for name, parameter in model.named_parameters():
        slow = optimizer.state[parameter][key]
        assert torch.equal(slow, parameter), name  # they are one right after a step
        assert slow is not parameter
    assert set(change.parameters) == {"0.weight", "0.bias", "2.weight"}
