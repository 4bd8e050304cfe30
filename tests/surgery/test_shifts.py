"""Gains that are used as `1 + weight`: the sum is shared out, and the weight makes up for the number."""

import pytest
import torch
from torch import nn

import growkit
from growkit.surgery.carry import AxisMap, ParamChange


class Tied(nn.Module):
    """A tied head behind a norm that multiplies by the gain plus some numbers."""

    def __init__(self, *numbers, beside=lambda gain: 0.0):
        super().__init__()
        self.embed, self.gain = nn.Parameter(torch.randn(7, 4)), nn.Parameter(0.1 * torch.randn(4))
        self.numbers, self.beside = numbers, beside

    def forward(self, ids):
        h = self.embed[ids]
        for number in self.numbers:
            norm = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)
            h = norm * (number + self.gain.to(h.dtype))
        return h @ self.embed.T + self.beside(self.gain)


IDS = torch.arange(6).view(2, 3)


@pytest.mark.parametrize("number", [1, 1.0, -2.5])
def test_the_sum_of_gain_and_number_is_shared_out_and_folds_back(number):
    torch.manual_seed(0)
    model = Tied(number).double()
    before, gain = model(IDS), model.gain.detach().clone()
    growkit.apply(model, growkit.Widen("embed", range(4)), example=(IDS,))
    torch.testing.assert_close(model(IDS), before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.gain.detach() + number, ((gain + number) / 2).repeat(2))
    growkit.apply(model, growkit.Narrow("embed", range(4, 8), into=range(4)), example=(IDS,))
    torch.testing.assert_close(model.gain.detach(), gain)


def test_averages_of_a_shifted_gain_follow_it_and_moments_do_not_know_the_number():
    torch.manual_seed(0)
    model = Tied(1).double()
    old = model.gain.detach().clone()
    change = growkit.apply(model, growkit.Widen("embed", range(4)), example=(IDS,))
    torch.testing.assert_close(change.carry(old, "gain"), model.gain.detach())
    torch.testing.assert_close(change.carry(torch.ones(4).double(), "gain", like="gradient"), torch.ones(8).double())


def test_in_half_precision_gains_of_units_without_copies_keep_every_bit():
    gain = (0.003 * torch.randn(4, generator=torch.Generator().manual_seed(0))).bfloat16()
    source, share = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([0.5, 1, 1, 1, 0.5], dtype=torch.float64)
    one = AxisMap([(source, share)], [(source, share)], shares=True)
    carried = ParamChange("gain", gain, gain, (one,), shift=1.0).carry(gain)
    assert torch.equal(carried[1:4], gain[1:])
    torch.testing.assert_close(carried[0] + 1, (gain[0] + 1) / 2)


@pytest.mark.parametrize(
    "model",
    [Tied(1, 2), Tied(1, beside=lambda gain: gain.square().sum()), Tied(1, 0.0)],
    ids=["two numbers", "the gain by itself", "a number and none"],
)
def test_a_gain_that_is_used_otherwise_too_stays_whole(model):
    (frozen,) = (width.frozen for width in growkit.trace(model, IDS).widths.values() if width.size == 4)
    assert frozen
