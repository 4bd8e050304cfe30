"""The journal gives a fresh model the structure of an old one; blocks start as the identity."""

from __future__ import annotations

import json

import pytest
import torch
from small_models import BY_NAME, CASES, Apply, Case
from torch import nn, optim

from growkit.errors import SurgeryError
from growkit.structure import trace
from growkit.surgery import Deepen, Edit, Entry, Journal, Narrow, Widen, apply

PROBE = (torch.randn(2, 3, generator=torch.Generator().manual_seed(1)),)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def record(model: nn.Module, journal: Journal, *edits: Edit | list[Edit], example=PROBE, exact=True) -> None:
    """Apply each edit by itself, as a user's own loop would, and write it down."""
    for edit in edits:
        journal.record(*apply(model, edit, example=example, exact=exact).edits)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


# ------------------------------------------------------------------ JSON

JOURNAL = Journal(
    [
        Entry((Widen("0", (0, 2, 2), 1), Narrow("2", (1, 3), into=(0, 0))), {"epoch": 3, "by": "test", "gain": 0.25}),
        Entry((Deepen("0", "conv2d", 8, hidden=2),)),
        Entry((Narrow("0", (5,)), Deepen("1.body", "linear", 4))),
    ]
)


def test_a_journal_survives_the_way_through_json():
    again = Journal.from_json(JOURNAL.to_json())
    assert again == JOURNAL
    assert again.edits == JOURNAL.edits
    assert [type(edit) for edit in again.edits] == [Widen, Narrow, Deepen, Narrow, Deepen]
    assert again.entries[0].note == {"epoch": 3, "by": "test", "gain": 0.25}
    assert again.to_json() == JOURNAL.to_json()


def test_a_journal_is_plain_data():
    data = json.loads(JOURNAL.to_json())
    assert data["growkit_journal"] == 1
    widened, deepened = data["entries"][0]["edits"][0], data["entries"][1]["edits"]
    assert widened == {"edit": "widen", "width": "0", "copies": [0, 2, 2], "new": 1, "output": False}
    assert deepened == [
        {"edit": "deepen", "after": "0", "kind": "conv2d", "size": 8, "hidden": 2, "residual": True},
    ]


def test_a_journal_of_before_new_fields_is_read_with_their_defaults():
    entry = {"edits": [{"edit": "widen", "width": "0", "copies": [1], "new": 0}], "note": {}}
    assert Journal.from_json(json.dumps({"growkit_journal": 1, "entries": [entry]})).edits == (Widen("0", (1,)),)


def test_an_empty_journal_is_a_journal():
    assert Journal.from_json(Journal().to_json()) == Journal()
    model = network()
    before = shapes(model)
    Journal().replay(model, example=PROBE)
    assert shapes(model) == before


def test_entries_are_kept_in_order():
    journal = Journal()
    journal.record(Widen("0", (0,)), epoch=1)
    journal.record(Widen("2", (1,)), Narrow("0", (2,)), epoch=2)
    assert len(journal) == 2
    assert journal.edits == (Widen("0", (0,)), Widen("2", (1,)), Narrow("0", (2,)))
    assert [entry.note for entry in journal.entries] == [{"epoch": 1}, {"epoch": 2}]
    assert journal != Journal(journal.entries[:1])


def test_units_may_be_given_as_any_integers():
    units = torch.tensor([0, 2])
    journal = Journal([Entry((Widen("0", units), Narrow("1", range(2)), Widen("2", units.numpy())))])
    assert Journal.from_json(journal.to_json()).edits == (Widen("0", (0, 2)), Narrow("1", (0, 1)), Widen("2", (0, 2)))


def one(*edits: object, note: object = None, version: object = 1) -> str:
    return json.dumps({"growkit_journal": version, "entries": [{"edits": list(edits), "note": note or {}}]})


