"""One growth event on a plain model, from proposal to journal."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from growth.stubs import Asks, Follows, Proposes, Selects, event, mlp, take_steps, widen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import growkit

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


def numbered(model: nn.Module, start: float = 1.0) -> nn.Module:
    """Give every entry of every parameter a value of its own: 1, 2, 3, ... in order."""
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.arange(parameter.numel(), dtype=parameter.dtype) + start
            parameter.copy_(values.view_as(parameter))
            start += parameter.numel()
    return model


def rows(*values: float, columns: int) -> Tensor:
    """One row a value, the same in every column."""
    return numbers(list(values))[:, None].expand(-1, columns).clone()


def numbers(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def same(actual: Tensor, expected: list) -> None:
    torch.testing.assert_close(actual.detach(), torch.tensor(expected, dtype=actual.dtype), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- where offsets land


def test_offsets_land_on_originals_copies_and_new_units():
    model = numbered(mlp(1, 3, 1))  # rows 1 2 3, biases 4 5 6, outgoing 7 8 9
    event(
        model,
        Proposes(
            widen(
                *("0", 2, 0),
                new=1,
                weight__0=rows(0.1, 0.2, 0.3, 0.4, 0.5, columns=1),
                bias__0=numbers([10.0, 20.0, 30.0, 40.0, 50.0]),
            )
        ),
        example=(X[:, :1],),
    )
    fresh = model[0].weight[5].item() - 0.5
    #                               unit 0   unit 1  unit 2   copies: 2, 0      new
    same(model[0].weight, [[1 + 0.2], [2], [3 + 0.1], [3 + 0.3], [1 + 0.4], [fresh + 0.5]])
    same(model[0].bias[:5], [4 + 20, 5, 6 + 10, 6 + 30, 4 + 40])
    same(model[2].weight, [[7 / 2, 8, 9 / 2, 9 / 2, 7 / 2, 0]])
    assert abs(fresh) <= 1
    assert 49 <= model[0].bias[5].item() <= 51


def test_a_unit_copied_twice_by_one_candidate_takes_both_offsets():
    model = numbered(mlp(1, 2, 1))
    offsets = rows(0.1, 0.2, 0.3, 0.4, columns=1)
    event(model, Proposes(widen("0", 1, 1, weight__0=offsets)), example=(X[:, :1],))
    same(model[0].weight, [[1], [2 + 0.1 + 0.2], [2 + 0.3], [2 + 0.4]])
    same(model[2].weight, [[5, 6 / 3, 6 / 3, 6 / 3]])


def test_candidates_that_share_widths_and_widths_that_meet_in_one_weight():
    """Three candidates, two widths, all at once; every number of the outcome is written down."""
    model = numbered(mlp(1, 2, 3, 1))
    # Linear 0: rows 1 2, biases 3 4. Linear 2: [[5, 6], [7, 8], [9, 10]], biases 11 12 13. Linear 4: 14 15 16.
    first = widen("0", 1, gain=3.0, weight__0=rows(0.1, 0.2, columns=1))
    second = widen(
        *("2", 0, 2),
        gain=2.0,
        weight__2=numbers([[0.6, 1.2], [1.8, 2.4], [3.0, 3.6], [4.2, 4.8]]),
    )
    third = widen("0", 1, 0, new=1, gain=1.0, weight__0=rows(0.3, 0.4, 0.5, 0.6, 0.7, columns=1))
    fourth = widen("2", 0, gain=0.5, weight__2=numbers([[60.0, 120.0], [180.0, 240.0]]))
    last = Selects(lambda candidates, budget, context: candidates)
    event(model, Proposes(first, second, third, fourth), last, example=(X[:, :1],))

    # Width "0" is now: unit 0, unit 1, copy of 1 (first), copy of 1 and copy of 0 (third), a new unit.
    fresh = model[0].weight[5].item() - 0.7
    same(model[0].weight, [[1 + 0.4], [2 + 0.1 + 0.3], [2 + 0.2], [2 + 0.5], [1 + 0.6], [fresh + 0.7]])
    # Of unit 0 there are two, of unit 1 three; columns of weights and offsets alike are shared out among them.
    columns = [(0, 2), (1, 3), (1, 3), (1, 3), (0, 2)]

    def shared(row: list[float]) -> list[float]:
        return [row[unit] / count for unit, count in columns] + [0.0]

    # Width "2" is now: units 0, 1, 2, copies of 0 and 2 (second), copy of 0 (fourth).
    expected = [
        shared([5 + 0.6 + 60, 6 + 1.2 + 120]),
        shared([7, 8]),
        shared([9 + 1.8, 10 + 2.4]),
        shared([5 + 3.0, 6 + 3.6]),
        shared([9 + 4.2, 10 + 4.8]),
        shared([5 + 180, 6 + 240]),
    ]
    same(model[2].weight, expected)
    same(model[2].bias, [11, 12, 13, 11, 13, 11])
    same(model[4].weight, [[14 / 3, 15, 16 / 2, 14 / 3, 16 / 2, 14 / 3]])


def test_offsets_of_a_layer_behind_a_flatten_follow_every_position_of_a_copied_channel():
    model = numbered(
        nn.Sequential(nn.Conv1d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(4, 2, bias=False), nn.Linear(2, 1))
    ).double()
    # Linear 2: [[3, 4, 5, 6], [7, 8, 9, 10]]; columns 0 and 1 belong to channel 0.
    event(
        model,
        Proposes(
            widen("0", 0, weight__0=numbers([[[0.5]], [[-0.5]]])),
            widen("2", 1, weight__2=numbers([[1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0]])),
        ),
        example=(torch.ones(2, 1, 2).double(),),
    )
    same(model[0].weight[:, 0, 0], [1.5, 2, 0.5])
    same(
        model[2].weight,
        [[1.5, 2, 5, 6, 1.5, 2], [4, 5, 12, 14, 4, 5], [3, 3, 6, 6, 3, 3]],
    )


def test_offsets_of_units_with_several_positions_land_on_all_of_them():
    """A norm behind a flatten: its entries 0 and 1 belong to channel 0, 2 and 3 to channel 1."""
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    numbered(model[2])
    offset = numbers([0.1, 0.2, 0.3, 0.4])
    event(model, Proposes(widen("0", 1, weight__2=offset)), example=(torch.ones(2, 1, 2).double(),))
    same(model[2].weight, [1, 2, 3.1, 4.2, 3.3, 4.4])
    same(model[2].bias, [5, 6, 7, 8, 7, 8])


widenings = st.tuples(
    st.sampled_from(["0", "2"]), st.lists(st.integers(0, 1), min_size=1, max_size=3), st.integers(0, 2)
)


@settings(max_examples=25)
@given(st.lists(widenings, min_size=1, max_size=4))
def test_any_mixture_of_offsets_equals_adding_them_unit_by_unit(wanted):
    """Offsets are powers of two, so that every sum names the units and candidates that it is made of."""
    torch.manual_seed(0)
    plain, shifted = mlp(1, 2, 2, 1), mlp(1, 2, 2, 1)
    shifted.load_state_dict(plain.state_dict())
    candidates, power, expected = [], 0, {"0": [0.0, 0.0], "2": [0.0, 0.0]}
    copies, new = {"0": [], "2": []}, {"0": [], "2": []}
    for width, units, fresh in wanted:
        values = [2.0 ** (power + k) for k in range(2 * len(units) + fresh)]
        power += len(values)
        for unit, value in zip(units, values, strict=False):
            expected[width][unit] += value
        copies[width] += values[len(units) : 2 * len(units)]
        new[width] += values[2 * len(units) :]
        offsets = {f"bias__{width}": torch.tensor(values).double()}
        candidates.append((widen(width, *units, new=fresh), widen(width, *units, new=fresh, **offsets)))
    everything = Selects(lambda candidates, budget, context: candidates)
    event(plain, Proposes(*(without for without, _ in candidates)), everything, example=(X[:, :1],))
    event(shifted, Proposes(*(given for _, given in candidates)), everything, example=(X[:, :1],))
    for width in ("0", "2"):
        added = shifted.get_parameter(f"{width}.bias") - plain.get_parameter(f"{width}.bias")
        total = numbers([*expected[width], *copies[width], *new[width]])
        torch.testing.assert_close(added.detach(), total, rtol=1e-9, atol=2.0**power * 1e-12)


# ---------------------------------------------------------------- who decides


def test_the_answer_of_growkit_select_wins_and_it_sees_priced_candidates_and_the_budget():
    model, budget, seen = mlp(3, 2, 2, 1), growkit.Budget(parameters=10**6), {}

    def last_one(candidates, budget, context):
        seen.update(candidates=candidates, budget=budget, context=context)
        return candidates[-1:]

    stub = Proposes(widen("0", 0, gain=9.0), widen("2", 1, gain=0.5))
    happened = event(model, stub, Selects(last_one), budget=budget, example=(X,))
    assert [candidate.gain for candidate in happened.candidates] == [0.5]
    assert happened.change.edits == (growkit.Widen("2", [1]),)
    assert (model[0].out_features, model[2].out_features) == (2, 3)
    assert seen["budget"] is budget
    assert [candidate.cost.parameters for candidate in seen["candidates"]] == [3 + 1 + 2, 2 + 1 + 1]
    assert [candidate.plugin for candidate in seen["candidates"]] == ["proposes", "proposes"]
    assert seen["context"] is stub.contexts[0]


def test_none_from_growkit_select_leaves_the_choice_to_the_next_and_finally_to_growkit():
    model, asked = mlp(3, 2, 1), []
    shy = Selects(lambda *arguments: asked.append("shy"), name="shy")
    happened = event(model, Proposes(widen("0", 0, gain=1.0)), shy, example=(X,))
    assert asked == ["shy"]
    assert len(happened.candidates) == 1
    bold = Selects(lambda candidates, budget, context: [], name="bold")
    assert event(model, Proposes(widen("0", 0, gain=1.0)), shy, bold, example=(X,)) is None
    assert asked == ["shy", "shy"]


def test_an_empty_choice_changes_nothing(unchanged):
    model, journal = mlp(3, 2, 1), growkit.Journal()
    nobody = Selects(lambda candidates, budget, context: [])
    with unchanged(model):
        assert event(model, Proposes(widen("0", 0)), nobody, example=(X,), journal=journal) is None
    assert len(journal) == 0


@pytest.mark.parametrize("proposal", [None, [], (), iter(())])
def test_nothing_proposed_is_no_event(unchanged, proposal):
    model, journal, told = mlp(3, 2, 1), growkit.Journal(), []
    follows = Follows(lambda event, model: told.append(event))
    with unchanged(model):
        assert event(model, Asks(lambda context: proposal), follows, example=(X,), journal=journal) is None
    assert len(journal) == 0
    assert told == []


def test_proposals_of_all_plugins_are_put_together_in_order():
    model, seen = mlp(3, 2, 1), []

    def look(candidates, budget, context):
        seen.extend(candidate.plugin for candidate in candidates)
        return []

    generator = Asks(lambda context: (widen("0", unit) for unit in range(2)), name="lazy")
    event(model, Proposes(widen("0", 0), name="first"), generator, Selects(look), example=(X,))
    assert seen == ["first", "lazy", "lazy"]


def test_the_budget_limits_what_is_applied():
    model = mlp(3, 2, 1)
    stub = Proposes(*(widen("0", unit, gain=float(unit)) for unit in (0, 1, 1, 1)))
    happened = event(model, stub, example=(X,), budget=growkit.Budget(parameters=11 + 2 * 5))
    assert sum(p.numel() for p in model.parameters()) == 21
    assert [candidate.gain for candidate in happened.candidates] == [1.0, 1.0]


# ---------------------------------------------------------------- what follows


def test_growkit_grown_sees_the_finished_event_and_can_carry_along():
    model, journal, told = mlp(3, 2, 1), growkit.Journal(), []
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def follow(event, grown):
        assert grown is model
        assert len(journal) == 1
        for name in average:
            average[name] = event.change.carry(average[name], name)
        told.append(event)

    stub = Proposes(widen("0", 1))
    happened = event(model, stub, Follows(follow), example=(X,), journal=journal)
    assert told == [happened]
    for name, parameter in model.named_parameters():
        assert torch.equal(average[name], parameter.detach())


def test_an_event_without_offsets_preserves_the_function_and_one_with_offsets_does_not():
    model = mlp(3, 4, 3, 2)
    before = model(X)
    event(model, Proposes(widen("0", 3, 3, 0, new=2), widen("2", 1, new=1)), example=(X,))
    assert (model[0].out_features, model[2].out_features) == (9, 5)
    torch.testing.assert_close(model(X), before, rtol=0, atol=1e-10)
    event(model, Proposes(widen("0", 0, bias__0=numbers([0.1, 0.2]))), example=(X,))
    assert (model(X) - before).abs().max() > 1e-4


def test_the_optimizer_goes_on_with_exactly_the_parameters_of_the_model():
    model = mlp(3, 3, 3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    take_steps(model, optimizer, X)
    stub = Proposes(widen("0", 1, new=1, bias__0=numbers([0.01] * 3)), widen("2", 0))
    event(model, stub, example=(X,), optimizers=[optimizer])
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert list(map(id, held)) == list(map(id, model.parameters()))
    assert set(map(id, optimizer.state)) == set(map(id, model.parameters()))
    for parameter in held:
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    losses = take_steps(model, optimizer, X, count=30)
    assert losses[-1] < 0.5 * losses[0]


def test_the_hook_carries_the_state_of_an_optimizer_that_growkit_does_not_know():
    class Peculiar(torch.optim.SGD):
        """Keeps one number a row."""

        def step(self, closure=None):
            super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter] = {"rows": torch.ones(parameter.shape[0])}

    class Carries(growkit.Plugin):
        @growkit.hookimpl
        def growkit_carry_optimizer_state(self, optimizer, change, state):
            assert isinstance(optimizer, Peculiar)
            assert state["rows"].shape == change.old.shape[:1]
            return {"rows": torch.full(change.new.shape[:1], 2.0)}

    model = mlp(3, 2, 1)
    optimizer = Peculiar(model.parameters(), lr=1e-2)
    take_steps(model, optimizer, X)
    event(model, Proposes(widen("0", 1)), Carries(), example=(X,), optimizers=[optimizer])
    assert torch.equal(optimizer.state[model[0].weight]["rows"], torch.full((3,), 2.0))
    assert torch.equal(optimizer.state[model[2].bias]["rows"], torch.ones(1))  # did not change, was not asked about


def test_the_journal_says_what_happened_and_replays():
    model, journal = mlp(3, 2, 2, 1), growkit.Journal()
    happened = event(
        *(model, Proposes(widen("0", 1, gain=0.5), name="a"), Proposes(widen("2", 0, new=1, gain=0.25), name="b")),
        example=(X,),
        journal=journal,
    )
    (entry,) = growkit.Journal.from_json(journal.to_json()).entries
    assert set(entry.edits) == {growkit.Widen("0", [1]), growkit.Widen("2", [0], 1)}
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items() if name != "4.bias"}
    assert entry.note == journal.entries[0].note == {**happened.note, "shapes": shapes}
    assert (entry.note["step"], entry.note["epoch"], entry.note["plugins"]) == (7, 2, ["a", "b"])
    assert entry.note["gain"] == 0.75
    assert entry.note["moved"] < 1e-10
    assert entry.note["after"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert entry.note["after"]["widths"] == {"0": 3, "2": 4}
    fresh = mlp(3, 2, 2, 1)
    journal.replay(fresh, example=(X,))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(X), model(X))


@pytest.mark.parametrize("gain", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), 1])
def test_a_gain_of_any_numeric_type_can_be_saved(gain):
    journal = growkit.Journal()
    event(mlp(3, 2, 1), Proposes(widen("0", 1, gain=gain)), example=(X,), journal=journal)
    assert json.loads(journal.to_json())["entries"][0]["note"]["gain"] == gain


def test_units_named_by_numpy_and_torch_integers_can_be_saved():
    model, journal = mlp(3, 2, 1), growkit.Journal()
    edit = growkit.Widen("0", copies=torch.tensor([1, 0]), new=np.int64(1))
    event(model, Proposes(growkit.Candidate(edit)), example=(X,), journal=journal)
    assert growkit.Journal.from_json(journal.to_json()).edits == (growkit.Widen("0", [1, 0], 1),)


def test_a_block_is_inserted_and_counted():
    model, journal = mlp(3, 2, 1), growkit.Journal()
    before = model(X)
    happened = event(
        model, Proposes(growkit.Candidate(growkit.Deepen("0", "linear", 2, 5))), example=(X,), journal=journal
    )
    torch.testing.assert_close(model(X), before, rtol=0, atol=1e-10)
    again = growkit.trace(model, X)
    assert happened.note["after"]["parameters"] == again.parameters() == sum(p.numel() for p in model.parameters())
    assert happened.note["after"]["flops"] == again.flops()


# ---------------------------------------------------------------- what a plugin may do


def test_what_a_plugin_does_to_the_private_copy_and_to_random_numbers_has_no_effect(unchanged):
    def rummage(context):
        torch.rand(3), np.random.rand(3)
        context.model.train()
        for batch in context.batches(2):
            context.loss(batch).backward()
        with torch.no_grad():
            for parameter in context.model.parameters():
                parameter.zero_()

    model = nn.Sequential(mlp(3, 2), nn.BatchNorm1d(2).double(), nn.Dropout(), mlp(2, 1))
    optimizer = torch.optim.Adam(model.parameters())
    take_steps(model, optimizer, X)
    with unchanged(model, optimizer):
        assert event(model, Asks(rummage), example=(X,), optimizers=[optimizer], batches=[X, X]) is None


def test_the_private_copy_is_in_evaluation_mode_and_shared_by_all_plugins():
    model, seen = nn.Sequential(mlp(3, 2), nn.Dropout(), mlp(2, 1)).train(), []
    look = [Asks(lambda context: seen.append(context.model), name=name) for name in "ab"]
    event(model, *look, example=(X,))
    assert seen[0] is seen[1]
    assert seen[0] is not model
    assert not any(module.training for module in seen[0].modules())
    assert model.training


def test_the_same_seed_draws_the_same_new_units():
    models = [mlp(3, 2, 1) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    torch.manual_seed(1)
    event(models[0], Proposes(widen("0", new=2)), example=(X,))
    torch.manual_seed(2)
    event(models[1], Proposes(widen("0", new=2)), example=(X,))
    assert torch.equal(models[0][0].weight, models[1][0].weight)


def test_a_joint_history_of_all_parameters_is_dropped_and_the_journal_says_so():
    """LBFGS keeps it with its first parameter, which growth of a later width leaves alone."""
    model = mlp(3, 2, 4, 1)
    optimizer = torch.optim.LBFGS(model.parameters())
    optimizer.step(lambda: (optimizer.zero_grad(), (loss := model(X).square().mean()).backward(), loss)[-1])
    journal = growkit.Journal()
    happened = event(model, Proposes(widen("2", 0)), example=(X,), optimizers=[optimizer], journal=journal)
    (dropped,) = happened.change.dropped
    assert dropped.startswith("LBFGS: its history of")
    assert journal.entries[0].note["dropped"] == [dropped]
    assert model[2].out_features == 5
