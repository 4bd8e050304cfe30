"""Learning rates that warm up again: the closed form, and that nobody but the update sees them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import growkit
from growkit.growth import Ramp


@given(steps=st.integers(1, 50), start=st.floats(0, 1))
def test_the_factor_rises_in_a_line_from_start_to_one(steps, start):
    rewarm = growkit.Rewarm(steps, start)
    factors = [rewarm.factor(step) for step in range(steps + 3)]
    assert factors[0] == start
    assert factors[steps:] == [1.0] * 3
    assert factors == sorted(factors)
    assert factors[:steps] == pytest.approx([start + (1 - start) * k / steps for k in range(steps)])


@pytest.mark.parametrize("arguments", [(0,), (-1,), (3, -0.1), (3, 1.1), (3, float("nan"))])
def test_what_is_no_ramp_is_refused(arguments):
    with pytest.raises(ValueError, match="Rewarm takes steps >= 1"):
        growkit.Rewarm(*arguments)


# ---------------------------------------------------------------- a plain optimizer


def ones() -> nn.Parameter:
    """A parameter whose gradient is 1 in every step, so that plain SGD moves it by its rate."""
    parameter = nn.Parameter(torch.ones((), dtype=torch.float64))
    parameter.grad = torch.ones_like(parameter)
    return parameter


def moves(parameter: Tensor, step, count: int) -> list[float]:
    found = []
    for _ in range(count):
        before = parameter.item()
        step()
        found.append(before - parameter.item())
    return found


@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["number", "tensor"])
def test_each_step_is_made_with_its_share_of_the_rate(kind):
    first, second = ones(), ones()
    rate = kind(0.5)
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": kind(0.25)}], lr=rate)
    Ramp(growkit.Rewarm(4, start=0.2), [optimizer])
    twice = [moves(parameter, lambda: None, 0) for parameter in (first, second)]
    for _ in range(6):
        before = first.item(), second.item()
        optimizer.step()
        twice[0].append(before[0] - first.item())
        twice[1].append(before[1] - second.item())
        assert optimizer.param_groups[0]["lr"] is rate
    assert twice[0] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
    assert twice[1] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.25])


def test_groups_that_share_a_tensor_as_their_rate():
    parameters, rate = [ones(), ones()], torch.tensor(0.5)
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=rate)
    Ramp(growkit.Rewarm(2), [optimizer])
    optimizer.step()
    optimizer.step()
    assert [parameter.item() for parameter in parameters] == [0.75, 0.75]
    assert rate.item() == 0.5


def test_two_optimizers_count_for_themselves():
    one, other = ones(), ones()
    optimizers = [torch.optim.SGD([one], lr=1.0), torch.optim.SGD([other], lr=1.0)]
    Ramp(growkit.Rewarm(4), optimizers)
    assert moves(one, optimizers[0].step, 5) == [0, 0.25, 0.5, 0.75, 1]
    assert moves(other, optimizers[1].step, 2) == [0, 0.25]


def test_a_ramp_goes_on_from_its_state():
    one, other = ones(), ones()
    first, second = torch.optim.SGD([one], lr=1.0), torch.optim.SGD([other], lr=1.0)
    ramp = Ramp(growkit.Rewarm(4), [first])
    early = moves(one, first.step, 2)
    Ramp.from_state(ramp.state_dict(), [second])
    assert early + moves(other, second.step, 3) == [0, 0.25, 0.5, 0.75, 1]


def test_the_end_of_a_ramp_gives_the_rates_back():
    parameter = ones()
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    ramp = Ramp(growkit.Rewarm(4), [optimizer])
    optimizer.step()
    ramp.end()
    assert moves(parameter, optimizer.step, 2) == [1, 1]


def closures(optimizer, by_name: bool):
    """Steps whose closure looks at the rate, and sets it once."""
    seen = []

    def closure() -> Tensor:
        seen.append(optimizer.param_groups[0]["lr"])
        if len(seen) == 2:
            optimizer.param_groups[0]["lr"] = 2.0
        return torch.zeros(())

    return seen, lambda: optimizer.step(closure=closure) if by_name else optimizer.step(closure)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_sees_the_rate_of_the_schedule_and_may_set_it(by_name):
    """The training step runs inside of the step of the optimizer."""
    parameter = ones()
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    Ramp(growkit.Rewarm(4), [optimizer])
    seen, step = closures(optimizer, by_name)
    assert moves(parameter, step, 5) == [0, 0.5, 1, 1.5, 2]
    assert seen == [1.0, 1.0, 2.0, 2.0, 2.0]


class Breaks(torch.optim.SGD):
    """Fails in its second update."""

    updates = 0

    def step(self, closure=None):
        result = super().step(closure)
        self.updates += 1
        if self.updates == 2:
            raise InterruptedError
        return result


def test_a_step_that_fails_is_not_counted_and_leaves_rates_right():
    parameter = ones()
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    ramp = Ramp(growkit.Rewarm(4), [optimizer])
    optimizer.step()

    def fails() -> Tensor:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        optimizer.step(fails)
    assert optimizer.param_groups[0]["lr"] == 1.0
    assert ramp.state_dict()["taken"] == [1]
    assert moves(parameter, optimizer.step, 2) == [0.25, 0.5]


def test_an_update_that_fails_leaves_rates_right_at_the_next_step_and_at_the_end():
    parameter = ones()
    optimizer = Breaks([parameter], lr=1.0)
    ramp = Ramp(growkit.Rewarm(4), [optimizer])
    optimizer.step()
    with pytest.raises(InterruptedError):
        optimizer.step()
    ramp.end()
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_lbfgs_evaluates_with_the_rate_of_the_schedule_and_steps_with_the_lowered_one():
    def run(factor: float) -> tuple[float, list[float]]:
        parameter, seen = nn.Parameter(torch.ones((), dtype=torch.float64)), []
        optimizer = torch.optim.LBFGS([parameter], lr=0.5, max_iter=2)
        if factor < 1:
            Ramp(growkit.Rewarm(1, start=factor), [optimizer])
        else:
            optimizer.param_groups[0]["lr"] = 0.25

        def closure() -> Tensor:
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()
            loss = parameter.square()
            loss.backward()
            return loss

        optimizer.step(closure)
        return parameter.item(), seen

    (ramped, seen), (plain, _) = run(0.5), run(1.0)
    assert ramped == plain
    assert set(seen) == {0.5}


def test_a_restart_needs_no_ramp():
    assert growkit.Rewarm(restart=True).factor(0) == 1
    with pytest.raises(ValueError, match="0 with restart"):
        growkit.Rewarm()
    with pytest.raises(ValueError, match="Rewarm takes steps"):
        growkit.Rewarm(-1, restart=True)