MALFORMED = {
    "no JSON": "{",
    "nothing": "",
    "null": "null",
    "a list": "[]",
    "a number": "3",
    "no version": '{"entries": []}',
    "no entries": '{"growkit_journal": 1}',
    "entries that are a number": '{"growkit_journal": 1, "entries": 3}',
    "an entry that is a text": '{"growkit_journal": 1, "entries": ["widen"]}',
    "an entry without edits": '{"growkit_journal": 1, "entries": [{"note": {}}]}',
    "an entry without a note": '{"growkit_journal": 1, "entries": [{"edits": []}]}',
    "edits that are a number": '{"growkit_journal": 1, "entries": [{"edits": 3, "note": {}}]}',
    "a note that is a number": '{"growkit_journal": 1, "entries": [{"edits": [], "note": 3}]}',
    "an edit that is a text": one("widen"),
    "an edit without a kind": one({"width": "0", "copies": [0]}),
    "an unknown kind": one({"edit": "split", "width": "0"}),
    "a kind that is a list": one({"edit": ["widen"], "width": "0"}),
    "a missing field": one({"edit": "widen", "copies": [0]}),
    "a field too many": one({"edit": "widen", "width": "0", "copies": [0], "units": 3}),
    "copies that are a number": one({"edit": "widen", "width": "0", "copies": 3}),
    "copies that are words": one({"edit": "widen", "width": "0", "copies": ["first"]}),
    "copies that are fractions": one({"edit": "widen", "width": "0", "copies": [0.5]}),
    "copies that are digits": one({"edit": "widen", "width": "0", "copies": "012"}),
    "a fraction of a new unit": one({"edit": "widen", "width": "0", "copies": [], "new": 1.5}),
    "new units in words": one({"edit": "widen", "width": "0", "copies": [], "new": "two"}),
    "a width that is a number": one({"edit": "widen", "width": 0, "copies": [0]}),
    "a widening by nothing": one({"edit": "widen", "width": "0", "copies": []}),
    "a removal twice": one({"edit": "narrow", "width": "0", "remove": [1, 1]}),
    "a block of an unknown kind": one({"edit": "deepen", "after": "0", "kind": "attention", "size": 3}),
    "a block of a fractional size": one({"edit": "deepen", "after": "0", "kind": "linear", "size": 2.5}),
    "a later version": one(version=2),
    "a version in words": one(version="one"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_journal_is_refused(name):
    with pytest.raises(SurgeryError) as caught:
        Journal.from_json(MALFORMED[name])
    error = caught.value
    assert all([error.what, error.seen, error.expected, error.advice])


def test_an_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(SurgeryError, match="did you mean 'widen'") as caught:
        Journal.from_json(one({"edit": "widenn", "width": "0"}))
    assert caught.value.expected == "one of widen, narrow, deepen"


def test_a_later_version_says_so():
    with pytest.raises(SurgeryError, match="a later format needs a later growkit") as caught:
        Journal.from_json(one(version=7))
    assert caught.value.seen == "format 7"


# ------------------------------------------------------------------ replay


@pytest.mark.parametrize("case", CASES, ids=str)
def test_replay_gives_a_fresh_model_the_same_structure(case: Case):
    model, probe, fresh = case.model(), case.inputs(2), case.inputs(5)
    journal = Journal()
    for name, size in case.widths.items():
        record(model, journal, Widen(name, range(size)), example=probe)
        record(model, journal, Narrow(name, (0,)), example=probe, exact=False)
    new = case.model()
    Journal.from_json(journal.to_json()).replay(new, example=probe)
    assert repr(new) == repr(model)
    new.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(new.eval()(*fresh), model.eval()(*fresh))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_replay_of_edits_made_together(case: Case):
    model, probe = case.model(), case.inputs(2)
    journal = Journal()
    record(model, journal, [Widen(name, range(size)) for name, size in case.widths.items()], example=probe)
    record(model, journal, [Widen(name, range(2 * size)) for name, size in case.widths.items()], example=probe)
    new = case.model()
    journal.replay(new, example=probe)
    new.load_state_dict(model.state_dict(), strict=True)
    assert repr(new) == repr(model)


def test_replay_does_not_need_the_same_weights_batch_or_exactness():
    """Uneven copies under a norm change the function of the fresh model; its weights come later anyway."""
    case = BY_NAME["layer norm"]
    model, journal = case.model(), Journal()
    record(model, journal, Widen("0", (0, 1, 1)), example=case.inputs(2), exact=False)
    record(model, journal, Narrow("0", (3, 2)), Widen("1.body.1", new=4), example=case.inputs(2), exact=False)
    torch.manual_seed(99)
    new = case.model()
    journal.replay(new, example=case.inputs(1))
    new.load_state_dict(model.state_dict(), strict=True)


def test_replay_leaves_generators_and_modes_alone():
    model = BY_NAME["convnet"].model().eval()
    inputs, state = BY_NAME["convnet"].inputs(2), torch.get_rng_state()
    Journal([Entry((Widen("0", new=2), Deepen("0", "conv2d", 6)))]).replay(model, example=inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())


def test_replay_of_an_edit_that_does_not_fit_says_which_and_takes_back_those_before_it(unchanged):
    grow, block = Entry((Widen("0", (0,)),)), Entry((Deepen("0", "linear", 4), Widen("2", (1,), output=True)))
    journal = Journal([grow, grow, Entry((Narrow("0", (1, 2)),)), block, Entry((Widen("0", (7,)),)), grow])
    model = network()
    with unchanged(model), pytest.raises(SurgeryError, match=r"Widen\(width='0', copies=\(7,\)"):
        journal.replay(model, example=PROBE)
    assert list(model._modules) == ["0", "1", "2"]


def test_replay_asks_in_the_end_and_takes_everything_back_if_the_answer_is_no(unchanged):
    journal, sizes = Journal([Entry((Widen("0", (0,)),)), Entry((Widen("0", (0,)),))]), []
    model = network()

    def refuse():
        sizes.append(model[0].out_features)
        raise InterruptedError

    with unchanged(model), pytest.raises(InterruptedError):
        journal.replay(model, example=PROBE, then=refuse)
    assert sizes == [6]


@pytest.mark.parametrize(
    "edit", [Widen("0", new=10**12), Widen("0", new=10**30), Deepen("0", "linear", 4, hidden=10**12)], ids=str
)
def test_replay_refuses_a_model_that_is_too_large_before_it_is_made(edit, unchanged):
    model = network()
    with unchanged(model), pytest.raises(SurgeryError, match="larger than it may be"):
        Journal([Entry((Widen("0", (0,)),)), Entry((edit,))]).replay(model, example=PROBE, most=1000)


def test_replay_up_to_the_size_that_is_allowed():
    model = network()
    Journal([Entry((Widen("0", (0,)),))]).replay(model, example=PROBE, most=5 * 3 + 5 + 2 * 5 + 2)
    with pytest.raises(SurgeryError, match="at most 40"):
        Journal([Entry((Widen("0", (0, 0)),))]).replay(model, example=PROBE, most=40)


def test_replay_through_a_width_that_shrinks_to_one_unit():
    """With one channel left a depthwise convolution looks like any other; the user's loop traces it anew."""
    case = BY_NAME["depthwise"]
    model, probe, journal = case.model(), case.inputs(2), Journal()
    record(model, journal, Narrow("0", (0, 1)), Widen("0", (0, 0)), example=probe, exact=False)
    new = case.model()
    journal.replay(new, example=probe)
    assert shapes(new) == shapes(model)
    assert repr(new) == repr(model)


def test_replay_through_members_of_groups_that_shrink_to_one():
    case = BY_NAME["group norm"]
    model, probe, journal = case.model(), case.inputs(2), Journal()
    record(model, journal, Narrow("0.weight", (0, 1)), Widen("0", (0,)), example=probe, exact=False)
    new = case.model()
    journal.replay(new, example=probe)
    assert shapes(new) == shapes(model)
    assert repr(new) == repr(model)


# ------------------------------------------------------------------ blocks


def conv(dimensions: int) -> tuple[nn.Module, torch.Tensor]:
    layer = getattr(nn, f"Conv{dimensions}d")
    return nn.Sequential(layer(2, 4, 3), nn.ReLU(), layer(4, 2, 1)), torch.randn(2, 2, *[5] * dimensions)


BLOCKS = {
    # model, inputs, edit
    "linear": (network, PROBE[0], Deepen("0", "linear", 4)),
    "linear over time": (network, torch.randn(2, 5, 3), Deepen("1", "linear", 4, hidden=7)),
    "conv1d": (lambda: conv(1)[0], conv(1)[1], Deepen("0", "conv1d", 4)),
    "conv2d": (lambda: conv(2)[0], conv(2)[1], Deepen("1", "conv2d", 4, hidden=3)),
    "conv3d": (lambda: conv(3)[0], conv(3)[1], Deepen("0", "conv3d", 4)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_starts_as_the_identity_and_learns(name):
    build, inputs, edit = BLOCKS[name]
    torch.manual_seed(0)
    model = build()
    before, keys = model(inputs).detach(), list(model.state_dict())
    change = apply(model, edit, example=(inputs[:1],))
    assert torch.equal(model(inputs), before)
    assert change.moved == 0
    assert [key for key in model.state_dict() if "_deeper" not in key] == keys
    optimizer = optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        model(inputs).square().sum().backward()
        optimizer.step()
    block = model.get_submodule(f"{edit.after}_deeper")
    assert all(p.grad.abs().max() > 0 for p in block.parameters())
    assert block.outgoing.weight.abs().max() > 0


@pytest.mark.parametrize("hidden", [None, 3])
def test_a_block_has_the_hidden_units_asked_for(hidden):
    model = network()
    apply(model, Deepen("0", "linear", 4, hidden=hidden), example=PROBE)
    assert model.get_submodule("0_deeper").incoming.out_features == (hidden or 4)


def test_a_block_stands_right_behind_its_module():
    model = network()
    apply(model, Deepen("0", "linear", 4), example=PROBE)
    assert list(model._modules) == ["0", "0_deeper", "1", "2"]
    assert [type(child).__name__ for child in model] == ["Linear", "ResidualBlock", "ReLU", "Linear"]


def test_a_second_block_behind_the_same_module_has_a_key_of_its_own():
    model = network()
    for _ in range(2):
        apply(model, Deepen("0", "linear", 4), example=PROBE)
    assert list(model._modules) == ["0", "0_deeper_deeper", "0_deeper", "1", "2"]


def test_a_block_behind_a_block():
    model, inputs = network(), torch.randn(5, 3)
    before = model(inputs)
    apply(model, Deepen("0", "linear", 4), example=PROBE)
    apply(model, Deepen("0_deeper", "linear", 4), example=PROBE)
    assert torch.equal(model(inputs), before)
    assert len(model) == 5


def test_a_block_in_a_nested_sequence():
    model = Apply(lambda m, x: m.stack(x), stack=nn.Sequential(network(), nn.Linear(2, 2)))
    apply(model, Deepen("stack.0.1", "linear", 4), example=PROBE)
    assert list(model.stack[0]._modules) == ["0", "1", "1_deeper", "2"]


def test_a_block_takes_dtype_and_mode_from_its_module():
    model = network().double()
    model[0].eval()
    apply(model, Deepen("0", "linear", 4), example=(PROBE[0].double(),))
    block = model.get_submodule("0_deeper")
    assert {p.dtype for p in block.parameters()} == {torch.float64}
    assert not any(module.training for module in block.modules())


def test_a_block_depends_on_the_seed_only():
    blocks = []
    for seed in (1, 1, 2):
        model = network()
        apply(model, Deepen("0", "linear", 4), example=PROBE, seed=seed)
        blocks.append(model.get_submodule("0_deeper").incoming.weight.detach())
    assert torch.equal(blocks[0], blocks[1])
    assert not torch.equal(blocks[0], blocks[2])


def test_a_block_can_be_widened_and_takes_part_in_its_stream():
    model, inputs = network(), torch.randn(5, 3)
    before = model(inputs).detach()
    apply(model, Deepen("0", "linear", 4), example=PROBE)
    with torch.no_grad():
        model.get_submodule("0_deeper").outgoing.weight.normal_()
    before = model(inputs).detach()
    assert [width.name for width in trace(model, *PROBE).growable] == ["0", "0_deeper.incoming"]
    apply(model, [Widen("0", (0, 3)), Widen("0_deeper.incoming", (1,), new=1)], example=PROBE)
    assert torch.allclose(model(inputs), before, atol=1e-5)
    assert shapes(model)["0_deeper.incoming.weight"] == (6, 6)


def test_a_block_and_a_widening_at_once():
    model, inputs = network(), torch.randn(5, 3)
    before = model(inputs).detach()
    apply(model, [Widen("0", (0,)), Deepen("0", "linear", 5)], example=PROBE)
    assert torch.allclose(model(inputs), before, atol=1e-6)
    assert shapes(model)["0_deeper.outgoing.weight"] == (5, 5)


def test_replay_with_blocks_in_between():
    model, journal = network(), Journal()
    edits = [
        *(Widen("0", (0,)), Deepen("0", "linear", 5, hidden=2), Widen("0", (1, 2), new=1)),
        *(Widen("0_deeper.incoming", (0,)), Deepen("0_deeper", "linear", 8), Deepen("0", "linear", 8)),
        *([Widen("0_deeper_deeper.incoming", (3,)), Widen("0", (1,))], Narrow("0", (8,), into=(1,))),
    ]
    record(model, journal, *edits)
    assert len(journal) == len(edits)
    new = network()
    Journal.from_json(journal.to_json()).replay(new, example=PROBE)
    assert repr(new) == repr(model)
    new.load_state_dict(model.state_dict(), strict=True)
    inputs = torch.randn(5, 3)
    assert torch.equal(new(inputs), model(inputs))


def test_replay_with_a_block_and_widenings_in_one_entry():
    model, journal = network(), Journal()
    record(model, journal, [Deepen("0", "linear", 5), Widen("0", (0,))], Widen("0", (0,)))
    new = network()
    journal.replay(new, example=PROBE)
    new.load_state_dict(model.state_dict(), strict=True)


def test_parameters_that_stood_there_keep_their_places_in_the_state_of_the_optimizer():
    model = network()
    optimizer = optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    states = [optimizer.state[p] for p in model.parameters()]
    apply(model, Deepen("0", "linear", 4), example=PROBE, optimizers=[optimizer])
    named = dict(model.named_parameters())
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in named.values()]
    old = [p for name, p in named.items() if "_deeper" not in name]
    assert all(optimizer.state[p] is state for p, state in zip(old, states, strict=True))
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    assert all(p in optimizer.state for p in named.values())


def test_a_journal_of_another_model_is_refused_before_it_changes_anything():
    journal, other = Journal(), nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    journal.append(apply(network(), Widen("0", (0,)), example=PROBE))
    assert journal == Journal.from_json(journal.to_json())
    fitting = network()
    journal.replay(fitting, example=PROBE)
    assert fitting[0].out_features == 5
    with pytest.raises(SurgeryError, match="does not fit this model") as caught:
        journal.replay(other, example=PROBE)
    assert "makes '0.weight' [6, 3]" in caught.value.seen
    assert other[0].out_features == 5
