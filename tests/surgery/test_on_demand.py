"""Edits that must be asked for: new outputs, and edits that change the function."""

from __future__ import annotations

import pytest
import torch
from small_models import TiedLanguageModel
from torch import nn

import growkit
from growkit import Journal, Narrow, SurgeryError, Widen

X = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()


# ------------------------------------------------------------------ outputs


def test_new_classes_leave_the_old_logits_untouched():
    model = classifier()
    before = model(X)
    optimizer = torch.optim.Adam(model.parameters())
    before.sum().backward()
    optimizer.step()
    before = model(X).detach()
    change = growkit.apply(model, Widen("2", new=3, output=True), example=(X,), optimizers=[optimizer])
    after = model(X)
    assert after.shape == (5, 5)
    assert torch.equal(after[:, :2], before)
    assert change.moved == 0
    assert model[2].out_features == 5
    assert model[2].weight[2:].any()
    assert optimizer.state[model[2].weight]["exp_avg"].shape == (5, 4)


def test_a_copied_class_has_the_logit_of_its_original():
    model = classifier()
    before = model(X)
    growkit.apply(model, Widen("2", (1,), output=True), example=(X,))
    assert torch.equal(model(X), before[:, [0, 1, 1]])


def test_outputs_do_not_grow_unasked():
    with pytest.raises(SurgeryError, match="but the width is axis 1 of the model's output"):
        growkit.apply(classifier(), Widen("2", new=1), example=(X,))


def test_outputs_do_not_shrink():
    with pytest.raises(SurgeryError, match="frozen"):
        growkit.apply(classifier(), Narrow("2", (0,)), example=(X,), exact=False)


def test_what_is_no_output_cannot_be_asked_for_as_one():
    with pytest.raises(SurgeryError, match="asks for outputs where there are none"):
        growkit.apply(classifier(), Widen("0", new=1, output=True), example=(X,))


def test_outputs_that_share_in_a_softmax_are_refused_and_made_when_asked():
    model = nn.Sequential(classifier(), nn.LogSoftmax(1))
    edit = Widen("0.2", new=1, output=True)
    with pytest.raises(SurgeryError, match="sums the exponentials of its units"):
        growkit.apply(model, edit, example=(X,))
    change = growkit.apply(model, edit, example=(X,), exact=False)
    assert model(X).shape == (5, 3)
    assert change.moved > 0.01


def test_a_vocabulary_grows_in_the_table_and_in_the_scores():
    model = TiedLanguageModel(4).double()
    tokens = torch.tensor([[0, 6, 3], [1, 2, 2]])
    before = model(tokens)
    growkit.apply(model, Widen("embedding.weight", new=2, output=True), example=(tokens,))
    assert model.score.weight is model.embedding.weight
    assert (model.embedding.num_embeddings, model.score.out_features) == (9, 9)
    assert (model(tokens)[..., :7] - before).abs().max() <= 1e-12
    assert model(torch.tensor([[8]])).shape == (1, 1, 9)


def test_outputs_grow_on_replay():
    model, fresh, journal = classifier(), classifier(), Journal()
    journal.append(growkit.apply(model, Widen("2", new=3, output=True), example=(X,)))
    Journal.from_json(journal.to_json()).replay(fresh, example=(X,))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(X), model(X))


# ------------------------------------------------------------------ the function changes


def test_how_far_the_output_moved_is_recorded():
    model, journal = classifier(), Journal()
    change = growkit.apply(model, Narrow("0", (0, 1, 3)), example=(X,), exact=False)
    journal.append(change)
    assert change.moved > 0
    shapes = {name: list(parameter.new.shape) for name, parameter in change.parameters.items()}
    assert [dict(entry.note) for entry in journal.entries] == [{"moved": change.moved, "shapes": shapes}]
    assert journal.edits == (Narrow("0", (0, 1, 3)),)


def test_what_only_changes_the_function_can_be_asked_for():
    model = nn.Sequential(nn.Linear(3, 4), nn.LogSoftmax(1), nn.Linear(4, 2)).double()
    edit = Widen("0", (0, 1))
    with pytest.raises(SurgeryError, match="sums the exponentials"):
        growkit.apply(model, edit, example=(X,))
    assert growkit.apply(model, edit, example=(X,), exact=False).moved > 0
    assert (model[0].out_features, model[2].in_features) == (6, 6)


def test_what_growkit_does_not_understand_stays_frozen():
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 2)).double()
    model[1].forward = lambda x: x.view(-1, 2, 2)
    with pytest.raises(SurgeryError, match="as the number 2"):
        growkit.apply(model, Widen("0", range(2)), example=(X,), exact=False)


def test_new_units_run_through_plain_tensors():
    model = classifier()
    model[0].table = torch.rand(4, dtype=torch.float64)
    model[0].forward = lambda x: nn.functional.linear(x, model[0].weight, model[0].bias) * model[0].table
    before = model(X)
    growkit.apply(model, Widen("0", new=2), example=(X,))
    assert model[0].table.shape == (6,)
    assert (model(X) - before).abs().max() <= 1e-12
