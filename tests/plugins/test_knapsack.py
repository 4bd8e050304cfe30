"""Energy-aware selection: the knapsack, true costs of the whole model, and measured latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from growth.stubs import Asks, Proposes, event, mlp, widen
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.flop_counter import FlopCounterMode

import growkit
from growkit.cli.main import main
from growkit.growth.candidate import price
from growkit_plugins.classification import MLP, Classifier, Digits
from growkit_plugins.knapsack import Knapsack, added_seconds, choose
from growkit_plugins.knapsack.latency import repeated, time_in_turn
from growkit_plugins.knapsack.solve import EXACT
from growkit_plugins.splitting import Splitting

# ---------------------------------------------------------------- the knapsack

numbers = st.integers(0, 30)


@st.composite
def problems(draw: st.DrawFn, items: tuple[int, int], budgets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole gains and costs, so that sums are exact, of some items and budgets."""
    count = draw(st.integers(*items))
    gains = draw(st.lists(st.integers(-5, 30), min_size=count, max_size=count))
    costs = draw(st.lists(st.lists(numbers, min_size=count, max_size=count), min_size=budgets, max_size=budgets))
    rooms = draw(st.lists(st.integers(-1, 90), min_size=budgets, max_size=budgets))
    return np.array(gains, dtype=float), np.array(costs, dtype=float), np.array(rooms, dtype=float)


def best_of_all(gains: np.ndarray, costs: np.ndarray, budgets: np.ndarray) -> float:
    """The largest gain of any set within the budgets, by trying all; 0 if not even nothing is allowed."""
    sets = (np.arange(2 ** len(gains))[:, None] >> np.arange(len(gains))) & 1
    return float(max((sets @ gains)[(sets @ costs.T <= budgets).all(axis=1)], default=0.0))


def fractional(gains: np.ndarray, costs: np.ndarray, budget: float) -> float:
    """The optimum if items can be divided (Dantzig): at least that of whole ones."""
    total = 0.0
    for item in sorted(range(len(gains)), key=lambda item: -gains[item] / max(costs[item], 1e-9)):
        part = 1.0 if costs[item] <= budget else budget / costs[item]
        total, budget = total + part * gains[item], budget - part * costs[item]
    return total


@pytest.mark.parametrize("budgets", [1, 2])
@given(data=st.data())
def test_few_items_are_chosen_as_if_all_sets_had_been_tried(budgets, data):
    gains, costs, rooms = data.draw(problems((0, 9), budgets))
    chosen = choose(gains, costs, rooms)
    assert len(set(chosen)) == len(chosen)
    assert (gains[chosen] > 0).all()
    assert not chosen or (costs[:, chosen].sum(axis=1) <= rooms).all()
    assert gains[chosen].sum() == best_of_all(gains, costs, rooms)


@given(seed=st.integers(0, 10**6), share=st.floats(0.001, 1.0))
def test_many_items_gain_at_least_half_of_what_is_possible(seed, share):
    draw = np.random.default_rng(seed)
    costs = draw.integers(1, 10 ** draw.integers(1, 7), EXACT + 50).astype(float)
    gains = costs ** draw.choice([0.0, 0.5, 1.0, 2.0]) * draw.random(len(costs))
    budget = np.floor(costs.max() + share * costs.sum())
    chosen = choose(gains, costs, budget)
    assert costs[chosen].sum() <= budget
    assert gains[chosen].sum() >= fractional(gains, costs, budget) / 2


def test_many_cheap_items_do_not_keep_out_one_that_gains_more_than_all():
    """Gain per cost alone would fill the budget with 1 % of what is possible."""
    gains = np.array([100.0] + [0.0101] * (EXACT + 10))
    costs = np.array([10000.0] + [1.0] * (EXACT + 10))
    assert choose(gains, costs, 10000) == [0]


def test_with_several_budgets_a_2m_th_is_sure():
    draw = np.random.default_rng(0)
    for _ in range(20):
        costs = draw.integers(1, 1000, (3, EXACT + 20)).astype(float)
        gains, budgets = draw.random(EXACT + 20), costs.sum(axis=1) * draw.random(3)
        chosen = choose(gains, costs, budgets)
        assert (costs[:, chosen].sum(axis=1) <= budgets).all()
        upper = min(fractional(gains, row, budget) for row, budget in zip(costs, budgets, strict=True))
        assert gains[chosen].sum() >= upper / 6


