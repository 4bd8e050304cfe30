"""Copies that take unequal shares of the outgoing weights, negative ones included."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from optimizer_cases import COPIES, OPTIMIZERS, PROBE, UNITS, network, standing_still, state_of, train
from small_models import BY_NAME, CASES, Apply, Case
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from growkit.errors import SurgeryError
from growkit.growth import Candidate
from growkit.growth.offsets import add_offsets
from growkit.structure import trace
from growkit.surgery import Journal, Narrow, Operation, Widen, apply

SHARES = (2.0, -1.5, -0.5)  # of units 1, 1 and 3, which keep 0.5 and 1.5
SHARE = torch.tensor([1, 0.5, 1, 1.5, 2, -1.5, -0.5], dtype=torch.float64)
WIDEN = Widen("0", COPIES, shares=SHARES)


def copied(case: Case, name: str, size: int) -> Widen:
    return Widen(name, (size - 1, 0, size - 1), shares=SHARES)


def changes_nothing(model: nn.Module, edits: Widen | list[Widen], inputs: Tensor) -> None:
    """The function is kept on inputs that the probe has not seen, and gradients are carried as they are there."""
    model.zero_grad()
    before = model(inputs)
    before.sin().sum().backward()
    apply(model, edits, example=(inputs[:2],))
    carried = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    after = model(inputs)
    after.sin().sum().backward()
    torch.testing.assert_close(after, before, rtol=1e-11, atol=1e-11)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(carried[name], parameter.grad, rtol=1e-9, atol=1e-10, msg=name)


# ------------------------------------------------------------------ weights


def test_outgoing_weights_are_shared_out_as_told():
    model = network()
    old = model[2].weight.detach().clone()
    apply(model, Widen("0", COPIES, new=1, shares=SHARES), example=PROBE)
    torch.testing.assert_close(model[2].weight.detach()[:, :7], old[:, UNITS] * SHARE, rtol=1e-15, atol=0)
    assert not model[2].weight[:, 7].any()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_small_network_keeps_its_function(case: Case):
    for name, size in case.widths.items():
        if name in case.uniform | case.copies_only:
            continue
        model, probe, fresh = case.model().eval(), case.inputs(2), case.inputs(5)
        before = model(*fresh)
        apply(model, copied(case, name, size), example=probe)
        torch.testing.assert_close(model(*fresh), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", [c for c in CASES if c.uniform | c.copies_only], ids=str)
def test_units_that_are_not_only_summed_share_equally(case: Case, unchanged):
    for name in case.uniform | case.copies_only:
        size = case.widths[name]
        model, probe, edit = case.model(), case.inputs(2), Widen(name, range(size), shares=[0.25] * size)
        width = trace(model, *probe)[name]
        with unchanged(model), pytest.raises(SurgeryError, match="not only summed") as caught:
            apply(model, edit, example=probe)
        assert (width.uniform or width.copies_only) in caught.value.seen
        apply(model, edit, example=probe, exact=False)


def heads(scale: float | None) -> nn.Module:
    def forward(m: Apply, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).view(*x.shape[:2], 3, m.heads, -1).permute(2, 0, 3, 1, 4)
        return m.out(F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2))

    model = Apply(forward, qkv=nn.Linear(6, 24), out=nn.Linear(8, 6))
    model.heads = 2
    return model.double()


@pytest.mark.parametrize("scale", [None, 0.3])
def test_heads_and_head_sizes_of_attention(scale):
    """Shares along the head size make up for the scale of the scores, too."""
    model, x = heads(scale), torch.randn(3, 5, 6).double()
    for width in trace(model, x).growable:
        changes_nothing(model, Widen(width.name, (1, 1, 0), shares=SHARES), x)


@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_weights_copy_on_one_side_and_share_on_the_other(layer):
    rnn = layer(3, 4, num_layers=2, batch_first=True)
    model = Apply(lambda m, x: m.out(m.rnn(x)[0]), rnn=rnn, out=nn.Linear(4, 2)).double()
    x = torch.randn(3, 5, 3).double()
    names = [width.name for width in trace(model, x).growable]
    assert names
    for name in names:
        changes_nothing(model, Widen(name, COPIES, shares=SHARES), x)


def test_a_tied_table_behind_a_gain_that_shares():
    model = Apply(
        lambda m, x: F.linear(m.table(x) * m.gain, m.table.weight), table=nn.Embedding(7, 4), gain=nn.Parameter(rand(4))
    ).double()
    tokens = torch.arange(6).view(2, 3)
    width = next(w for w in trace(model, tokens).growable if w.size == 4)
    changes_nothing(model, Widen(width.name, COPIES, shares=SHARES), tokens)


def rand(*size: int) -> Tensor:
    return torch.rand(*size, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("number", [1.0, -2.5])
def test_gains_that_are_used_with_a_number_added(number):
    model = Apply(
        lambda m, x: (m.hidden(x).tanh() * (number + m.gain)).sum(-1),
        hidden=nn.Linear(3, 4),
        gain=nn.Parameter(rand(4)),
    ).double()
    gain = model.gain.detach().clone()
    changes_nothing(model, Widen("hidden", COPIES, shares=SHARES), torch.randn(5, 3).double())
    torch.testing.assert_close(model.gain.detach() + number, (gain + number)[UNITS] * SHARE)


# ------------------------------------------------------------------ weight norms

NORMED = {
    "before": lambda: [weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)],
    "behind, by input": lambda: [nn.Linear(3, 4), nn.Tanh(), weight_norm(nn.Linear(4, 2), dim=1)],
    "transposed": lambda: [
        *(nn.Unflatten(1, (3, 1)), nn.Conv1d(3, 4, 1), nn.Tanh()),
        *(weight_norm(nn.ConvTranspose1d(4, 2, 3)), nn.Flatten()),
    ],
}


@pytest.mark.parametrize("name", NORMED)
def test_weight_norms_keep_signs_in_the_direction(name):
    model, x = nn.Sequential(*NORMED[name]()).double(), torch.randn(5, 3).double()
    changes_nothing(model, Widen(trace(model, x).growable[0].name, COPIES, shares=SHARES), x)


def test_a_weight_norm_over_the_shared_axis_keeps_the_function():
    model, x = (
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), weight_norm(nn.Linear(4, 2))).double(),
        torch.randn(5, 3).double(),
    )
    before = model(x)
    apply(model, WIDEN, example=(x[:2],))
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


def test_averages_of_gains_are_carried_as_the_gains():
    model, x = nn.Sequential(*NORMED["behind, by input"]()).double(), torch.randn(5, 3).double()
    gain = model[2].parametrizations.weight.original0
    old = gain.detach().clone()
    change = apply(model, WIDEN, example=(x,))
    name = "2.parametrizations.weight.original0"
    torch.testing.assert_close(change.carry(old, name), change[name].new.detach())
    assert (change[name].new > 0).all() == (old > 0).all()


# ------------------------------------------------------------------ gradients and optimizers


def test_a_copy_gathers_its_share_of_the_gradient_of_its_original():
    model = network()
    model(PROBE[0]).square().sum().backward()
    old = [p.grad.clone() for p in model.parameters()]
    apply(model, WIDEN, example=PROBE)
    model.zero_grad()
    model(PROBE[0]).square().sum().backward()
    expected = [old[0][UNITS] * SHARE[:, None], old[1][UNITS] * SHARE, old[2][:, UNITS], old[3]]
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("like", "factor"),
    [
        ("weight", torch.ones(7)),
        ("gradient", SHARE),
        ("square", SHARE.square()),
        ("magnitude", SHARE.abs()),
        ("step", SHARE.sign()),
        ("copy", torch.ones(7)),
    ],
)
def test_what_a_share_does_to_what_behaves_so(like, factor):
    change, bias = apply(network(), WIDEN, example=PROBE), torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    torch.testing.assert_close(change.carry(bias, "0.bias", like=like), bias[UNITS] * factor.double())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_that_of_a_network_that_had_these_shares_all_along(name):
    after, before = network(), network()
    optimizer, other = (standing_still(OPTIMIZERS[name](model.parameters())) for model in (after, before))
    train(after, optimizer, 3)
    apply(after, WIDEN, example=PROBE, optimizers=[optimizer])
    apply(before, WIDEN, example=PROBE)
    train(before, other, 3)
    carried = state_of(after, optimizer)
    for key, value in state_of(before, other).items():
        torch.testing.assert_close(carried[key], value, rtol=1e-6, atol=1e-15, msg=key)


@pytest.mark.parametrize("policy", ["copy", "zero"])
def test_other_policies_do_not_look_at_shares(policy):
    states = []
    for shares in ((), SHARES):
        model = network()
        optimizer = OPTIMIZERS["Adam"](model.parameters())
        train(model, optimizer, 3)
        apply(model, Widen("0", COPIES, state=policy, shares=shares), example=PROBE, optimizers=[optimizer])
        states.append(state_of(model, optimizer))
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "SGD" in name])
def test_gradients_of_signed_copies_fold_back(name):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    old = state_of(model, optimizer)
    apply(model, WIDEN, example=PROBE, optimizers=[optimizer])
    apply(model, Narrow("0", (4, 5, 6), into=COPIES), example=PROBE, optimizers=[optimizer])
    for key, value in state_of(model, optimizer).items():
        torch.testing.assert_close(value, old[key], rtol=1e-12, atol=1e-15, msg=key)


def test_squares_lose_the_signs_and_fold_back_to_more():
    """What Adam keeps of 2 g and -g is 4 g^2 and g^2; the signs are gone, so (2 + 1)^2 g^2 stands for the sum."""
    model = network()
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    train(model, optimizer, 3)
    old = optimizer.state[model[0].weight]["exp_avg_sq"].clone()
    apply(model, Widen("0", (1,), shares=(-1,)), example=PROBE, optimizers=[optimizer])
    apply(model, Narrow("0", (4,), into=(1,)), example=PROBE, optimizers=[optimizer])
    torch.testing.assert_close(optimizer.state[model[0].weight]["exp_avg_sq"][1], 9 * old[1])


@pytest.mark.parametrize("name", ["SGD momentum", "Adam", "Adamax", "RMSprop momentum"])
def test_training_goes_on_down(name):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 20)
    apply(model, WIDEN, example=PROBE, optimizers=[optimizer])
    losses = train(model, optimizer, 40)
    assert losses[-1] < losses[0]


# ------------------------------------------------------------------ several edits at once


def test_shares_are_kept_when_edits_of_one_width_are_joined():
    model, twin = network(), network()
    edits = [
        Widen("0", (1,), shares=(-1,)),
        Widen("0", (0, 0)),
        Widen("0", (3, 2), new=1, shares=(0.25, 3)),
        Widen("0", (0,)),
    ]
    (joined,) = apply(model, edits, example=PROBE).edits
    assert joined == Widen("0", (1, 0, 0, 3, 2, 0), 1, shares=(-1, 0.25, 0.25, 0.25, 3, 0.25))
    apply(twin, joined, example=PROBE)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    share = torch.tensor([0.25, 2, -2, 0.75, -1, 0.25, 0.25, 0.25, 3, 0.25, 0])
    column = network()[2].weight.detach()[0, [0, 1, 2, 3, 1, 0, 0, 3, 2, 0, 0]]
    torch.testing.assert_close(model[2].weight.detach()[0], column * share)


def test_edits_without_shares_are_joined_without():
    (joined,) = apply(network(), [Widen("0", (1,)), Widen("0", (1, 2))], example=PROBE).edits
    assert joined == Widen("0", (1, 1, 2))
    assert joined.shares == ()


@pytest.mark.parametrize("other", [Widen("0", (2, 1)), Widen("0", (1,), shares=(0.5,))], ids=str)
def test_a_unit_is_shared_out_by_one_edit(other, unchanged):
    model = network()
    for edits in ([Widen("0", (1,), shares=(-1,)), other], [other, Widen("0", (1,), shares=(-1,))]):
        with unchanged(model), pytest.raises(SurgeryError, match="share out one unit") as caught:
            apply(model, edits, example=PROBE)
        assert "units [1]" in caught.value.seen


def test_offsets_are_carried_along_shares_of_another_width():
    """A layer between two widths that change: what is added to its rows moves what they compute by just that."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    offset, x = torch.randn(2, 4).double(), torch.randn(5, 3).double()
    hidden = model[:2](x)
    rows = model[2].weight.detach()
    expected = model[:3](x)[:, [0, 1, 2, 1]]
    expected[:, [1, 3]] += hidden @ offset.T
    candidates = [
        Candidate(Widen("0", COPIES, shares=SHARES)),
        Candidate(Widen("2", (1,), shares=(-1,)), 0, {"2.weight": offset}),
    ]
    structure = trace(model, x)
    Operation(structure, (x,)).perform(
        [c.edit for c in candidates], lambda done: add_offsets(structure, candidates, done)
    )
    torch.testing.assert_close(model[:3](x), expected)
    torch.testing.assert_close(model[2].weight.detach()[0], rows[0, UNITS] * SHARE)


