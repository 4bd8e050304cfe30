"""Which combinations to try: every pair of choices at least once, the rest at random from a fixed seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from random import Random
from typing import Any

from choices import METHODS, OPTIMIZERS, PRECISIONS, REWARMS, SAVING, SCHEDULERS, SCHEDULES, VALIDATIONS
from fates import ALWAYS, IN_EVENTS, IN_VALIDATIONS, MOMENTS
from programs import Program

Choices = Mapping[str, Any]

# Without what no resumed run can be exact, see test_known_limits.py.
AXES: dict[str, Sequence[Any]] = {
    "moment": MOMENTS,
    "scheduler": [name for name in SCHEDULERS if name != "plateau of the mean loss"],
    "optimizer": list(OPTIMIZERS),
    "method": list(METHODS),
    "loader": ["shuffle", "own generator", "worker", "weighted", "stream"],
    "validation": list(VALIDATIONS),
    "saving": list(SAVING),
    "precision": PRECISIONS,
    "accumulate": (1, 2, 3),
    "when": list(SCHEDULES),
    "rewarm": list(REWARMS),
}

# How often a moment is reached before the end comes; 24 batches, 12 steps, 6 epochs and 2 events are sure to be.
_TIMES = {
    **dict.fromkeys(("a batch starts", "a step computes", "a validation computes"), (3, 11)),
    **dict.fromkeys(("before an optimizer step", "after an optimizer step"), (3, 11)),
    **dict.fromkeys((*IN_EVENTS, "an epoch starts", "an epoch ends", "a validation ends"), (2, 2)),
    **dict.fromkeys((moment for moment in MOMENTS if "checkpoint" in moment), (2, 4)),
    "a tensor is exchanged": (2, 8),
}


@dataclass(frozen=True)
class Case:
    """A program, and where its processes are killed, one after the other."""

    program: Program
    kills: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return f"{' and '.join(f'{moment} ({times})' for moment, times in self.kills)}: {self.program}"


def cases(seed: int, least: int) -> list[Case]:
    """Return cases that cover every pair; every second is killed once more, after it was resumed."""
    random = Random(seed)
    return [_case(choices, random, twice=number % 2 == 0) for number, choices in enumerate(design(random, least))]


def _case(choices: Choices, random: Random, twice: bool) -> Case:
    moment = choices["moment"]
    kills = [(moment, random.randint(*_TIMES[moment]))]
    if twice:
        kills.append((random.choice(ALWAYS), 1))
    return Case(Program(**{name: value for name, value in choices.items() if name != "moment"}), tuple(kills))


def allowed(choices: Choices) -> bool:
    """Say whether choices, of some axes only, go together."""
    method, moment, validation = (choices.get(name, "") for name in ("method", "moment", "validation"))
    if method == "deepens" and moment == "a tensor is exchanged":
        return False  # a block is new, and exchanges nothing
    if validation == "none":
        watches = "validation" in choices.get("scheduler", "") or choices.get("when") == "plateau"
        return not watches and moment not in IN_VALIDATIONS
    return not (validation == "half epochs" and choices.get("loader") == "stream")  # half of what?


def pairs(choices: Choices) -> set[tuple[Any, ...]]:
    """Return the pairs of choices in a combination, each in the order of the axes."""
    return set(combinations([(name, choices[name]) for name in AXES if name in choices], 2))


def all_pairs() -> list[tuple[Any, ...]]:
    entries = [(name, value) for name, values in AXES.items() for value in values]
    return [
        (one, other) for one, other in combinations(entries, 2) if one[0] != other[0] and allowed(dict([one, other]))
    ]


def design(random: Random, least: int) -> list[Choices]:
    """Return combinations in which every allowed pair of choices occurs, and at least so many of them."""
    wanted, found = all_pairs(), []
    missing = set(wanted)
    for pair in random.sample(wanted, len(wanted)):
        if pair in missing:
            found.append(_completed(dict(pair), random, missing))
            missing -= pairs(found[-1])
    return found + [_completed({}, random, missing) for _ in range(least - len(found))]


def _completed(choices: Choices, random: Random, missing: set[tuple[Any, ...]]) -> Choices:
    """Choose on every other axis what brings the most missing pairs."""
    for name in random.sample(list(AXES), len(AXES)):
        if name not in choices:
            options = [{**choices, name: value} for value in random.sample(list(AXES[name]), len(AXES[name]))]
            choices = max(filter(allowed, options), key=partial(_worth, name=name, missing=missing))
    return choices


def _worth(choices: Choices, name: str, missing: set[tuple[Any, ...]]) -> int:
    """Return how many missing pairs one of the choices makes with the others."""
    one = (name, choices[name])
    return sum((one, other) in missing or (other, one) in missing for other in choices.items())
