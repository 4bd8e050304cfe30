"""The smallest eigenpairs of many symmetric matrices, from products alone; fast against exact."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from growth.stubs import mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting.helpers import data, data_for, dense, matrices_of, settle
from splitting.networks import NETWORKS
from torch import Tensor, nn

from growkit_plugins.splitting import Eigenpairs, exact_eigenpairs, fast_eigenpairs, matrices, smallest_eigenpairs


def with_spectrum(*spectra: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    """One symmetric matrix a spectrum, with random eigenvectors."""
    made = []
    for spectrum in spectra:
        basis, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), dtype=torch.float64))
        made.append(basis @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ basis.T)
    return torch.stack(made).to(dtype)


def solve(
    *batches: Tensor, tolerance: float = 0.0, starts: Sequence[Tensor] = (), **options
) -> tuple[list[Eigenpairs], list[list[bool]]]:
    """Return the eigenpairs, and of which batches each product was asked."""
    asked = []

    def multiply(vectors: Sequence[Tensor | None]) -> list[Tensor | None]:
        asked.append([v is not None for v in vectors])
        return [None if v is None else (m @ v[:, :, None])[:, :, 0] for m, v in zip(batches, vectors, strict=True)]

    starts = starts or [torch.randn(m.shape[:2], dtype=m.dtype) for m in batches]
    return smallest_eigenpairs(multiply, starts, tolerance=tolerance, **options), asked


def one(matrices: Tensor, **options) -> Eigenpairs:
    (pairs,), _ = solve(matrices, **options)
    return pairs


def is_the_smallest_eigenpair(matrices: Tensor, pairs: Eigenpairs, rtol: float) -> None:
    spectrum = torch.linalg.eigvalsh(matrices.double())
    size = spectrum.abs().amax(1).clamp(min=1e-300)
    assert ((pairs.values.double() - spectrum[:, 0]).abs() / size).max() <= rtol
    torch.testing.assert_close(pairs.vectors.norm(dim=1), torch.ones_like(pairs.values), rtol=1e-5, atol=0)
    residual = (matrices @ pairs.vectors[:, :, None])[:, :, 0] - pairs.values[:, None] * pairs.vectors
    assert (residual.norm(dim=1).double() / size).max() <= max(rtol, 1e-9) ** 0.5


# ---------------------------------------------------------------- any matrices


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    dimension=st.integers(1, 24),
    count=st.integers(1, 4),
    distinct=st.integers(1, 24),
    scale=st.sampled_from([1e-12, 1.0, 1e8]),
)
def test_exact_with_enough_products_however_often_eigenvalues_repeat(seed, dimension, count, distinct, scale):
    torch.manual_seed(seed)
    levels = scale * torch.randn(distinct, dtype=torch.float64).clamp(min=-2.5)
    spectra = [levels[torch.randint(distinct, (dimension,))].tolist() for _ in range(count)]
    for spectrum in spectra:
        spectrum[0] = -scale * 3
    matrices = with_spectrum(*spectra)
    is_the_smallest_eigenpair(matrices, one(matrices, products=300, tolerance=1e-9), rtol=1e-9)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), dimension=st.integers(1, 30), products=st.integers(1, 40))
def test_what_is_reported_is_true_whenever_it_stops(seed, dimension, products):
    """Quotients, residuals and lengths are those of the vectors; no quotient lies below the smallest eigenvalue."""
    torch.manual_seed(seed)
    matrices = torch.randn(3, dimension, dimension).double()
    matrices = matrices + matrices.mT
    pairs = one(matrices, products=products)
    spectrum = torch.linalg.eigvalsh(matrices)
    images = (matrices @ pairs.vectors[:, :, None])[:, :, 0]
    torch.testing.assert_close((pairs.vectors * images).sum(1), pairs.values, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pairs.vectors.norm(dim=1), torch.ones(3).double())
    assert (pairs.values >= spectrum[:, 0] - 1e-9).all()
    lengths = (images - pairs.values[:, None] * pairs.vectors).norm(dim=1)
    assert (pairs.residuals * spectrum.abs().amax(1) >= 0).all()
    assert (lengths <= (pairs.residuals + 1e-9) * spectrum.abs().amax(1)).all()
    assert pairs.products <= products


@pytest.mark.parametrize("spectrum", [[5.0] * 6, [5.0, 5.0, 7.0, 7.0, 7.0, 9.0], [0.5, 1.0, 2.0, 3.0], [2.0]])
def test_positive_spectra_too(spectrum):
    matrices = with_spectrum(spectrum)
    is_the_smallest_eigenpair(matrices, one(matrices), rtol=1e-10)


def test_one_dimension():
    pairs = one(torch.tensor([[[-3.0]], [[2.0]], [[0.0]]]).double())
    assert pairs.values.tolist() == [-3.0, 2.0, 0.0]
    assert pairs.vectors.flatten().tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("dimension", [1, 2, 7, 40])
def test_zero_matrices(dimension):
    pairs = one(torch.zeros(3, dimension, dimension).double(), tolerance=0.01)
    assert pairs.values.tolist() == [0.0] * 3
    assert torch.isfinite(pairs.vectors).all()
    assert torch.isfinite(pairs.residuals).all()


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_far_from_full_rank(rank):
    """As splitting matrices of few samples are."""
    factors = torch.randn(4, 40, rank).double()
    matrices = -factors @ factors.mT
    is_the_smallest_eigenpair(matrices, one(matrices), rtol=1e-10)


def test_a_batch_alone_gives_what_it_gives_among_others():
    """Easy and hard ones, small and large ones, of several dimensions, together."""
    batches = [
        with_spectrum([-1.0, *[0.0] * 29]),
        with_spectrum(torch.linspace(-1, 1, 20).tolist()),
        with_spectrum([0.0] * 7),
        with_spectrum((1e9 * torch.linspace(-1, 3, 30)).tolist(), (1e-9 * torch.linspace(-1, 3, 30)).tolist()),
    ]
    starts = [torch.randn(batch.shape[:2]).double() for batch in batches]
    together, _ = solve(*batches, tolerance=1e-3, starts=starts)
    for batch, start, among in zip(batches, starts, together, strict=True):
        alone = one(batch, tolerance=1e-3, starts=[start])
        torch.testing.assert_close(alone.values, among.values)
        torch.testing.assert_close(alone.vectors, among.vectors)
    for place in (0, 1, 3):
        is_the_smallest_eigenpair(batches[place], together[place], rtol=1e-4)


def test_easy_batches_leave_early():
    hard, easy = with_spectrum(torch.linspace(-1, 1, 60).tolist()), with_spectrum([-1.0, *[0.0] * 59])
    (slow, fast), asked = solve(hard, easy, tolerance=1e-3)
    assert fast.products < 6 < slow.products == len(asked)
    assert [which[1] for which in asked].count(True) == fast.products


def test_fewer_products_at_a_larger_tolerance():
    matrices = with_spectrum(*[torch.linspace(-1, 1, 100).tolist()] * 3)
    exact, pairs = one(matrices, tolerance=1e-6, products=300), one(matrices, tolerance=0.05)
    assert pairs.products < 40 < exact.products < 300
    residual = (matrices @ pairs.vectors[:, :, None])[:, :, 0] - pairs.values[:, None] * pairs.vectors
    assert residual.norm(dim=1).max() <= 0.051


@pytest.mark.parametrize("dimension", [3, 60, 300])
def test_single_precision(dimension):
    matrices = with_spectrum(*(torch.randn(dimension).tolist() for _ in range(3)), dtype=torch.float32)
    pairs = one(matrices, products=300)
    assert pairs.values.dtype == pairs.vectors.dtype == torch.float32
    is_the_smallest_eigenpair(matrices, pairs, rtol=1e-4)


def test_many_more_products_than_dimensions_do_no_harm():
    """Once a residual is nothing but rounding, the search stands still."""
    matrices = with_spectrum([-1.0, 2.0, 3.0], [0.0, 0.0, 4.0], [1.0, 1.0, 1.0], dtype=torch.float32)
    is_the_smallest_eigenpair(matrices, one(matrices, products=500), rtol=1e-6)


def test_it_leaves_the_start_vectors_and_gradients_alone():
    matrices, start = with_spectrum([-1.0, 2.0, 3.0]), torch.randn(1, 3).double().requires_grad_()
    before = start.detach().clone()
    pairs = one(matrices, starts=[start])
    assert torch.equal(start.detach(), before)
    assert not pairs.values.requires_grad
    assert not pairs.vectors.requires_grad


def test_the_sign_is_that_with_which_the_largest_entry_is_positive():
    matrices, start = with_spectrum(*[torch.linspace(-1, 1, 9).tolist()] * 5), torch.randn(5, 9).double()
    pairs, opposite = (one(matrices, tolerance=1e-9, starts=[sign * start]) for sign in (1, -1))
    assert (pairs.vectors.gather(1, pairs.vectors.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(pairs.vectors, opposite.vectors)


def test_matrices_that_do_not_matter_let_the_others_end():
    """Those wanted are as good as ever; the others are bounded from above."""
    generator = torch.Generator().manual_seed(3)
    small = torch.randn(64, 40, 40, generator=generator, dtype=torch.float64)
    small = 0.2 * (small + small.mT)
    large = with_spectrum(*[[-30.0, *torch.linspace(-3, 3, 39).tolist()]] * 8)
    starts = [torch.randn(m.shape[:2], generator=generator, dtype=torch.float64) for m in (small, large)]
    (_, all_large), asked_all = solve(small, large, tolerance=1e-9, products=200, starts=starts)
    (some_small, some_large), asked = solve(small, large, tolerance=1e-9, products=200, starts=starts, wanted=8)
    torch.testing.assert_close(some_large.values, torch.full((8,), -30.0).double(), rtol=1e-9, atol=0)
    torch.testing.assert_close(some_large.vectors, all_large.vectors)
    assert (some_small.values >= torch.linalg.eigvalsh(small)[:, 0] - 1e-9).all()
    assert len(asked) < len(asked_all) / 2
    assert some_small.products < some_large.products


# ---------------------------------------------------------------- splitting matrices


@pytest.mark.parametrize("name", ["perceptron", "residual block that goes down", "one layer of a gate", "recurrent"])
@pytest.mark.parametrize("largest", [False, True])
def test_fast_agrees_with_exact(name, largest):
    network = NETWORKS[name]
    model = settle(network.build())
    found = matrices_of(model, data_for(model, network.shape, count=20))
    fast = fast_eigenpairs(found, torch.Generator().manual_seed(0), tolerance=1e-5, products=500, largest=largest)
    exact = exact_eigenpairs(found)[largest]
    for ours, theirs, neurons in zip(fast, exact, found.neurons, strict=True):
        spectrum = torch.linalg.eigvalsh(dense(found, neurons.width))
        size = spectrum.abs().amax(1)
        assert ((ours.values - theirs.values).abs() <= 1e-5 * size).all()
        assert (ours.residuals <= 1e-5).all()
        gap = (spectrum[:, -1] - spectrum[:, -2]) if largest else (spectrum[:, 1] - spectrum[:, 0])
        alone = gap > 1e-2 * size
        assert ((ours.vectors * theirs.vectors).sum(1).abs()[alone] > 0.999).all()


@pytest.mark.parametrize("count", [3, 5, 40])
def test_indices_are_the_smallest_eigenvalues_of_the_matrices(count):
    """Also where there are fewer samples than dimensions."""
    model = settle(mlp(6, 5, 2, activation=nn.SiLU))
    found = matrices_of(model, data((6,), (2,), count=count))
    exact = dense(found, "0")
    spectrum = torch.linalg.eigvalsh(exact)
    (smallest,), (largest,) = exact_eigenpairs(found)
    torch.testing.assert_close(smallest.values, spectrum[:, 0], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(largest.values, spectrum[:, -1], rtol=1e-8, atol=1e-12)
    (fast,) = fast_eigenpairs(found, torch.Generator().manual_seed(0), tolerance=1e-9, products=300)
    assert (spectrum[:, 0] < -1e-9).any()
    torch.testing.assert_close(fast.values, spectrum[:, 0], rtol=1e-8, atol=1e-12)
    quotients = torch.einsum("oi,oij,oj->o", fast.vectors, exact, fast.vectors)
    torch.testing.assert_close(quotients, fast.values, rtol=1e-8, atol=1e-12)


INPUTS = {
    "few": torch.eye(5, 30),
    "zeros": torch.zeros(5, 30),
    "all the same": torch.ones(5, 30),
    "twice and zeros": torch.cat([torch.eye(2, 30), torch.eye(2, 30), torch.zeros(1, 30)]),
}
WIDE = {
    "with a bias": lambda: nn.Sequential(nn.Linear(30, 4), nn.Softplus(), nn.Linear(4, 2)),
    "without a bias": lambda: nn.Sequential(nn.Linear(30, 4, bias=False), nn.Softplus(), nn.Linear(4, 2)),
    "a gate": lambda: nn.Sequential(nn.Linear(30, 8), nn.GLU(), nn.Linear(4, 2)),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", WIDE)
def test_inputs_of_fewer_dimensions_than_weights(name, kind):
    """The search takes place in their span; where they are all zeros there is none."""
    model = WIDE[name]().double()
    found = matrices_of(model, [(INPUTS[kind].double(), torch.randn(5, 2).double())])
    (fast,) = fast_eigenpairs(found, torch.Generator().manual_seed(0), tolerance=1e-8, products=200)
    (exact,), _ = exact_eigenpairs(found)
    split = exact.values < -1e-9
    torch.testing.assert_close(fast.values[split], exact.values[split], rtol=1e-6, atol=1e-12)
    assert (fast.values[~split] >= -1e-9).all()
    assert fast.vectors.shape == exact.vectors.shape
    quotients = torch.einsum("oi,oij,oj->o", fast.vectors, dense(found, "0"), fast.vectors)
    torch.testing.assert_close(quotients, fast.values, rtol=1e-8, atol=1e-12)


def test_the_same_seed_gives_the_same_pairs():
    model = settle(mlp(3, 6, 4, 2))
    found = matrices_of(model, data((3,), (2,)))

    def pairs(seed: int) -> list[Tensor]:
        return [each.vectors for each in fast_eigenpairs(found, torch.Generator().manual_seed(seed), products=3)]

    assert all(map(torch.equal, pairs(1), pairs(1)))
    assert not any(map(torch.equal, pairs(1), pairs(2)))


def test_streamed_batches_give_the_same_pairs(monkeypatch):
    model = settle(mlp(3, 6, 4, 2))
    batches = data((3,), (2,), batches=3)
    kept = fast_eigenpairs(matrices_of(model, batches), torch.Generator().manual_seed(1))
    monkeypatch.setattr(matrices, "_KEPT", 1)
    streamed = fast_eigenpairs(matrices_of(model, batches), torch.Generator().manual_seed(1))
    for ours, theirs in zip(kept, streamed, strict=True):
        torch.testing.assert_close(ours.values, theirs.values, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ours.vectors, theirs.vectors, rtol=1e-7, atol=1e-9)
