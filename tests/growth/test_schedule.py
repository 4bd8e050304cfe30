from __future__ import annotations

import math
from itertools import accumulate, pairwise

import pytest
from growth.stubs import has_four_parts
from hypothesis import given
from hypothesis import strategies as st

import growkit
from growkit.growth import Moment, Schedule


def moments(epochs: int, batches: int) -> list[Moment]:
    return [Moment(epoch * batches + batch, epoch, batch) for epoch in range(epochs) for batch in range(batches)]


def due_steps(schedule: Schedule, epochs: int = 7, batches: int = 4) -> list[int]:
    return [moment.step for moment in moments(epochs, batches) if schedule.due(moment)]


def test_every_epochs_is_due_before_the_first_batch_and_never_at_the_start():
    assert due_steps(growkit.every(epochs=1)) == [4, 8, 12, 16, 20, 24]
    assert due_steps(growkit.every(epochs=3)) == [12, 24]


def test_every_steps_ignores_epochs_and_never_is_due_at_the_start():
    assert due_steps(growkit.every(steps=1), epochs=1) == [1, 2, 3]
    assert due_steps(growkit.every(steps=6)) == [6, 12, 18, 24]


def asked_at(schedule: Schedule, steps: list[int]) -> list[int]:
    return [step for step in steps if schedule.due(Moment(step, 0, 0))]


@given(jumps=st.lists(st.integers(0, 7), max_size=30), steps=st.integers(1, 6))
def test_every_steps_is_due_once_for_each_multiple_that_was_reached_or_passed(jumps, steps):
    asked = [0, *accumulate(jumps)]
    crossed = [new for old, new in pairwise(asked) if any(step % steps == 0 for step in range(old + 1, new + 1))]
    assert asked_at(growkit.every(steps=steps), asked) == crossed


def test_every_steps_is_due_although_two_optimizers_step_over_the_multiple():
    assert asked_at(growkit.every(steps=3), list(range(0, 20, 2))) == [4, 6, 10, 12, 16, 18]


@given(jumps=st.lists(st.integers(0, 7), max_size=30), steps=st.integers(1, 6), interruption=st.integers(0, 30))
def test_every_steps_goes_on_from_its_state(jumps, steps, interruption):
    asked = [0, *accumulate(jumps)]
    first, second = growkit.every(steps=steps), growkit.every(steps=steps)
    early = asked_at(first, asked[:interruption])
    second.load_state_dict(first.state_dict())
    assert early + asked_at(second, asked[interruption:]) == asked_at(growkit.every(steps=steps), asked)


@pytest.mark.parametrize(("start", "due"), [(6, [6, 9]), (7, [9])])
def test_every_steps_goes_on_from_a_state_of_0_1_which_was_empty(start, due):
    schedule = growkit.every(steps=3)
    schedule.load_state_dict({})
    assert asked_at(schedule, list(range(start, 12))) == due


def test_one_schedule_serves_a_second_run():
    schedule = growkit.every(steps=3)
    assert asked_at(schedule, [0, 1, 2, 3, 4]) == [3]
    assert asked_at(schedule, [0, 1, 2, 3, 4]) == [3]


@pytest.mark.parametrize("arguments", [{}, {"epochs": 1, "steps": 1}, {"epochs": 0}, {"steps": 0}, {"steps": -2}])
def test_every_refuses_what_is_no_interval(arguments):
    with pytest.raises(ValueError, match=r"every\(\) takes epochs=N or steps=N with N >= 1"):
        growkit.every(**arguments)


def growths(schedule: Schedule, values: list[float], metric: str = "val_loss") -> list[int]:
    """After which validations growth is due."""
    due = []
    for index, value in enumerate(values):
        schedule.observe({metric: value, "other": -1.0})
        if schedule.due(Moment(index, index, 0)):
            due.append(index)
    return due


def test_on_plateau_waits_for_patience_to_run_out_and_starts_anew_after_growth():
    #          better   1    2    start anew    1    2
    values = [5.0, 4.0, 4.0, 4.5, 9.0, 8.0, 8.0, 8.5, 8.0, 8.0]
    assert growths(growkit.on_plateau("val_loss", patience=2), values) == [3, 7]


def test_on_plateau_counts_consecutive_failures_only():
    assert growths(growkit.on_plateau("val_loss", patience=2), [5.0, 6.0, 4.0, 6.0, 3.0, 6.0]) == []


def test_on_plateau_can_wait_for_a_maximum():
    values = [0.5, 0.6, 0.6, 0.55]
    assert growths(growkit.on_plateau("accuracy", 2, mode="max"), values, "accuracy") == [3]
    assert growths(growkit.on_plateau("accuracy", 2, mode="min"), values, "accuracy") == [2]


def test_nan_is_no_improvement():
    assert growths(growkit.on_plateau("val_loss", patience=2), [1.0, math.nan, math.nan, 0.5]) == [2]


def test_on_plateau_is_due_once():
    schedule = growkit.on_plateau("val_loss", patience=1)
    schedule.observe({"val_loss": 1.0})
    schedule.observe({"val_loss": 1.0})
    assert [schedule.due(Moment(step, 1, step)) for step in range(3)] == [True, False, False]


def test_on_plateau_names_a_metric_that_is_not_logged():
    with pytest.raises(growkit.GrowkitError, match=r"(?s)'val_los'.*train_loss, val_loss.*did you mean") as caught:
        growkit.on_plateau("val_los").observe({"val_loss": 1.0, "train_loss": 2.0})
    assert has_four_parts(caught.value)
    with pytest.raises(growkit.GrowkitError, match=r"(?s)'val_loss'") as caught:
        growkit.on_plateau("val_loss").observe({})
    assert has_four_parts(caught.value)


@pytest.mark.parametrize("arguments", [{"patience": 0}, {"patience": -1}, {"mode": "least"}])
def test_on_plateau_refuses_what_is_no_plateau(arguments):
    with pytest.raises(ValueError, match=r"on_plateau\(\) takes patience >= 1 and mode 'min' or 'max'"):
        growkit.on_plateau("val_loss", **arguments)


@given(
    values=st.lists(st.one_of(st.integers(0, 4), st.just(math.nan)), min_size=1, max_size=20),
    interruption=st.integers(0, 20),
    patience=st.integers(1, 3),
    mode=st.sampled_from(["min", "max"]),
)
def test_on_plateau_goes_on_from_its_state(values, interruption, patience, mode):
    before, after = values[:interruption], values[interruption:]
    whole = growths(growkit.on_plateau("val_loss", patience, mode), values)
    first = growkit.on_plateau("val_loss", patience, mode)
    second = growkit.on_plateau("val_loss", patience, mode)
    early = growths(first, before)
    second.load_state_dict(first.state_dict())
    assert early + [index + len(before) for index in growths(second, after)] == whole


def test_a_plateau_that_was_seen_but_not_acted_on_survives_an_interruption():
    first, second = growkit.on_plateau("val_loss", 1), growkit.on_plateau("val_loss", 1)
    first.observe({"val_loss": 1.0})
    first.observe({"val_loss": 1.0})
    second.load_state_dict(first.state_dict())
    assert second.due(Moment(8, 2, 0))
