"""Learning-rate schedulers that begin anew: from then on, all that they set is what a fresh one sets, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from growth.stubs import has_four_parts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim import lr_scheduler as lrs

import growkit
from growkit.growth import Standing


class Decays:
    """A multiplier with a memory of its own."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        return 0.9**self.calls


class Wraps(lrs.LRScheduler):
    """Keeps another scheduler in its state, as warm-ups from the web do."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.inner = lrs.ExponentialLR(optimizer, 0.5)
        super().__init__(optimizer)

    def step(self, *arguments: Any) -> None:
        super().step()
        if self.last_epoch > 3:
            self.inner.step()

    def get_lr(self) -> list[float]:
        return [group["lr"] * 1.25 for group in self.optimizer.param_groups]


def _sequential(optimizer: Optimizer) -> lrs.SequentialLR:
    parts = [lrs.LinearLR(optimizer, 0.1, total_iters=4), lrs.CosineAnnealingLR(optimizer, 6)]
    return lrs.SequentialLR(optimizer, parts, milestones=[3])


def _chained(optimizer: Optimizer) -> lrs.ChainedScheduler:
    return lrs.ChainedScheduler([lrs.ConstantLR(optimizer, 0.1, 4), lrs.ExponentialLR(optimizer, 0.9)], optimizer)


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "StepLR": lambda o: lrs.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lrs.MultiStepLR(o, [2, 5, 5], 0.5),
    "ConstantLR": lambda o: lrs.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lrs.LinearLR(o, 0.1, total_iters=7),
    "ExponentialLR": lambda o: lrs.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lrs.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda o: lrs.CosineAnnealingLR(o, 5, eta_min=1e-3),
    "CosineAnnealingWarmRestarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 3, 2),
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, [0.5, 1.0], total_steps=40),
    "CyclicLR": lambda o: lrs.CyclicLR(o, 0.01, 0.5, 3, mode="triangular2"),
    "CyclicLR of a function": lambda o: lrs.CyclicLR(o, 0.01, 0.5, 3, scale_fn=lambda x: 0.9**x),
    "LambdaLR": lambda o: lrs.LambdaLR(o, [lambda epoch: 0.9**epoch, lambda epoch: 1 / (1 + epoch)]),
    "LambdaLR with a memory": lambda o: lrs.LambdaLR(o, Decays()),
    "MultiplicativeLR": lambda o: lrs.MultiplicativeLR(o, lambda epoch: 1 - 0.01 * epoch),
    "SequentialLR": _sequential,
    "ChainedScheduler": _chained,
    "ReduceLROnPlateau": lambda o: lrs.ReduceLROnPlateau(o, factor=0.5, patience=1, cooldown=1),
    "one that keeps another": Wraps,
}
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": lambda groups: SGD(groups, lr=0.1, momentum=0.9),
    "Adam": lambda groups: Adam(groups, lr=0.1),
    "SGD, rates in tensors": lambda groups: SGD(groups, lr=torch.tensor(0.1), momentum=0.9),
}


def made(name: str, optimizer: str) -> tuple[Optimizer, Any]:
    groups = [{"params": [nn.Parameter(torch.ones(2))]} for _ in range(2)]
    groups[1]["weight_decay"] = 0.1
    built = OPTIMIZERS[optimizer](groups)
    return built, SCHEDULERS[name](built)


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [
        {
            key: value.item() if isinstance(value, torch.Tensor) else value
            for key, value in group.items()
            if key != "params"
        }
        for group in optimizer.param_groups
    ]


def walk(optimizer: Optimizer, scheduler: Any, steps: int) -> list[Any]:
    """What a scheduler sets at its start and after each of some steps. Every second metric is worse."""
    found = [settings_of(optimizer)]
    for step in range(steps):
        optimizer.step()
        scheduler.step(*([1.0 + step % 2] if isinstance(scheduler, lrs.ReduceLROnPlateau) else []))
        found.append(settings_of(optimizer))
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", SCHEDULERS)
@settings(max_examples=5)
@given(before=st.integers(0, 12), after=st.integers(1, 12))
def test_what_follows_a_restart_is_what_a_fresh_scheduler_does(name, optimizer, before, after):
    fresh, restarted = made(name, optimizer), made(name, optimizer)
    beginning = Standing([restarted[1]])
    for _ in range(2):  # a beginning serves any number of times
        walk(*restarted, before)
        beginning.restore([restarted[1]])
        assert restarted[1].state_dict().keys() == fresh[1].state_dict().keys()
        assert walk(*restarted, after) == walk(*fresh, after)
        fresh = made(name, optimizer)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_restart_can_be_taken_back(name):
    plain, restarted = made(name, "SGD"), made(name, "SGD")
    beginning = Standing([restarted[1]])
    walk(*plain, 5)
    walk(*restarted, 5)
    now = Standing([restarted[1]])
    beginning.restore([restarted[1]])
    now.restore([restarted[1]])
    assert walk(*restarted, 8) == walk(*plain, 8)


def test_parameters_stay_where_they_are_and_a_rate_in_a_tensor_stays_that_tensor():
    optimizer, scheduler = made("StepLR", "SGD, rates in tensors")
    beginning = Standing([scheduler])
    walk(optimizer, scheduler, 4)
    rate, other = optimizer.param_groups[0]["lr"], nn.Parameter(torch.zeros(3))
    optimizer.param_groups[0]["params"].append(other)
    beginning.restore([scheduler])
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.1)
    assert optimizer.param_groups[0]["params"][1] is other


def test_only_the_schedulers_asked_for_go_back_with_the_settings_of_their_optimizers():
    (first, one), (second, two) = made("ExponentialLR", "SGD"), made("ExponentialLR", "SGD")
    beginning = Standing([one, two])
    walk(first, one, 2)
    walk(second, two, 2)
    beginning.restore([one])
    assert [first.param_groups[0]["lr"], second.param_groups[0]["lr"]] == pytest.approx([0.1, 0.081])
    assert [one.last_epoch, two.last_epoch] == [0, 2]


def test_a_scheduler_that_does_not_take_its_own_state_is_named():
    class Forgets(lrs.StepLR):
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            raise KeyError("gamma")

    scheduler = Forgets(SGD([nn.Parameter(torch.ones(1))], lr=0.1), 2)
    with pytest.raises(growkit.SurgeryError, match=r"(?s)Forgets cannot begin anew.*KeyError.*gamma") as caught:
        Standing([scheduler]).restore([scheduler])
    assert has_four_parts(caught.value)
