"""What cannot be carried: LBFGS starts anew and says so, other optimizers are refused, plugins are asked."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict

import pytest
import torch
from optimizer_cases import COPIES, PROBE, closure_for, deep, network, places_of, train
from torch import nn, optim

from growkit.errors import SurgeryError
from growkit.surgery import Deepen, Narrow, ParamChange, Widen, apply

LBFGS_LOSS = "LBFGS: its history of 3 steps"
EDITS = {
    "of the first parameter": Widen("0", (0,)),
    "of later parameters": Widen("2", (0, 1), new=1),
    "a removal": Narrow("2", (0,)),
    "a new block behind": Deepen("3", "linear", 5),
    "a new block in front": Deepen("in", "linear", 3),
}


def lived_in(search: str | None = None) -> tuple[nn.Sequential, optim.LBFGS]:
    """A network that LBFGS has trained for three iterations."""
    model = nn.Sequential(OrderedDict([("in", nn.Identity()), *deep().named_children()]))
    optimizer = optim.LBFGS(model.parameters(), max_iter=3, max_eval=20, line_search_fn=search)
    optimizer.step(closure_for(model, optimizer))
    return model, optimizer


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize("name", EDITS)
def test_lbfgs_starts_anew_and_says_so(name, search, caplog):
    model, optimizer = lived_in(search)
    evaluations = optimizer.state[optimizer._params[0]]["func_evals"]
    change = apply(model, EDITS[name], example=PROBE, optimizers=[optimizer], exact=False)
    assert change.dropped == (LBFGS_LOSS,)
    assert [(r.name, r.levelno, r.getMessage()) for r in caplog.records] == [
        ("growkit.surgery.apply", logging.WARNING, f"{LBFGS_LOSS} does not fit the changed parameters and was dropped")
    ]
    first = next(model.parameters())
    assert dict(optimizer.state) == {first: {"func_evals": evaluations}}
    assert places_of(model, optimizer) == [[name for name, _ in model.named_parameters()]]
    closure = closure_for(model, optimizer)
    before = closure().item()
    for _ in range(3):
        optimizer.step(closure)
    assert closure().item() < before
    assert set(optimizer.state) == {first}


def test_lbfgs_then_goes_as_one_that_never_knew_the_smaller_network():
    model, optimizer = lived_in()
    apply(model, Widen("0", COPIES), example=PROBE, optimizers=[optimizer])
    other = copy.deepcopy(model)
    fresh = optim.LBFGS(other.parameters(), max_iter=3, max_eval=20)
    for _ in range(2):
        optimizer.step(closure_for(model, optimizer))
        fresh.step(closure_for(other, fresh))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("edit", [Widen("0", (0,)), Deepen("in", "linear", 3)], ids=["widen", "deepen"])
def test_what_lbfgs_remembers_comes_back_when_an_edit_fails(edit, unchanged, caplog):
    model, optimizer = lived_in()
    twin, other = lived_in()
    size, history = optimizer._numel_cache, copy.deepcopy(optimizer.state_dict())
    model[-1].register_forward_hook(lambda module, inputs, out: out * 2 if optimizer._numel_cache is None else None)
    with unchanged(model, optimizer), pytest.raises(SurgeryError):
        apply(model, edit, example=PROBE, optimizers=[optimizer])
    assert optimizer._numel_cache == size
    assert str(optimizer.state_dict()) == str(history)
    assert not caplog.records
    for _ in range(2):
        optimizer.step(closure_for(model, optimizer))
        other.step(closure_for(twin, other))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_lbfgs_loses_nothing_before_its_first_step(caplog):
    model = deep()
    optimizer = optim.LBFGS(model.parameters(), max_iter=3)
    change = apply(model, Widen("2", (0,)), example=PROBE, optimizers=[optimizer])
    assert change.dropped == ()
    assert not caplog.records
    closure = closure_for(model, optimizer)
    first = optimizer.step(closure)
    assert closure() < first


def test_lbfgs_keeps_its_history_when_others_change():
    model = deep()
    optimizer = optim.LBFGS(model[4].parameters(), max_iter=3, max_eval=20)
    optimizer.step(closure_for(model, optimizer))
    assert apply(model, Widen("0", (0,)), example=PROBE, optimizers=[optimizer]).dropped == ()
    assert len(optimizer.state[model[4].weight]["old_dirs"]) == 2


# ------------------------------------------------------------------ state that cannot be carried


class Keeps(optim.SGD):
    """An optimizer that keeps one thing more, for its first parameter."""

    def __init__(self, parameters, **kept):
        super().__init__(parameters, 0.1, momentum=0.9)
        self.state[self.param_groups[0]["params"][0]].update(kept)


@pytest.mark.parametrize("width", ["0", "2"], ids=["of the first parameter", "of later parameters"])
@pytest.mark.parametrize("kept", [[torch.zeros(1)], {"a": 1}], ids=["list", "dict"])
def test_others_with_a_joint_history_are_refused(width, kept, unchanged):
    model = deep()
    optimizer = Keeps(model.parameters(), history=kept)
    with unchanged(model, optimizer), pytest.raises(SurgeryError) as caught:
        apply(model, Widen(width, (0,)), example=PROBE, optimizers=[optimizer])
    assert caught.value.what.startswith("Keeps keeps state for ")
    assert caught.value.seen.startswith(f"'history' is a {type(kept).__name__}")
    assert "growkit_carry_optimizer_state" in caught.value.advice


@pytest.mark.parametrize(
    "kept",
    [{"factor": torch.zeros(4, 1)}, {"row_var": torch.zeros(4, 1)}, {"row_var": torch.zeros(4), "col_var": None}],
)
def test_state_of_another_shape_is_refused_by_name(kept, unchanged):
    model = network()
    optimizer = Keeps(model.parameters(), **kept)
    with unchanged(model, optimizer), pytest.raises(SurgeryError) as caught:
        apply(model, Widen("0", (0,)), example=PROBE, optimizers=[optimizer])
    (key, value), *_ = kept.items()
    assert caught.value.what == "Keeps keeps state for '0.weight' that growkit cannot carry"
    assert caught.value.seen == f"{key!r} is a tensor of shape {tuple(value.shape)}"


def test_an_answer_to_what_cannot_be_carried_is_taken():
    model = network()
    optimizer = Keeps(model.parameters(), factor=torch.ones(4, 1))
    train(model, optimizer, 1)
    asked = []

    def carry(asking: optim.Optimizer, change: ParamChange, state: dict) -> dict:
        asked.append((asking, change.name, set(state)))
        return {"factor": torch.ones(1)}

    apply(model, Widen("0", (0,)), example=PROBE, optimizers=[optimizer], carry_state=carry)
    assert [name for _, name, _ in asked] == ["0.weight", "0.bias", "2.weight"]
    assert all(asking is optimizer for asking, _, _ in asked)
    assert asked[0][2] == {"momentum_buffer", "factor"}
    assert optimizer.state[model[0].weight] == {"factor": torch.ones(1)}


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
