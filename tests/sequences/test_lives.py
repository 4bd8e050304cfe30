"""Random sequences of edits, steps, saves and loads: what `lives` demands holds all along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import lives
import pytest
import torch
from lives import Life
from networks import NETWORKS

from growkit.surgery import Operation
from growkit.surgery.optimizer import OptimizerPlan

LENGTH, CHUNK = 10, 50


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Scalars that optimizers keep are of the default type, and torch loads them in the type of the parameter."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def live(seeds: range, tally: Counter) -> Counter:
    """Live one life for each seed, and return how often what was done."""
    counts = Counter()
    for seed in seeds:
        life = Life(seed)
        try:
            life.live(LENGTH)
        except BaseException as error:
            error.add_note(str(life))
            raise
        counts += life.counts + Counter(lives=1)
    tally.update(counts)
    return counts


def test_some_lives(tally):
    counts = live(range(25), tally)
    assert counts["Widen"] >= 50
    assert counts["Narrow"] >= 25
    assert counts["Deepen"] >= 10
    assert counts["refusals"] >= 10
    assert counts["loads"] == 50


@pytest.mark.slow
@pytest.mark.parametrize("start", range(25, 1225, CHUNK))
def test_many_lives(start, tally):
    counts = live(range(start, start + CHUNK), tally)
    assert counts["Widen"] >= 150
    assert counts["Narrow"] >= 60
    assert counts["Deepen"] >= 25
    assert counts["loads"] == 2 * CHUNK


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_be_edited(name):
    """What is refused from beginning to end would be no test."""
    life = next(life for life in map(Life, range(1000)) if life.name == name)
    for _ in range(3):
        life.widen()
    assert life.counts["Widen"] >= 2


FAULTS = {
    "state that is not carried": (OptimizerPlan, "_carry", lambda plan, change, state: dict(state)),
    "optimizers that do not follow": (OptimizerPlan, "commit", lambda plan: None),
    "groups in another order": (lives, "restore_layout", lambda *_: None),
    "refusals that leave traces": (Operation, "undo", lambda operation: None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_lives_see_faults(fault, monkeypatch):
    monkeypatch.setattr(*FAULTS[fault])
    with pytest.raises((AssertionError, RuntimeError, KeyError)):
        live(range(25), Counter())
