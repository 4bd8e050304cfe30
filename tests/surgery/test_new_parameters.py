"""The parameters of a new block join the optimizer that trains their like beside it."""

from __future__ import annotations

import pytest
import torch
from optimizer_cases import PROBE, network, places_of, train
from torch import nn, optim

from growkit.errors import GrowkitError, SurgeryError
from growkit.surgery import Deepen, Widen, apply

BLOCK = ["incoming.weight", "incoming.bias", "outgoing.weight", "outgoing.bias"]
NEW = [f"1_deeper.{name}" for name in BLOCK]
DEEPEN = Deepen("1", "linear", 4)


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the matrices and the vectors of a model."""
    return [p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() < 2]


def test_new_parameters_stand_right_behind_their_neighbour():
    model = network()
    optimizer = optim.SGD(model.parameters(), 0.1)
    apply(model, DEEPEN, example=PROBE, optimizers=[optimizer])
    assert places_of(model, optimizer) == [[name for name, _ in model.named_parameters()]]


def test_names_in_an_optimizer_follow_its_parameters():
    model = network()
    optimizer = optim.SGD(model.named_parameters(), 0.1)
    apply(model, [Widen("0", (0,)), Deepen("1", "linear", 5)], example=PROBE, optimizers=[optimizer])
    assert [optimizer.param_groups[0]["param_names"]] == places_of(model, optimizer)


def test_new_parameters_join_the_group_of_their_neighbour():
    model = network()
    optimizer = optim.SGD([{"params": list(layer.parameters())} for layer in (model[2], model[0])], 0.1)
    apply(model, DEEPEN, example=PROBE, optimizers=[optimizer])
    assert places_of(model, optimizer) == [["2.weight", "2.bias"], ["0.weight", "0.bias", *NEW]]


@pytest.mark.parametrize(
    ("name", "held"),
    [("first", slice(None)), ("behind frozen layers", slice(2, None))],
    ids=["nothing stands before it", "what stands before it is not trained"],
)
def test_new_parameters_are_trained_wherever_the_block_stands(name, held):
    """A block that no optimizer knows would stay the identity for ever, and nobody would notice."""
    model = nn.Sequential(nn.Identity(), *network())
    after, size = ("0", 3) if name == "first" else ("1", 4)
    optimizer = optim.SGD(list(model.parameters())[held], 0.1)
    try:
        apply(model, Deepen(after, "linear", size), example=PROBE, optimizers=[optimizer])
    except GrowkitError:
        return
    block = model.get_submodule(f"{after}_deeper")
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in block.parameters()} <= known


# ------------------------------------------------------------------ several optimizers


def test_a_block_joins_the_optimizer_of_its_neighbour_alone():
    """An encoder and a decoder: what two optimizers step is stepped twice."""
    model = network()
    encoder, decoder = optim.SGD(model[0].parameters(), 0.1), optim.Adam(model[2].parameters())
    apply(model, DEEPEN, example=PROBE, optimizers=[decoder, encoder])
    assert places_of(model, encoder) == [["0.weight", "0.bias", *NEW]]
    assert places_of(model, decoder) == [["2.weight", "2.bias"]]


def test_what_stands_behind_a_block_takes_it_where_nothing_before_it_is_trained():
    model = nn.Sequential(nn.Linear(3, 3), *network()).double()
    decoder, later = optim.SGD(model[1].parameters(), 0.1), optim.Adam(model[3].parameters())
    apply(model, Deepen("0", "linear", 3, residual=False), example=PROBE, optimizers=[later, decoder])
    assert places_of(model, decoder) == [["0_deeper.weight", "0_deeper.bias", "1.weight", "1.bias"]]
    assert places_of(model, later) == [["3.weight", "3.bias"]]


def test_a_block_joins_every_optimizer_that_trains_its_neighbour():
    model = network()
    both = [optim.SGD(model.parameters(), 0.1), optim.Adam(model.parameters())]
    apply(model, DEEPEN, example=PROBE, optimizers=both)
    for optimizer in both:
        assert places_of(model, optimizer) == [[name for name, _ in model.named_parameters()]]


def test_a_block_after_a_block_joins_with_it():
    model = network()
    encoder, decoder = optim.SGD(model[0].parameters(), 0.1), optim.Adam(model[2].parameters())
    apply(model, [DEEPEN, Deepen("1_deeper", "linear", 4)], example=PROBE, optimizers=[encoder, decoder])
    names = [name for name, _ in model.named_parameters()]
    assert places_of(model, encoder) == [names[:-2]]
    assert places_of(model, decoder) == [names[-2:]]


# ------------------------------------------------------------------ matrices with matrices, vectors with vectors


def test_weights_join_the_decayed_and_biases_the_others():
    model = network()
    decayed, others = split(model)
    optimizer = optim.AdamW([{"params": others, "weight_decay": 0.0}, {"params": decayed}])
    apply(model, DEEPEN, example=PROBE, optimizers=[optimizer])
    assert places_of(model, optimizer) == [
        ["0.bias", NEW[1], NEW[3], "2.bias"],
        ["0.weight", NEW[0], NEW[2], "2.weight"],
    ]


def test_a_kernel_counts_as_a_matrix():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    decayed, others = split(model)
    optimizer = optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}])
    apply(model, Deepen("0", "conv2d", 2), example=(torch.randn(2, 1, 5, 5),), optimizers=[optimizer])
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 4]
    assert {p.dim() for p in optimizer.param_groups[1]["params"]} == {1}


def test_weights_go_to_muon_and_biases_to_the_optimizer_beside_it():
    model = network()
    matrices, vectors = split(model)
    muon, adam = optim.Muon(matrices), optim.AdamW(vectors)
    apply(model, DEEPEN, example=PROBE, optimizers=[muon, adam])
    assert places_of(model, muon) == [["0.weight", NEW[0], NEW[2], "2.weight"]]
    assert places_of(model, adam) == [["0.bias", NEW[1], NEW[3], "2.bias"]]
    train(model, muon, 1)
    train(model, adam, 1)


def test_a_kernel_does_not_go_to_muon():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2), nn.Unflatten(1, (2, 1, 1)))
    muon, adam = optim.Muon([model[2].weight]), optim.AdamW([model[0].weight, model[0].bias, model[2].bias])
    apply(model, Deepen("3", "conv2d", 2), example=(torch.randn(2, 1, 5, 5),), optimizers=[muon, adam])
    assert places_of(model, muon) == [["2.weight"]]
    assert len(places_of(model, adam)[0]) == 7


def test_without_its_like_a_parameter_joins_the_nearest_of_any_kind():
    model = network()
    optimizer = optim.SGD(split(model)[0], 0.1)
    apply(model, DEEPEN, example=PROBE, optimizers=[optimizer])
    assert places_of(model, optimizer) == [["0.weight", *NEW, "2.weight"]]


def test_a_bias_that_only_muon_could_train_is_refused(unchanged):
    model = network()
    muon = optim.Muon(split(model)[0])
    train(model, muon, 1)
    with unchanged(model, muon), pytest.raises(SurgeryError) as caught:
        apply(model, [Widen("0", (0,)), Deepen("1", "linear", 5)], example=PROBE, optimizers=[muon])
    assert caught.value.what == "no optimizer can train the new parameter '1_deeper.incoming.bias'"
    assert caught.value.seen == "shape (5,), where Muon holds what stands beside it"


def test_a_block_behind_a_table_of_sparse_gradients_goes_elsewhere():
    """SparseAdam cannot step on the dense gradients of a block."""
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 2))
    tokens = (torch.tensor([[0, 3, 1]]),)
    table, rest = optim.SparseAdam(model[0].parameters()), optim.SGD(model[1].parameters(), 0.1)
    apply(model, Deepen("0", "linear", 4), example=tokens, optimizers=[table, rest])
    assert places_of(model, table) == [["0.weight"]]
    assert len(places_of(model, rest)[0]) == 6


def test_a_model_without_optimizers_deepens():
    model = network()
    optimizer = optim.SGD([nn.Parameter(torch.zeros(2))], 0.1)
    apply(model, DEEPEN, example=PROBE, optimizers=[optimizer])
    assert len(optimizer.param_groups[0]["params"]) == 1
