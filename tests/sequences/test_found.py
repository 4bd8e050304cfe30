"""What the random lives have found, each in its smallest form."""

from __future__ import annotations

import pytest
import torch
from networks import Tied
from torch import Tensor, nn

import growkit
from growkit.surgery import Deepen, Narrow, Widen, apply


class Largest(nn.Module):
    """A maximum listens to the hidden units, and so does a layer that may be deaf to some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(x)
        return self.head(hidden) + hidden.amax(-1, keepdim=True)


def test_a_unit_whose_outgoing_weights_are_zero_may_still_be_the_largest():
    model, example = Largest(), (torch.randn(2, 3),)
    with torch.no_grad():
        model.head.weight[:, 0] = 0
        model.hidden.bias[0] -= 20  # not on the example
    with pytest.raises(growkit.SurgeryError, match="unit 0 is in use"):
        apply(model, Narrow("hidden", (0,)), example=example)


class TwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.score = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.score.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.score(self.embedding(tokens).tanh())


@pytest.mark.parametrize("after", ["embedding", "score"])
def test_tied_weights_that_a_block_renames_are_told_under_each_name(after):
    model, kept = TwoNames(), TwoNames().state_dict()
    change = apply(model, Deepen(after, "linear", 4 if after == "embedding" else 7), example=(torch.arange(4)[None],))
    assert change.renamed == {f"{after}.weight": f"{after}.0.weight"}
    missing, unexpected = model.load_state_dict({change.renamed.get(k, k): v for k, v in kept.items()}, strict=False)
    assert unexpected == []
    assert all(name.startswith(f"{after}.1.") for name in missing)


@pytest.mark.xfail(
    strict=True, reason="sizes of a layer are not found to be those of parameters of its parametrization"
)
def test_attributes_of_parametrized_layers_follow():
    model = nn.Sequential(nn.Linear(3, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Linear(5, 2))
    apply(model, Widen("0", (1,)), example=(torch.randn(2, 3),))
    assert model[1].in_features == 5


def test_weights_that_are_tied_across_a_transposition_stay_tied():
    model, example = Tied(), (torch.randn(2, 3),)
    for width in growkit.trace(model, *example).growable:
        apply(model, Widen(width.name, range(width.size)), example=example)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in Tied().named_parameters()]
