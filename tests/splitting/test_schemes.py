"""Signed splitting: the table is the optimum, and each of its rows comes true through real events."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from growth.stubs import Proposes, event, mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting.helpers import data, data_for, grow, law_holds, matrices_of, mean_loss, settle
from splitting.networks import NETWORKS
from torch import Tensor, nn

import growkit
from growkit_plugins.splitting import Scheme, Split, Splitting, best_splits, candidates, exact_eigenpairs, schemes

NAMES = ["positive binary", "negative binary", "positive triplet", "negative triplet", "quartet"]
MASSES = st.floats(1.01, 9)
EIGENVALUES = st.floats(-3, 3)


# ---------------------------------------------------------------- the table


def test_the_schemes_by_name():
    assert [scheme.name for scheme in schemes(3.0, 4)] == NAMES
    assert [scheme.name for scheme in schemes(3.0, 3)] == NAMES[:4]
    assert [scheme.name for scheme in schemes(3.0, 2)] == NAMES[:2]
    assert [scheme.name for scheme in schemes(1.0, 4)] == NAMES[:1]


@given(mass=MASSES)
def test_every_scheme_is_admissible(mass):
    """Weights sum to 1, their magnitudes to no more than the mass; offsets are no longer than 1 and cancel."""
    for scheme in schemes(mass, 4):
        assert sum(scheme.weights) == pytest.approx(1)
        assert sum(map(abs, scheme.weights)) <= mass + 1e-12
        for distances in (scheme.low, scheme.high):
            assert len(distances) == len(scheme.weights)
            assert sum(w * d for w, d in zip(scheme.weights, distances, strict=True)) == pytest.approx(0, abs=1e-12)
        assert all(low**2 + high**2 <= 1 for low, high in zip(scheme.low, scheme.high, strict=True))


@given(mass=MASSES, smallest=EIGENVALUES, largest=EIGENVALUES)
def test_values_are_those_of_the_paper(mass, smallest, largest):
    c = mass
    table = {
        "positive binary": smallest,
        "negative binary": -(c - 1) / (c + 1) * largest,
        "positive triplet": (c + 1) / 2 * smallest,
        "negative triplet": -(c - 1) / 2 * largest,
        "quartet": (c + 1) / 2 * smallest - (c - 1) / 2 * largest,
    }
    for scheme in schemes(mass, 4):
        assert scheme.value(smallest, largest) == pytest.approx(table[scheme.name], rel=1e-9, abs=1e-9)


def admissible(weights: np.ndarray, offsets: np.ndarray, mass: float) -> tuple[np.ndarray, np.ndarray]:
    """Bring any numbers into the admissible set: weights (count, m), offsets (count, m, 2).

    Weights are mixed with those that are even, so that they sum to 1 and have no more than the mass; offsets lose
    their mean, and shrink to length 1.
    """
    count = weights.shape[1]
    weights = weights - (weights.sum(1, keepdims=True) - 1) / count
    even = np.full_like(weights, 1 / count)
    share = np.minimum(1, (mass - 1) / np.maximum(np.abs(weights).sum(1, keepdims=True) - 1, 1e-12))
    weights = even + share * (weights - even)  # the magnitudes are convex in the share
    offsets = offsets - (weights[:, :, None] * offsets).sum(1, keepdims=True)
    longest = np.linalg.norm(offsets, axis=2).max(1)
    return weights, offsets / np.maximum(longest, 1e-12)[:, None, None]


@settings(max_examples=40)
@given(
    mass=st.floats(1.2, 9),
    spectrum=st.tuples(EIGENVALUES, EIGENVALUES).map(sorted),
    offspring=st.integers(2, 4),
    seed=st.integers(0, 10**6),
)
def test_no_other_split_does_better(mass, spectrum, offspring, seed):
    """Random admissible splits in the plane of the two eigenvectors, and those near to the best of them."""
    smallest, largest = spectrum
    best = min(0, *(scheme.value(smallest, largest) for scheme in schemes(mass, offspring)))
    random = np.random.default_rng(seed)
    weights = random.normal(scale=2, size=(2000, offspring))
    offsets = random.normal(size=(2000, offspring, 2))
    found = np.inf
    for spread in (1.0, 0.3, 0.1, 0.03):
        legal, moved = admissible(weights, offsets, mass)
        assert np.allclose(legal.sum(1), 1)
        assert (np.abs(legal).sum(1) <= mass + 1e-9).all()
        values = (legal[:, :, None] * moved**2 * np.array(spectrum)).sum((1, 2))
        found = min(found, values.min())
        top = values.argsort()[:20].repeat(100)
        weights = legal[top] + spread * random.normal(size=(2000, offspring))
        offsets = moved[top] + spread * random.normal(size=(2000, offspring, 2))
    assert found >= best - 1e-9
    assert found <= 0.5 * best + 1e-9, "the search is worth something"


@given(mass=MASSES, spectrum=st.tuples(EIGENVALUES, EIGENVALUES).map(sorted))
def test_more_offspring_never_hurt_and_only_zero_is_stable_with_four(mass, spectrum):
    smallest, largest = spectrum
    best = [min(scheme.value(smallest, largest) for scheme in schemes(mass, count)) for count in (2, 3, 4)]
    assert best[0] >= best[1] - 1e-12
    assert best[1] >= best[2] - 1e-12
    if (smallest < -1e-6) or (largest > 1e-6):
        assert best[0] < 0


# ---------------------------------------------------------------- real events


def split_of(scheme: Scheme, name: str = "perceptron", mass: float = 3.0) -> tuple[nn.Module, list, Split]:
    """A network, its data, and one neuron with eigenvalues of both signs, split by a scheme."""
    network = NETWORKS[name]
    torch.manual_seed(1)
    model = settle(network.build())
    batches = data_for(model, network.shape, batches=2)
    matrices = matrices_of(copy.deepcopy(model), batches)
    smallest, largest = exact_eigenpairs(matrices)
    number, unit = max(
        ((n, u) for n, neurons in enumerate(matrices.neurons) for u in range(neurons.units)),
        key=lambda place: min(-smallest[place[0]].values[place[1]], largest[place[0]].values[place[1]]),
    )
    low, high = smallest[number], largest[number]
    assert low.values[unit] < 0 < high.values[unit]
    along_low, along_high = torch.tensor([scheme.low, scheme.high]).double()[:, :, None]
    offsets = along_low * low.vectors[unit] + along_high * high.vectors[unit]
    value = scheme.value(low.values[unit].item(), high.values[unit].item())
    return model, batches, Split(number, matrices.neurons[number], unit, scheme, value, offsets)


@pytest.mark.parametrize("name", ["perceptron", "residual block", "one layer of a gate", "transposed convolutions"])
@pytest.mark.parametrize("mass", [1.5, 3.0])
@pytest.mark.parametrize("kind", NAMES)
def test_each_scheme_changes_the_loss_by_its_value(kind, mass, name):
    (scheme,) = (scheme for scheme in schemes(mass, 4) if scheme.name == kind)
    model, batches, split = split_of(scheme, name)
    before, step = mean_loss(model, batches), 1e-3
    happened = grow(model, batches, Proposes(*candidates([split], step)))
    assert happened.note["gain"] == pytest.approx(-0.5 * step**2 * split.value)
    change = mean_loss(model, batches) - before
    assert change == pytest.approx(0.5 * step**2 * split.value, rel=0.005)


@pytest.mark.parametrize("method", ["exact", "fast"])
@pytest.mark.parametrize("offspring", [2, 3, 4])
@pytest.mark.parametrize("name", ["perceptron", "depthwise separable block", "two layers of a gate", "recurrent"])
def test_signed_splits_of_all_neurons_obey_the_law(name, offspring, method):
    network = NETWORKS[name]
    model = settle(network.build())
    options = {"mass": 3.0, "offspring": offspring, "method": method, "step": 1e-3}
    happened = law_holds(model, data_for(model, network.shape), **options)
    counts = {len(candidate.edit.copies) for candidate in happened.candidates}
    assert counts <= set(range(1, offspring))
    assert counts - {1} or offspring == 2


def test_shares_are_written_only_where_they_differ():
    for scheme in schemes(3.0, 4):
        _, _, split = split_of(scheme)
        edit = candidates([split], 0.1)[0].edit
        assert edit.copies == (split.unit,) * (len(scheme.weights) - 1)
        assert edit.shares == (() if scheme.name == "positive binary" else scheme.weights[1:])


def test_the_best_scheme_of_every_neuron_is_taken():
    model = settle(mlp(3, 6, 5, 2, activation=nn.Tanh))
    matrices = matrices_of(model, batches := data((3,), (2,)))
    smallest, largest = exact_eigenpairs(matrices)
    structure = growkit.trace(copy.deepcopy(model), batches[0][0][:2])
    splits = best_splits(matrices, smallest, largest, structure, mass=3.0, offspring=4, count=100)
    values = {(split.number, split.unit): split.value for split in splits}
    for number, neurons in enumerate(matrices.neurons):
        for unit in range(neurons.units):
            low, high = smallest[number].values[unit].item(), largest[number].values[unit].item()
            best = min(scheme.value(low, high) for scheme in schemes(3.0, 4))
            assert values[number, unit] == pytest.approx(best)
    assert [split.value for split in splits] == sorted(split.value for split in splits)


def test_where_copies_must_be_equal_splits_are_positive():
    """A mean over the units' squares, say, takes no unequal shares."""
    model = settle(mlp(3, 4, 2, activation=nn.Tanh))
    batches = data((3,), (2,))
    matrices = matrices_of(model, batches)
    structure = growkit.trace(copy.deepcopy(model), batches[0][0][:2])

    class Strict:
        copies_only = "for the test"

    splits = best_splits(matrices, *exact_eigenpairs(matrices), {"0": Strict()}, mass=3.0, offspring=4, count=100)
    assert splits
    assert {split.scheme.name for split in splits} == {"positive binary"}
    signed = best_splits(matrices, *exact_eigenpairs(matrices), structure, mass=3.0, offspring=4, count=100)
    assert {split.scheme.name for split in signed} - {"positive binary"}