# ------------------------------------------------------------------ signed splitting


def semi_hessian(model: nn.Module, x: Tensor, target: Tensor, unit: int) -> tuple[Tensor, Tensor]:
    """Return the splitting matrix of a unit, from its definition, by its eigenvalues and eigenvectors."""
    with torch.no_grad():
        residual = 2 * (model(x) - target) / target.numel()
        weight = residual @ model[2].weight[:, unit]  # dL/da, summed over samples as the loss is a mean
        z = x @ model[0].weight[unit] + model[0].bias[unit]
        second = z.sigmoid() * (1 - z.sigmoid())
        return torch.linalg.eigh((x * (weight * second)[:, None]).T @ x)


@pytest.mark.parametrize(
    ("shares", "offsets", "value"),
    [
        # Shares of the copies, offsets of original and copies along the lowest and highest eigenvector, and how much
        # each eigenvalue counts: c = 3 in the table of signed splitting (arXiv:2003.10392).
        ((0.5,), [(1, 0), (-1, 0)], (1, 0)),
        ((2,), [(0, 1), (0, 0.5)], (0, -0.5)),
        ((1, -1), [(1, 0), (-1, 0), (0, 0)], (2, 0)),
        ((-0.5, 2), [(0, 1), (0, -1), (0, 0)], (0, -1)),
        ((1, -0.5, -0.5), [(1, 0), (-1, 0), (0, 1), (0, -1)], (2, -1)),
    ],
    ids=["positive binary", "negative binary", "positive triplet", "negative triplet", "quartet"],
)
def test_the_five_splits_change_the_loss_as_the_theory_says(shares, offsets, value):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)).double()
    x, target, step, unit = torch.randn(64, 3).double(), torch.randn(64, 2).double(), 1e-3, 2
    values, vectors = semi_hessian(model, x, target, unit)
    before = F.mse_loss(model(x), target)
    apply(model, Widen("0", [unit] * len(shares), shares=shares), example=(x,))
    with torch.no_grad():
        for row, (low, high) in zip([unit, *range(4, 4 + len(shares))], offsets, strict=True):
            model[0].weight[row] += step * (low * vectors[:, 0] + high * vectors[:, -1])
        change = F.mse_loss(model(x), target) - before
    expected = step**2 / 2 * (value[0] * values[0] + value[1] * values[-1])
    torch.testing.assert_close(change, expected, rtol=1e-2, atol=0)