@given(data=st.data(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_items_makes_no_difference(data, order):
    _, costs, rooms = data.draw(problems((1, 9), 2))
    gains = np.array(order.sample(range(1, 100), costs.shape[1]), dtype=float)
    shuffled = order.sample(range(len(gains)), len(gains))
    again = choose(gains[shuffled], costs[:, shuffled], rooms)
    assert [shuffled[item] for item in again] == choose(gains, costs, rooms)
    assert choose(gains, costs, rooms) == choose(gains, costs, rooms)


def test_best_gain_per_cost_comes_first_and_what_costs_nothing_before_all():
    assert choose([2.0, 9.0, 1.0, -3.0, 0.0], [1.0, 9.0, 0.0, 0.0, 0.0], 10.0) == [2, 0, 1]


@pytest.mark.parametrize("items", [5, EXACT + 5])
def test_budgets_may_be_infinite_zero_or_overdrawn(items):
    gains, costs = np.arange(1.0, items + 1), np.ones(items)
    costs[0] = 0
    everything = choose(gains, costs, np.inf)
    assert sorted(everything) == list(range(items))
    assert choose(gains, costs, 0.0) == [0]
    assert choose(gains, costs, -1.0) == []
    assert choose(gains, np.stack([costs, costs]), [np.inf, 1.0]) == [0, items - 1]
    assert choose([], [], 1.0) == []


# ---------------------------------------------------------------- true costs


@cache
def structure() -> growkit.Structure:
    """Widths "0" (4 units) and "2" (3 units) between 2 inputs and 1 output: each multiplies the cost of the other."""
    return growkit.trace(mlp(2, 4, 3, 1), torch.ones(2, 2).double())


def parameters(a: int, b: int) -> int:
    return (2 + 1) * a + (a + 1) * b + (b + 1)


def flops(a: int, b: int) -> float:
    return 2.0 * (2 * a + a * b + b)


def priced(*candidates: growkit.Candidate) -> list[growkit.Candidate]:
    return [growkit.Candidate(c.edit, c.gain, c.offsets, price(structure(), c.edit)) for c in candidates]


def context(traced: growkit.Structure | None = None, example: tuple[torch.Tensor, ...] = ()) -> growkit.Context:
    return growkit.Context(
        traced or structure(),
        growkit.Journal(),
        example=example,
        step=0,
        epoch=0,
        seed=0,
        loss=lambda model, batch: model(batch).sum(),
        batches=lambda count: [],
    )


def sizes(chosen: Sequence[growkit.Candidate]) -> tuple[int, int]:
    after = {"0": 4, "2": 3}
    for candidate in chosen:
        after[candidate.edit.width] = candidate.edit.new_size(after[candidate.edit.width])
    return after["0"], after["2"]


proposals = st.tuples(st.sampled_from(["0", "2"]), st.integers(0, 2), st.integers(0, 2), st.floats(-1, 10))


@given(
    wanted=st.lists(proposals, max_size=10),
    kind=st.sampled_from(["parameters", "flops"]),
    per_round=st.one_of(st.none(), st.floats(0.01, 4)),
    total=st.one_of(st.none(), st.integers(1, 150)),
    allowed=st.tuples(st.one_of(st.none(), st.integers(10, 150)), st.one_of(st.none(), st.integers(20, 250))),
)
def test_no_limit_is_exceeded_and_nothing_that_fits_is_left_out(wanted, kind, per_round, total, allowed):
    candidates = priced(
        *(widen(width, *range(copies), new=new, gain=g) for width, copies, new, g in wanted if copies + new)
    )
    budget = growkit.Budget(*allowed)
    chosen = Knapsack(kind, per_round, total).growkit_select(candidates, budget, context())
    start = {"parameters": parameters(4, 3), "flops": flops(4, 3)}[kind]

    def fits(more: Sequence[growkit.Candidate]) -> bool:
        after = {"parameters": parameters(*sizes(more)), "flops": flops(*sizes(more))}
        limits = [(after[kind], total), (after["parameters"], budget.parameters), (after["flops"], budget.flops)]
        limits.append((after[kind] - start, None if per_round is None else per_round * start))
        return all(limit is None or value <= limit for value, limit in limits)

    assert not chosen or fits(chosen)
    assert all(candidate.gain > 0 for candidate in chosen)
    left = [c for c in candidates if c.gain > 0 and all(c is not other for other in chosen)]
    assert not any(fits([*chosen, other]) for other in left)


def test_neighbouring_layers_together_cost_more_than_the_sum_and_the_least_worthy_drops_out():
    """Two units here and two there: 12 parameters each, and 4 more where the new ones meet."""
    both = priced(widen("0", 0, 1, gain=3.0), widen("2", 0, 1, gain=2.0))
    assert [candidate.cost.parameters for candidate in both] == [12, 12]
    room = parameters(6, 5) - parameters(4, 3)
    assert room == 28
    for total, expected in ((28, [3.0, 2.0]), (27, [3.0]), (24, [3.0]), (12, [3.0]), (11, [])):
        chosen = Knapsack(total=parameters(4, 3) + total).growkit_select(both, growkit.Budget(), context())
        assert [candidate.gain for candidate in chosen] == expected


def test_what_is_left_after_something_dropped_out_is_filled_up():
    candidates = priced(widen("0", 0, 1, gain=30.0), widen("2", 0, 1, gain=20.0), widen("0", 2, gain=1.0))
    chosen = Knapsack(total=parameters(4, 3) + 24).growkit_select(candidates, growkit.Budget(), context())
    assert [candidate.gain for candidate in chosen] == [30.0, 1.0]


def test_what_gains_much_does_not_drop_out_for_what_gains_more_per_parameter():
    cheap, large = priced(widen("2", 0, gain=2.0), widen("0", 0, 1, 2, 3, gain=6.0))
    assert cheap.gain / cheap.cost.parameters > large.gain / large.cost.parameters
    chosen = Knapsack(total=parameters(8, 3) + 6).growkit_select([cheap, large], growkit.Budget(), context())
    assert chosen == [large]


@given(gains=st.lists(st.integers(1, 50), min_size=1, max_size=9), room=st.integers(0, 60))
def test_within_one_width_the_choice_is_optimal(gains, room):
    """Costs there are sums, whatever is chosen."""
    candidates = priced(*(widen("0", *range(1 + gain % 3), gain=float(gain)) for gain in gains))
    chosen = Knapsack(total=parameters(4, 3) + room).growkit_select(candidates, growkit.Budget(), context())
    costs = np.array([[6.0 * (1 + gain % 3) for gain in gains]])
    assert sum(c.gain for c in chosen) == best_of_all(np.array(gains, dtype=float), costs, np.array([float(room)]))


def test_without_any_limit_all_that_gains_is_chosen_best_first():
    candidates = priced(
        widen("0", 0, gain=1.0), widen("2", 0, gain=3.0), widen("2", 1, gain=0.0), widen("0", 1, gain=-1.0)
    )
    chosen = Knapsack().growkit_select(candidates, growkit.Budget(), context())
    assert [candidate.gain for candidate in chosen] == [3.0, 1.0]


def test_the_order_of_the_candidates_makes_no_difference():
    draw = np.random.default_rng(1)
    candidates = priced(
        *(widen(w, u % 3, gain=g) for (w, u), g in zip([("0", 1), ("2", 2)] * 80, draw.random(160), strict=True))
    )
    chosen = Knapsack(per_round=20.0).growkit_select(candidates, growkit.Budget(), context())
    for _ in range(3):
        shuffled = [candidates[number] for number in draw.permutation(160)]
        assert Knapsack(per_round=20.0).growkit_select(shuffled, growkit.Budget(), context()) == chosen
    assert 10 < len(chosen) < 160


def test_ten_thousand_candidates_need_few_evaluations_of_the_model(monkeypatch):
    draw = np.random.default_rng(2)
    cost = {width: price(structure(), growkit.Widen(width, copies=[0])) for width in ("0", "2")}
    candidates = [
        growkit.Candidate(growkit.Widen(width, copies=[0]), gain=float(gain), cost=cost[width])
        for width, gain in zip(["0", "2"] * 5000, draw.random(10_000), strict=True)
    ]
    asked: list[int] = []
    count = growkit.Structure.parameters
    monkeypatch.setattr(growkit.Structure, "parameters", lambda self, sizes=None: asked.append(1) or count(self, sizes))
    chosen = Knapsack(total=500_000).growkit_select(candidates, growkit.Budget(), context())
    assert len(asked) < 200
    a, b = sizes(chosen)
    assert parameters(a, b) <= 500_000 < min(parameters(a + 1, b), parameters(a, b + 1))


# ---------------------------------------------------------------- events

X = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6)


def counted(model: nn.Module, x: torch.Tensor) -> tuple[int, float]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / len(x)


def every_unit(asked: growkit.Context) -> list[growkit.Candidate]:
    return [
        widen(width.name, unit, gain=1.0 + 0.1 * unit + number)
        for number, width in enumerate(asked.structure.growable)
        for unit in range(width.size)
    ]


@pytest.mark.parametrize("cost", ["parameters", "flops"])
def test_the_model_that_comes_out_keeps_to_the_limits(cost):
    place = ["parameters", "flops"].index(cost)
    for per_round in (0.1, 0.2, 0.5, 1.0):
        model = mlp(6, 8, 8, 4)
        before = counted(model, X)
        happened = event(model, Asks(every_unit), Knapsack(cost, per_round), example=(X,))
        after = counted(model, X)
        assert before[place] < after[place] <= (1 + per_round) * before[place]
        assert happened.change.moved <= 1e-10
    model = mlp(6, 8, 8, 4)
    most = before[place] + 60
    event(model, Asks(every_unit), Knapsack(cost, total=most), example=(X,))
    assert before[place] < counted(model, X)[place] <= most


def test_the_budget_of_the_run_holds_beside_the_limits_of_the_plugin():
    for budget in (growkit.Budget(parameters=250), growkit.Budget(flops=420.0), growkit.Budget(250, 420.0)):
        for cost in ("parameters", "flops"):
            model = mlp(6, 8, 8, 4)
            event(model, Asks(every_unit), Knapsack(cost, per_round=3.0), example=(X,), budget=budget)
            weights, work = counted(model, X)
            assert 164 < weights <= (budget.parameters or np.inf)
            assert work <= (budget.flops or np.inf)


def test_copies_new_units_removals_and_blocks_of_several_plugins_compete():
    model = mlp(6, 8, 8, 4)
    with torch.no_grad():
        model[2].weight[:, 5] = 0.0  # so that unit 5 can be removed
    growing = [widen("2", 1, gain=4.0), widen("2", new=2, gain=3.0), widen("2", 2, gain=-1.0), widen("2", 3, gain=0.0)]
    removal = growkit.Candidate(growkit.Narrow("0", remove=[5]), gain=0.5)
    block = growkit.Candidate(growkit.Deepen("2", "linear", 8, 2), gain=9.0)
    start = sum(p.numel() for p in model.parameters())
    happened = event(
        model,
        Proposes(*growing, name="grows"),
        Proposes(removal, name="removes"),
        Knapsack(total=start),
        example=(X,),
    )
    assert happened.note["before"]["parameters"] == start
    assert happened.note["after"]["parameters"] <= start
    assert [candidate.gain for candidate in happened.candidates] == [0.5, 4.0]
    assert happened.note["plugins"] == ["grows", "removes"]
    model = mlp(6, 8, 8, 4)
    happened = event(model, Proposes(block, growing[0]), Knapsack(total=start + 42), example=(X,))
    assert [type(candidate.edit) for candidate in happened.candidates] == [growkit.Deepen]
    assert happened.note["after"]["parameters"] == start + 42


def test_nothing_is_chosen_of_what_predicts_no_gain():
    assert (
        event(mlp(6, 8, 4), Proposes(widen("0", 1), widen("0", new=3)), Knapsack(per_round=1.0), example=(X,)) is None
    )
    assert event(mlp(6, 8, 4), Proposes(), Knapsack(per_round=1.0), example=(X,)) is None


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (
            [widen("0", 1, gain=2.0), growkit.Candidate(growkit.Narrow("0", [5]), 1.0), widen("0", 2, gain=0.5)],
            [2.0, 0.5],
        ),
        ([widen("0", 1, gain=2.0), growkit.Candidate(growkit.Narrow("0", [5]), 3.0)], [3.0]),
        (
            [growkit.Candidate(growkit.Narrow("0", [5]), 1.0), growkit.Candidate(growkit.Narrow("0", [5, 6]), 2.0)],
            [2.0],
        ),
        ([growkit.Candidate(growkit.Deepen("0", "linear", 8, 1), gain) for gain in (1.0, 3.0)], [3.0]),
        ([growkit.Candidate(growkit.Widen("0", [1], state=s), g) for s, g in (("copy", 1.0), ("zero", 2.0))], [2.0]),
        ([growkit.Candidate(growkit.Widen("0", [1], shares=[0.3]), g) for g in (1.0, 2.0)], [2.0]),
        ([growkit.Candidate(growkit.Widen("0", [1], shares=[0.3]), 1.0), widen("0", 1, 2, gain=2.0)], [2.0]),
        ([growkit.Candidate(growkit.Widen("0", [u], shares=[0.3]), 1.0 + u) for u in (0, 1)], [2.0, 1.0]),
        ([widen("0", 1, gain=2.0), widen("0", 1, gain=1.0)], [2.0, 1.0]),
    ],
)
def test_of_candidates_that_cannot_be_made_at_once_the_better_one_is_chosen(candidates, expected):
    model = mlp(6, 8, 4)
    with torch.no_grad():
        model[2].weight[:, 5:7] = 0.0
    happened = event(model, Proposes(*candidates), Knapsack(), example=(X,))
    assert [candidate.gain for candidate in happened.candidates] == expected


