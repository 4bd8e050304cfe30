"""A run that is killed with SIGKILL, and resumed by another process, equals the uninterrupted run, bit for bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from choices import METHODS
from designs import AXES, Case, all_pairs, cases, pairs
from interrupted import outcome
from programs import Program

from growkit.lightning.checkpoint import read

CASES = cases(seed=1, least=200)
SAMPLE = CASES[:: len(CASES) // 5]
EVERY_FILE = [
    Program(method=method, validation=validation, saving=saving, when=when, accumulate=accumulate, rewarm="ramp")
    for method, (validation, saving, when, accumulate) in zip(
        METHODS,
        [
            ("none", "steps", "steps", 1),
            ("three batches", "both", "plateau", 3),
            ("half epochs", "epochs", "plateau", 3),
            ("epochs", "both", "epochs", 2),
            ("none", "both", "epochs", 3),
        ],
        strict=True,
    )
]


def check(case, runs, folder):
    assert runs.differences(case, folder) == []
    whole = outcome(runs.whole(case.program))
    assert whole["finite"] == "True"
    assert int(whole["events"]) >= 2


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_a_killed_run_equals_the_uninterrupted_run(case, runs, tmp_path):
    check(case, runs, tmp_path)


# What these tests have found.
FOUND = {
    # The epoch after it ran without a start, and a checkpoint of it led to one epoch too many.
    "resumed from the last batch of an epoch, and again": Case(
        Program(), (("an epoch starts", 3), ("an epoch ends", 1))
    ),
    # The first batch was taken before the random numbers were set back, and drew others than it should.
    "data without a length, from the end of an epoch": Case(
        Program(loader="stream", saving="epochs"), (("a step computes", 7),)
    ),
    "data without a length, before a validation that is due": Case(
        Program(loader="stream", validation="epochs"), (("a validation computes", 3),)
    ),
    # torch casts all state but step counts to the type of the parameter as it loads it: the product is single.
    "NAdam in double precision": Case(Program(optimizer="NAdam", precision="64-true"), (("a step computes", 7),)),
    "NAdam in half precision": Case(Program(optimizer="NAdam", precision="bf16-true"), (("a step computes", 7),)),
}


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND)
def test_found(case, runs, tmp_path):
    check(case, runs, tmp_path)


@pytest.mark.parametrize(("scheduler", "rewarm"), [("OneCycleLR", "restart"), ("SequentialLR", "restart with a ramp")])
def test_a_run_that_is_killed_between_restarts_equals_the_uninterrupted_run(scheduler, rewarm, runs, tmp_path):
    check(Case(Program(scheduler=scheduler, rewarm=rewarm), MIDDLE), runs, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in SAMPLE], ids=str)
def test_every_killed_run_equals_the_uninterrupted_run(case, runs, tmp_path):
    check(case, runs, tmp_path)


def test_every_pair_of_choices_is_among_the_cases():
    covered = set()
    for case in CASES:
        covered |= pairs({name: getattr(case.program, name, case.kills[0][0]) for name in AXES})
    assert set(all_pairs()) <= covered
    assert len(CASES) >= 200
    assert Counter(len(case.kills) for case in CASES)[2] >= 80


@pytest.mark.slow
@pytest.mark.parametrize("program", EVERY_FILE, ids=str)
def test_every_file_of_a_run_leads_to_the_same_end(program, runs, tmp_path):
    files = sorted(runs.whole(program).glob("*.ckpt"))
    assert len(files) >= 6
    for number, file in enumerate(files):
        assert runs.resume(program, tmp_path / str(number), file) == [], file.name


@pytest.mark.parametrize("moment", ["half a checkpoint is written", "a checkpoint is in no place yet"])
def test_a_process_that_dies_while_it_saves_leaves_the_last_checkpoint_whole(moment, runs, tmp_path):
    runs.kill(Case(Program(saving="last"), ((moment, 3),)), tmp_path)
    assert read(tmp_path / "last.ckpt")["global_step"] == 2
    (partial,) = tmp_path.glob(".*.partial")
    size = (tmp_path / "last.ckpt").stat().st_size
    assert (partial.stat().st_size < 0.9 * size) == (moment == "half a checkpoint is written")


# ------------------------------------------------------------------ a comparison that sees

MIDDLE = (("a step computes", 7),)
WANTED: dict[str, Case] = {
    "random numbers": Case(Program(), MIDDLE),
    "places in loaders": Case(Program(), MIDDLE),
    "what was under way": Case(Program(scheduler="plateau of the loss, by step"), MIDDLE),
    "a validation that was due": Case(Program(validation="epochs"), (("an epoch ends", 3),)),
    "the schedule of growth": Case(Program(validation="epochs", when="plateau"), MIDDLE),
    "how learning rates began": Case(Program(scheduler="OneCycleLR", rewarm="restart"), MIDDLE),
    "learning rates on the way up": Case(Program(rewarm="ramp"), (("a step computes", 9),)),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", WANTED)
def test_whatever_is_left_out_of_resuming_is_missed(part, runs, tmp_path):
    case = WANTED[part]
    assert runs.differences(case, tmp_path / "as it is") == []
    assert runs.differences(case, tmp_path / "sabotage", last=replace(case.program, sabotage=part)) != []


def test_another_seed_of_growth_is_seen(runs, tmp_path):
    case = Case(Program(), MIDDLE)
    found = runs.differences(case, tmp_path, last=replace(case.program, seed=1))
    assert {"growth.journal", "weights.first.weight"} <= set(found)