# ---------------------------------------------------------------- stable neurons


def mean_output(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0]).mean()


def convex(dtype: torch.dtype, count: int, outgoing: float) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """Convex activations with positive weight in the loss have no negative index, few samples make many zero ones."""
    model = mlp(20, 30, 1, activation=nn.Softplus).to(dtype)
    nn.init.constant_(model[2].weight, outgoing)
    inputs = torch.randn(count, 20, dtype=dtype)
    return model, [(inputs, inputs)] * 2


@pytest.mark.parametrize("method", ["fast", "exact"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("count", [3, 200])
@pytest.mark.parametrize("outgoing", [1.0, 0.0])
def test_a_stable_neuron_is_never_split(dtype, count, outgoing, method):
    model, batches = convex(dtype, count, outgoing)
    example = (batches[0][0][:2],)
    assert event(model, Splitting(1.0, method=method), example=example, loss=mean_output, batches=batches) is None


@pytest.mark.parametrize("method", ["fast", "exact"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_with_signs_only_a_matrix_of_zeros_is_stable(dtype, method):
    plugin = Splitting(1.0, method=method, mass=3.0)
    model, batches = convex(dtype, 50, 1.0)
    example = (batches[0][0][:2],)
    happened = event(model, plugin, example=example, loss=mean_output, batches=batches)
    assert len(happened.candidates) == 30
    model, batches = convex(dtype, 50, 0.0)
    assert event(model, plugin, example=example, loss=mean_output, batches=batches) is None