# ---------------------------------------------------------------- latency


def test_the_seconds_that_a_change_adds():
    assert added_seconds([1.0, 1.0, 9.0], [3.0, 3.0, 3.0]) == 2.0
    assert added_seconds([1.0, 1.0], [1.0, 1.0]) == 1e-9  # nothing to be seen, not even noise
    assert added_seconds([3.0, 3.0], [1.0, 1.0]) == 1e-9  # faster than before
    assert added_seconds([1.0, 2.0, 3.0], [2.5, 2.5, 2.5]) == 1.0  # half a second drowns in the noise
    assert added_seconds([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == 3.0


def test_passes_are_warmed_up_and_timed_in_turn():
    now, order = [0.0], []

    def run(name: str, seconds: float) -> Callable[[], None]:
        def forward() -> None:
            order.append(name)
            now[0] += seconds

        return forward

    assert time_in_turn([run("a", 1.0), run("b", 2.0)], 3, lambda: now[0]) == [[1.0] * 3, [2.0] * 3]
    assert order == ["a", "b"] * 4


def test_the_samples_of_an_example_are_repeated():
    x, mask, table = torch.arange(6).reshape(2, 3), torch.tensor([True, False]), torch.ones(4, 5)
    big, marks, same, scalar = repeated((x, mask, table, torch.tensor(7)), 5)
    assert big.tolist() == [[0, 1, 2], [3, 4, 5]] * 2 + [[0, 1, 2]]
    assert marks.tolist() == [True, False, True, False, True]
    assert same is table
    assert scalar == 7
    assert repeated({"x": x}, 1)["x"].tolist() == [[0, 1, 2]]
    assert repeated((x,), None)[0] is x


def time_by_flops(passes: Sequence[Callable[[], object]], repeats: int, clock: object) -> list[list[float]]:
    """A machine that needs a microsecond for each FLOP."""
    seconds = []
    for run in passes:
        with FlopCounterMode(display=False) as counter:
            run()
        seconds.append([counter.get_total_flops() * 1e-6] * repeats)
    return seconds


@pytest.fixture
def flops_for_seconds(monkeypatch):
    monkeypatch.setattr("growkit_plugins.knapsack.latency.time_in_turn", time_by_flops)


@pytest.mark.usefixtures("flops_for_seconds")
@pytest.mark.parametrize("samples", [None, 1, 10])
def test_latency_limits_the_sum_of_what_candidates_add(samples):
    """Between 6 inputs and 4 outputs a unit costs 20 FLOPs a sample."""
    rows = 4 if samples is None else samples
    second = 20e-6 * rows
    for units in (1, 3, 8):
        model = mlp(6, 8, 4)
        plugin = Knapsack("latency", total=second * (8 + units + 0.5), samples=samples)
        event(model, Asks(every_unit), plugin, example=(X,))
        assert model[0].out_features == 8 + units
        model = mlp(6, 8, 4)
        event(model, Asks(every_unit), Knapsack("latency", (units + 0.5) / 8, samples=samples), example=(X,))
        assert model[0].out_features == 8 + units


@pytest.mark.usefixtures("flops_for_seconds")
def test_removals_save_latency_and_blocks_are_measured():
    model = mlp(6, 8, 8, 4)
    with torch.no_grad():
        model[2].weight[:, 5] = 0.0
    removal = growkit.Candidate(growkit.Narrow("0", remove=[5]), gain=0.5)
    block = growkit.Candidate(growkit.Deepen("2", "linear", 8, 1), gain=2.0)
    now, unit, added = 2 * 4 * (6 * 8 + 8 * 8 + 8 * 4), 2 * 4 * (6 + 8), 2 * 4 * 2 * 8
    for total, expected in ((now + added, {0.5, 2.0}), (now + added - unit, {0.5, 2.0}), (now - 1, {0.5})):
        twin = mlp(6, 8, 8, 4)
        twin.load_state_dict(model.state_dict())
        plugin = Knapsack("latency", total=(total + 0.5) * 1e-6)
        happened = event(twin, Proposes(removal, block), plugin, example=(X,))
        assert {candidate.gain for candidate in happened.candidates} == expected


class Watched(nn.Module):
    """Notes how it is run; its copies do so, too. Under a LayerNorm only uniform copying preserves the function."""

    def __init__(self, log: list[tuple[int, bool, bool, bool]]) -> None:
        super().__init__()
        self.hidden, self.norm, self.out = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 2)
        self.note = log.append

    def forward(self, x):
        self.note((len(x), self.training, torch.is_grad_enabled(), _get_current_dispatch_mode() is not None))
        return self.out(self.norm(self.hidden(x)).relu())


def test_passes_run_for_evaluation_on_so_many_samples_and_nobody_watches_when_they_are_timed():
    log: list[tuple[int, bool, bool, bool]] = []
    model = Watched(log).double().train()
    doubled = widen("hidden", *range(5), gain=1.0)
    happened = event(model, Proposes(doubled), Knapsack("latency", 1e6, samples=7, repeats=3), example=(X,))
    assert happened.note["after"]["widths"] == {"hidden": 10}
    assert [run for run in log if run[0] == 7] == [(7, False, False, True), *[(7, False, False, False)] * 2 * (1 + 3)]


def test_a_model_that_cannot_take_so_many_samples_is_told():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.out(self.hidden(x).relu()) + torch.zeros(4, 2)

    plugin = Knapsack("latency", 1.0, samples=7)
    with pytest.raises(growkit.PluginError, match=r"'Knapsack'.*cannot run the model on 7 samples"):
        event(Fixed().double(), Proposes(widen("hidden", 0, gain=1.0)), plugin, example=(X,))


def test_latency_is_measured_in_a_real_fit():
    """Only that it works: on so small a model, times are noise."""
    growth = growkit.Growth(
        [Splitting(fraction=0.5, step=0.05), Knapsack("latency", per_round=0.5, samples=64, repeats=3)],
        when=growkit.every(steps=2),
    )
    module = Classifier(MLP(64, [4, 4], 10))
    _trainer(growth).fit(module, Digits())
    assert growth.journal.edits or not growth.events
    assert not growth.failures


# ---------------------------------------------------------------- settings, recipes


def _trainer(growth: growkit.Growth) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        max_steps=5, accelerator="cpu", enable_checkpointing=False, callbacks=[growth], limit_val_batches=0, **quiet
    )


