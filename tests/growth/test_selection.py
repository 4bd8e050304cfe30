"""What growth costs, and which candidates are chosen by default."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from growth.stubs import mlp, widen
from hypothesis import given
from hypothesis import strategies as st
from small_models import CASES
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import growkit
from growkit.growth import Cost, select
from growkit.growth.candidate import price, sizes_after


def measured(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[int, float]:
    """Parameters, and FLOPs per sample of a forward pass, counted on the model itself."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / len(inputs[0])


def difference(after: tuple[int, float], before: tuple[int, float]) -> Cost:
    return Cost(after[0] - before[0], after[1] - before[1])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_price_of_a_candidate_is_what_a_really_built_model_costs(case):
    model, inputs = case.model(), case.inputs(2)
    structure = growkit.trace(model, *inputs)
    start = measured(model, inputs)
    for width, size in case.widths.items():
        added = price(structure, growkit.Widen(width, copies=[0], new=2))
        expected = difference(measured(case.model(**{width: size + 3}), inputs), start)
        assert added.parameters == expected.parameters
        assert added.flops == pytest.approx(expected.flops, rel=1e-9)


def test_a_removal_has_a_negative_price():
    model, inputs = mlp(3, 5, 4, 2), (torch.randn(2, 3).double(),)
    saved = price(growkit.trace(model, *inputs), growkit.Narrow("0", remove=[4, 1]))
    expected = difference(measured(mlp(3, 3, 4, 2), inputs), measured(model, inputs))
    assert (saved.parameters, saved.flops) == (expected.parameters, expected.flops) == (-16, -28.0)


def convolution(dimensions: int) -> tuple[nn.Sequential, torch.Tensor]:
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    return nn.Sequential(layer(2, 3, 1), nn.Tanh(), layer(3, 1, 1)), torch.randn(2, 2, *range(5, 5 + dimensions))


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d", "conv3d"])
@pytest.mark.parametrize("hidden", [None, 7])
def test_the_price_of_a_block_is_what_it_costs_once_inserted(kind, hidden):
    model, x = convolution(int(kind[-2])) if kind != "linear" else (mlp(4, 3, 2).float(), torch.randn(2, 4))
    start = measured(model, (x,))
    edit = growkit.Deepen("0", kind, 3, hidden)
    added = price(growkit.trace(model, x), edit)
    growkit.apply(model, edit, example=(x,))
    expected = difference(measured(model, (x,)), start)
    assert (added.parameters, added.flops) == (expected.parameters, expected.flops)


# ---------------------------------------------------------------- the default choice


@cache
def structure() -> growkit.Structure:
    """Widths "0" (2 units, 5 channels of work each at 36 positions) and "4" (3 units) with 7 outputs."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(72, 1), nn.Linear(1, 3), nn.Linear(3, 7)
    )
    return growkit.trace(model, torch.randn(2, 1, 8, 8))


def priced(*candidates: growkit.Candidate) -> list[growkit.Candidate]:
    return [
        growkit.Candidate(candidate.edit, candidate.gain, cost=price(structure(), candidate.edit))
        for candidate in candidates
    ]


def gains(chosen: list[growkit.Candidate]) -> list[float]:
    return [candidate.gain for candidate in chosen]


def test_the_costs_that_the_tests_below_are_built_on():
    conv, linear = (candidate.cost for candidate in priced(widen("0", 0), widen("4", 0)))
    assert (conv.parameters, linear.parameters) == (9 + 36, 1 + 1 + 7)
    assert (conv.flops, linear.flops) == (2 * 36 * (9 + 1), 2 * (1 + 7))


def test_best_gain_for_each_parameter_comes_first():
    dear, cheap, useless = priced(widen("0", 0, gain=45.0), widen("4", 0, gain=18.0), widen("4", 1, gain=0.0))
    assert gains(select([useless, dear, cheap], structure(), growkit.Budget())) == [18.0, 45.0, 0.0]


def test_without_a_budget_all_are_chosen_and_equals_keep_their_order():
    candidates = priced(*(widen("4", unit % 3, gain=9.0) for unit in range(5)), widen("0", 0, gain=45.0))
    assert select(candidates, structure(), growkit.Budget()) == candidates
    assert select(candidates[::-1], structure(), growkit.Budget()) == candidates[::-1]


def test_what_exceeds_the_budget_is_passed_over_and_cheaper_ones_behind_still_have_their_chance():
    candidates = priced(widen("0", 0, gain=1000.0), widen("4", 0, gain=3.0), widen("4", 1, gain=2.0))
    room = growkit.Budget(parameters=structure().parameters() + 9)
    assert gains(select(candidates, structure(), room)) == [3.0]
    assert gains(select(candidates, structure(), growkit.Budget(parameters=room.parameters - 1))) == []
    assert gains(select(candidates, structure(), growkit.Budget(parameters=room.parameters + 45))) == [1000.0, 3.0]


def test_a_budget_of_flops_alone_ranks_by_flops():
    per_parameter, per_flop = priced(widen("0", 0, gain=90.0), widen("4", 0, gain=9.0))
    both = [per_flop, per_parameter]
    plenty = structure().flops() + 1e6
    assert gains(select(both, structure(), growkit.Budget(flops=plenty))) == [9.0, 90.0]
    assert gains(select(both, structure(), growkit.Budget(parameters=10**6, flops=plenty))) == [90.0, 9.0]


def test_both_limits_hold_at_once():
    candidates = priced(widen("0", 0, gain=90.0), widen("4", 0, gain=9.0))
    tight = growkit.Budget(parameters=10**6, flops=structure().flops() + 719)
    assert gains(select(candidates, structure(), tight)) == [9.0]


proposals = st.tuples(
    st.sampled_from(["0", "4"]),
    st.lists(st.integers(0, 1), min_size=1, max_size=3),
    st.integers(0, 2),
    st.floats(0, 10),
)


@given(
    wanted=st.lists(proposals, max_size=8),
    parameters=st.one_of(st.none(), st.integers(0, 600)),
    flops=st.one_of(st.none(), st.integers(0, 12000)),
)
def test_the_choice_never_exceeds_the_budget_and_leaves_out_nothing_that_fits(wanted, parameters, flops):
    start = structure()
    candidates = priced(*(widen(width, *copies, new=new, gain=gain) for width, copies, new, gain in wanted))
    budget = growkit.Budget(
        None if parameters is None else start.parameters() + parameters,
        None if flops is None else start.flops() + flops,
    )
    chosen = select(candidates, start, budget)

    def size(edits: list[growkit.Edit]) -> tuple[int, float]:
        """Of a model built anew with the final sizes."""
        sizes = {"0": 2, "4": 3, **sizes_after(start, edits)}
        conv, linear = sizes["0"], sizes["4"]
        return 45 * conv + 1 + 9 * linear + 7, 720.0 * conv + 16.0 * linear

    def fits(edits: list[growkit.Edit]) -> bool:
        total, work = size(edits)
        return (budget.parameters is None or total <= budget.parameters) and (
            budget.flops is None or work <= budget.flops
        )

    edits = [candidate.edit for candidate in chosen]
    assert not edits or fits(edits)
    assert set(map(id, chosen)) <= set(map(id, candidates))
    assert not any(fits([*edits, other.edit]) for other in candidates if all(other is not one for one in chosen))
