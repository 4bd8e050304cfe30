"""Schedules go on through edits: rates and momenta are those of a run without, bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_cases import network, train
from torch import optim
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

from growkit.surgery import Deepen, Narrow, Widen, apply

SCHEDULERS: dict[str, Callable[[optim.Optimizer], Any]] = {
    "StepLR": lambda o: lrs.StepLR(o, 4, 0.5),
    "MultiStepLR": lambda o: lrs.MultiStepLR(o, [3, 8, 9]),
    "ConstantLR": lambda o: lrs.ConstantLR(o, 0.5, 6),
    "LinearLR": lambda o: lrs.LinearLR(o, 0.3, total_iters=10),
    "ExponentialLR": lambda o: lrs.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lrs.PolynomialLR(o, 12, 2.0),
    "CosineAnnealingLR": lambda o: lrs.CosineAnnealingLR(o, 9, 1e-3),
    "CosineAnnealingWarmRestarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 4, 2),
    "CyclicLR": lambda o: lrs.CyclicLR(o, [0.01, 0.02], [0.1, 0.3], step_size_up=3, cycle_momentum=False),
    "CyclicLR with momentum": lambda o: lrs.CyclicLR(o, [0.01, 0.02], [0.1, 0.3], step_size_up=3),
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, [0.1, 0.2], 20),
    "LambdaLR": lambda o: lrs.LambdaLR(o, [lambda step: 0.9**step, lambda step: 1 / (1 + step)]),
    "MultiplicativeLR": lambda o: lrs.MultiplicativeLR(o, lambda step: 1 - 0.01 * step),
    "SequentialLR": lambda o: lrs.SequentialLR(o, [lrs.LinearLR(o, 0.2, total_iters=5), lrs.StepLR(o, 3)], [6]),
    "ChainedScheduler": lambda o: lrs.ChainedScheduler([lrs.ConstantLR(o, 0.1, 4), lrs.ExponentialLR(o, 0.9)], o),
    "ReduceLROnPlateau": lambda o: lrs.ReduceLROnPlateau(o, factor=0.5, patience=1),
    "SWALR": lambda o: SWALR(o, 0.01, anneal_epochs=8),
}
EDITS = {3: Widen("0", (0, 1), new=1), 7: Deepen("1", "linear", 7), 11: Narrow("0", (6,))}
PLATEAU = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_every_scheduler_of_torch_is_here():
    known = {name.removesuffix(" with momentum") for name in SCHEDULERS}
    assert {*lrs.__all__, "SWALR"} - {"LRScheduler"} <= known


def course(name: str, edited: bool) -> list[list[tuple[float, float]]]:
    """Return rates and momenta of two groups after each of 15 steps, and those that the scheduler says."""
    model = network()
    groups = [{"params": list(layer.parameters())} for layer in (model[0], model[2])]
    groups[1]["lr"] = 0.02
    optimizer = optim.SGD(groups, 0.05, momentum=0.9)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*epoch parameter in `scheduler.step", UserWarning)  # of SequentialLR
        scheduler = SCHEDULERS[name](optimizer)
        seen = []
        for step in range(15):
            train(model, optimizer, 1)
            scheduler.step(*[PLATEAU[step]] * (name == "ReduceLROnPlateau"))
            seen.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
            assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
            if edited and step in EDITS:
                inputs = (torch.randn(2, 3, dtype=torch.float64),)
                apply(model, EDITS[step], example=inputs, optimizers=[optimizer], exact=False)
    assert [len(group["params"]) for group in optimizer.param_groups] == [6 if edited else 2, 2]
    return seen


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_goes_on_as_if_nothing_had_happened(name):
    plain, edited = course(name, edited=False), course(name, edited=True)
    assert plain == edited
    assert len({str(step) for step in plain}) > 1