def test_a_recipe_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    text = files("growkit_recipes").joinpath("first-growth.yaml").read_text()
    growing = "    - class_path: growkit_plugins.splitting.Splitting\n"
    assert text.count(growing) == 1
    own = "    - class_path: Knapsack\n      init_args: {cost: flops, per_round: 0.3}\n"
    Path("mine.yaml").write_text(text.replace(growing, own + growing).replace("fraction: 0.5", "fraction: 1.0"))
    options = ("--trainer.max_epochs", "3", "--growth.when.init_args.epochs", "1", "--compare", "[]", "--folder", "out")
    assert main(["run", "mine.yaml", *options]) == 0
    entries = growkit.Journal.from_json(Path("out/journal.json").read_text()).entries
    assert len(entries) == 2
    for entry in entries:
        before, after = (entry.note[moment]["flops"] for moment in ("before", "after"))
        assert before < after <= 1.3 * before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cost": "energy"}, "cost 'parameters', 'flops', 'latency', not 'energy'"),
        ({"per_round": 0.0}, "a finite per_round above 0, or None, not 0.0"),
        ({"per_round": float("nan")}, "per_round"),
        ({"total": -1.0}, "a finite total above 0, or None, not -1.0"),
        ({"total": float("inf")}, "total"),
        ({"samples": 0}, "samples >= 1 or None and repeats >= 1, not 0 and 9"),
        ({"repeats": 0}, "not None and 0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Knapsack(**settings)