# ------------------------------------------------------------------ in words


@pytest.mark.parametrize(
    "shares", [SHARES, torch.tensor(SHARES), np.float32(SHARES), [Fraction(2), Fraction(-3, 2), -0.5]], ids=type
)
def test_shares_may_be_given_as_any_numbers(shares):
    edit = Widen("0", COPIES, shares=shares)
    assert edit == WIDEN
    assert hash(edit) == hash(WIDEN)
    assert [type(share) for share in edit.shares] == [float] * 3


@pytest.mark.parametrize(
    "shares",
    [
        *((1.0,), (*SHARES, 0), (1, 2, np.nan), (1, 2, -np.inf), (1, 2, 10**400)),
        *(("1", 2, 3), "123", 1.0, None, (1, 2, 3j), torch.ones(3, 2)),
    ],
    ids=repr,
)
def test_what_is_no_share_of_every_copy_is_refused(shares):
    with pytest.raises(SurgeryError) as caught:
        Widen("0", COPIES, shares=shares)
    assert "for 3 copies" in caught.value.seen
    assert "a finite number for each entry of `copies`" in caught.value.expected


def test_copies_of_outputs_take_nothing_and_new_units_neither():
    with pytest.raises(SurgeryError, match="output=True"):
        Widen("0", (1,), output=True, shares=(0.5,))
    with pytest.raises(SurgeryError, match="for 0 copies"):
        Widen("0", new=1, shares=(0.5,))


