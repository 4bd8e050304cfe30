"""SparseAdam: dense moments of tables whose gradients are sparse."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from optimizer_cases import places_of, standing_still, state_of
from torch import Tensor, nn, optim

from growkit.surgery import Narrow, Widen, apply

TOKENS = torch.tensor([[0, 3, 1], [4, 3, 0]])
EDITS = {
    "columns": Widen("0", (1, 1, 3)),
    "new columns": Widen("0", new=2),
    "rows": Widen("0.weight", new=2, output=True),
    "copied rows": Widen("0.weight", (3, 0, 3), output=True),
}


def lookup() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 2)).double()


def optimizers(model: nn.Module, lr: float = 0.02) -> tuple[optim.Optimizer, optim.Optimizer]:
    return optim.SparseAdam(model[0].parameters(), lr), optim.SGD(model[1].parameters(), lr)


def train(model: nn.Module, both: Sequence[optim.Optimizer], steps: int) -> list[float]:
    losses = []
    for step in range(steps):
        for optimizer in both:
            optimizer.zero_grad()
        loss = (model(TOKENS[:, : 1 + step % 3])[..., :2] - 1).square().mean()
        loss.backward()
        for optimizer in both:
            optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", EDITS)
def test_the_moments_are_those_of_a_table_that_was_this_large(name):
    states: list[dict[str, Tensor]] = []
    for early in (True, False):
        model = lookup()
        if early:
            apply(model, EDITS[name], example=(TOKENS,))
        both = [standing_still(optimizer) for optimizer in optimizers(model)]
        train(model, both, 5)
        if not early:
            apply(model, EDITS[name], example=(TOKENS,), optimizers=both)
        states.append(state_of(model, both[0]))
    gathered, carried = states
    assert carried.keys() == gathered.keys() == {"0.weight exp_avg", "0.weight exp_avg_sq"}
    for key, value in gathered.items():
        assert torch.allclose(carried[key], value, rtol=1e-12, atol=1e-18), key
        assert carried[key].layout == torch.strided


def test_training_goes_on():
    model = lookup()
    both = optimizers(model)
    before = train(model, both, 12)
    apply(model, EDITS["columns"], example=(TOKENS,), optimizers=both)
    apply(model, EDITS["copied rows"], example=(TOKENS,), optimizers=both)
    middle = train(model, both, 12)
    apply(model, Narrow("0", (4,)), example=(TOKENS,), optimizers=both, exact=False)
    after = train(model, both, 12)
    assert before[0] > before[-1] > middle[-1] > after[-1]
    assert model[0].weight.shape == (8, 6)
    assert places_of(model, both[0]) == [["0.weight"]]
    assert both[0].state[model[0].weight]["step"] == 36
