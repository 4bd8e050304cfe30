"""What an edit asks for optimizer state: to carry it, to copy it, or to start from nothing."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from optimizer_cases import COPIES, OPTIMIZERS, PROBE, UNITS, deep, network, state_of, train
from torch import Tensor, nn, optim

from growkit.errors import SurgeryError
from growkit.surgery import Journal, ParamChange, Widen, apply

MOMENTS = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
STAYS = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0], dtype=torch.float64)
HELD = torch.tensor([1, 1, 1, 1, 1, 1, 1, 0], dtype=torch.float64)
FACTORS = {"copy": HELD, "zero": STAYS}
SOURCE = [*UNITS, 0]


def lived_in(name: str = "AdamW amsgrad") -> tuple[nn.Sequential, optim.Optimizer]:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    return model, optimizer


@pytest.mark.parametrize("policy", FACTORS)
def test_moments_do_as_they_are_told(policy):
    model, optimizer = lived_in()
    old = state_of(model, optimizer)
    apply(model, Widen("0", COPIES, new=1, state=policy), example=PROBE, optimizers=[optimizer])
    new, factor = state_of(model, optimizer), FACTORS[policy]
    for key in MOMENTS:
        assert torch.equal(new[f"0.weight {key}"], old[f"0.weight {key}"][SOURCE] * factor[:, None])
        assert torch.equal(new[f"0.bias {key}"], old[f"0.bias {key}"][SOURCE] * factor)
        assert torch.equal(new[f"2.weight {key}"], old[f"2.weight {key}"][:, SOURCE] * factor)
        assert torch.equal(new[f"2.bias {key}"], old[f"2.bias {key}"])
    assert new["0.weight step"] == 3


@pytest.mark.parametrize("policy", FACTORS)
def test_so_do_factored_moments(policy):
    model = network()
    optimizer = optim.Adafactor(model.parameters())
    train(model, optimizer, 3)
    old = {parameter: moment(optimizer, parameter) for parameter in (model[0].weight, model[2].weight)}
    weights = list(old.values())
    apply(model, Widen("0", COPIES, new=1, state=policy), example=PROBE, optimizers=[optimizer])
    factor = FACTORS[policy]
    assert torch.allclose(moment(optimizer, model[0].weight), weights[0][SOURCE] * factor[:, None], rtol=1e-12)
    assert torch.allclose(moment(optimizer, model[2].weight), weights[1][:, SOURCE] * factor, rtol=1e-12)


def moment(optimizer: optim.Optimizer, parameter: nn.Parameter) -> Tensor:
    rows, columns = optimizer.state[parameter]["row_var"], optimizer.state[parameter]["col_var"]
    assert torch.allclose(rows.mean(), columns.mean(), rtol=1e-12)
    return rows @ columns / rows.mean()


@pytest.mark.parametrize("policy", FACTORS)
def test_steps_of_rprop_that_start_do_so_at_the_rate(policy):
    model, optimizer = lived_in("Rprop")
    old = state_of(model, optimizer)
    apply(model, Widen("0", COPIES, new=1, state=policy), example=PROBE, optimizers=[optimizer])
    factor = FACTORS[policy][:, None]
    wanted = old["0.weight step_size"][SOURCE] * factor + 0.001 * (1 - factor)
    assert torch.allclose(state_of(model, optimizer)["0.weight step_size"], wanted, rtol=1e-12)


@pytest.mark.parametrize("policy", ["carry", "copy", "zero"])
def test_gradients_and_averages_of_weights_are_carried_in_any_case(policy):
    entries = []
    for asked in ("carry", policy):
        model, optimizer = lived_in("ASGD")
        apply(model, Widen("0", COPIES, new=1, state=asked), example=PROBE, optimizers=[optimizer])
        entries.append([*state_of(model, optimizer).values(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*entries, strict=True))


def test_a_change_carries_what_is_no_optimizer_state_as_ever():
    model, optimizer = lived_in()
    change = apply(model, Widen("0", (1,), state="zero"), example=PROBE, optimizers=[optimizer])
    importance = torch.ones(4, dtype=torch.float64)
    assert change.carry(importance, "0.bias", like="gradient").tolist() == [1, 0.5, 1, 1, 0.5]
    assert change.carry(importance, "0.bias", like="copy").tolist() == [1, 1, 1, 1, 1]


def test_each_width_has_a_policy_of_its_own():
    model = deep()
    optimizer = OPTIMIZERS["SGD momentum"](model.parameters())
    train(model, optimizer, 3)
    old = state_of(model, optimizer)["2.weight momentum_buffer"]
    edits = [Widen("0", (1,), state="zero"), Widen("2", (2,), state="copy")]
    apply(model, edits, example=PROBE, optimizers=[optimizer])
    new = optimizer.state[model[2].weight]["momentum_buffer"]
    assert torch.equal(new[:, :4], old[[0, 1, 2, 3, 4, 2]])
    assert not new[:, 4].any()


def test_whoever_carries_state_for_growkit_is_told():
    model, optimizer = lived_in()

    def carry(_: optim.Optimizer, change: ParamChange, state: dict) -> dict:
        return {key: change.carry(state[key], like="gradient") for key in ("exp_avg",)}

    edit = Widen("0", (1,), state="zero")
    apply(model, edit, example=PROBE, optimizers=[optimizer], carry_state=carry)
    assert not optimizer.state[model[0].weight]["exp_avg"][4].any()
    assert optimizer.state[model[0].weight]["exp_avg"][:4].all()


def test_gains_of_weight_norms_are_no_state():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)).double()
    before = model(*PROBE)
    apply(model, Widen("0.parametrizations.weight", (1, 1), state="zero"), example=PROBE)
    assert torch.allclose(model(*PROBE), before, rtol=1e-12)


# ------------------------------------------------------------------ outputs and rows that are asked for


def test_copied_outputs_have_gathered_nothing():
    """What was there before stays as it is, and nobody has listened to the copies."""
    model, optimizer = lived_in()
    old, gradient = state_of(model, optimizer), model[2].weight.grad.clone()
    apply(model, Widen("2", (0, 0), output=True), example=PROBE, optimizers=[optimizer])
    new = state_of(model, optimizer)
    for key in MOMENTS:
        assert torch.equal(new[f"2.weight {key}"][:2], old[f"2.weight {key}"])
        assert not new[f"2.weight {key}"][2:].any()
    assert torch.equal(model[2].weight.grad[:2], gradient)
    assert not model[2].weight.grad[2:].any()


@pytest.mark.parametrize("optimizer", ["SGD momentum", "Adam", "RMSprop momentum"])
def test_an_output_that_is_used_on_as_well_gathers_as_if_it_had_been_there(optimizer):
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = network()[0], network()[2]

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.first(x)
            return hidden, self.last(hidden.tanh())

    states = []
    for early in (True, False):
        model = Both()
        made = OPTIMIZERS[optimizer](model.parameters())
        for group in made.param_groups:
            group["lr"] = 0.0
        if early:
            apply(model, Widen("first", (1, 1), output=True), example=PROBE, optimizers=[made])
        for _ in range(2):
            made.zero_grad()
            hidden, out = model(*PROBE)
            (hidden[:, :4].square().sum() + out.square().sum()).backward()
            made.step()
        if not early:
            apply(model, Widen("first", (1, 1), output=True), example=PROBE, optimizers=[made])
        states.append(state_of(model, made))
    for key, value in states[0].items():
        assert torch.allclose(states[1][key], value, rtol=1e-12, atol=1e-18), key


# ------------------------------------------------------------------ in words


def test_a_policy_goes_through_the_journal():
    journal = Journal()
    journal.record(Widen("0", (1,), state="zero"), Widen("2", new=1))
    written = json.loads(journal.to_json())["entries"][0]["edits"]
    assert written[0] == {"edit": "widen", "width": "0", "copies": [1], "new": 0, "output": False, "state": "zero"}
    assert written[1] == {"edit": "widen", "width": "2", "copies": [], "new": 1, "output": False}
    assert Journal.from_json(journal.to_json()) == journal


@pytest.mark.parametrize("wrong", ["copies", "", None, 3, ["zero"]])
def test_other_policies_are_refused(wrong):
    with pytest.raises(SurgeryError) as caught:
        Widen("0", (1,), state=wrong)
    assert caught.value.seen == f"state={wrong!r}"
    assert caught.value.expected == "one of 'carry', 'zero', 'copy'"
    assert "did you mean 'copy'?" in caught.value.advice or wrong != "copies"


def test_edits_of_one_width_must_agree(unchanged):
    model, optimizer = lived_in()
    edits = [Widen("0", (1,)), Widen("0", (2,), state="zero")]
    with unchanged(model, optimizer), pytest.raises(SurgeryError) as caught:
        apply(model, edits, example=PROBE, optimizers=[optimizer])
    assert "cannot be made at once" in caught.value.what
    assert "with one `state`" in caught.value.expected
    agreed = [dataclasses.replace(edit, state="copy") for edit in edits]
    (joined,) = apply(model, agreed, example=PROBE, optimizers=[optimizer]).edits
    assert joined == Widen("0", (1, 2), state="copy")