def test_shares_go_through_the_journal_and_no_shares_leave_no_trace():
    journal = Journal()
    journal.record(WIDEN, Widen("2", (1,)), Widen("4", (0, 1), shares=(1 / 3, 0.1)))
    written = json.loads(journal.to_json())["entries"][0]["edits"]
    assert written[0]["shares"] == [2.0, -1.5, -0.5]
    assert "shares" not in written[1]
    assert Journal.from_json(journal.to_json()) == journal


@pytest.mark.parametrize("shares", [[0.5], "half", [True], [None], [[1.0]], [float("nan")], 1.0])
def test_a_damaged_share_in_a_journal_is_refused(shares):
    entry = {"edits": [{"edit": "widen", "width": "0", "copies": [1, 2], "shares": shares}], "note": {}}
    with pytest.raises(SurgeryError):
        Journal.from_json(json.dumps({"growkit_journal": 1, "entries": [entry]}))


def test_a_grown_model_comes_back_from_its_journal():
    model, new, journal = network(), network(), Journal()
    journal.append(apply(model, [WIDEN, dataclasses.replace(WIDEN, copies=(2,), shares=(-1,))], example=PROBE))
    Journal.from_json(journal.to_json()).replay(new, example=PROBE)
    new.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(new(*PROBE), model(*PROBE))


def test_one_share_of_convolutions_is_one_of_every_position():
    case = BY_NAME["convnet"]
    model = case.model()
    old = model[9].weight.detach().clone()
    apply(model, Widen("4", (2,), shares=(-1,)), example=case.inputs(2))
    assert torch.equal(model[9].weight.detach(), torch.cat([old[:, :8], 2 * old[:, 8:], -old[:, 8:]], 1))
