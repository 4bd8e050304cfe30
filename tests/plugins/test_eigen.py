"""The smallest eigenpairs of many symmetric matrices, from products alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from growkit_plugins.splitting import smallest_eigenpairs


def with_spectrum(*spectra: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    """One symmetric matrix a spectrum, with random eigenvectors."""
    matrices = []
    for spectrum in spectra:
        basis, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), dtype=torch.float64))
        matrices.append(basis @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ basis.T)
    return torch.stack(matrices).to(dtype)


def solve(matrices: Tensor, tolerance: float = 0.0, start: Tensor | None = None) -> tuple[Tensor, Tensor, list[int]]:
    """Return eigenvalues, eigenvectors and how many matrices each product was asked of."""
    asked = []

    def multiply(vectors: Tensor, which: Tensor) -> Tensor:
        assert vectors.shape == (len(which), matrices.shape[1])
        asked.append(len(which))
        return (matrices[which] @ vectors[:, :, None])[:, :, 0]

    start = torch.randn(matrices.shape[:2], dtype=matrices.dtype) if start is None else start
    return *smallest_eigenpairs(multiply, start, tolerance=tolerance), asked


def is_the_smallest_eigenpair(matrices: Tensor, values: Tensor, vectors: Tensor, rtol: float) -> None:
    spectrum = torch.linalg.eigvalsh(matrices.double())
    size = spectrum.abs().amax(1).clamp(min=1e-300)
    error = (values.double() - spectrum[:, 0]).abs() / size
    assert error.max() <= rtol
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones_like(values), rtol=1e-5, atol=0)
    residual = (matrices @ vectors[:, :, None])[:, :, 0] - values[:, None] * vectors
    assert (residual.norm(dim=1).double() / size).max() <= max(rtol, 1e-9) ** 0.5


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    dimension=st.integers(1, 24),
    count=st.integers(1, 4),
    distinct=st.integers(1, 24),
    scale=st.sampled_from([1e-12, 1.0, 1e8]),
)
def test_exact_when_the_space_is_exhausted_however_often_eigenvalues_repeat(seed, dimension, count, distinct, scale):
    torch.manual_seed(seed)
    levels = scale * torch.randn(distinct, dtype=torch.float64)
    levels[0] = -scale * 3  # whatever else there is, something lies below 0
    spectra = [levels[torch.randint(distinct, (dimension,))].tolist() for _ in range(count)]
    for spectrum in spectra:
        spectrum[0] = -scale * 3
    matrices = with_spectrum(*spectra)
    values, vectors, _ = solve(matrices)
    is_the_smallest_eigenpair(matrices, values, vectors, rtol=1e-10)


@pytest.mark.parametrize("spectrum", [[5.0] * 6, [5.0, 5.0, 7.0, 7.0, 7.0, 9.0], [0.5, 1.0, 2.0, 3.0], [2.0]])
def test_positive_spectra_too(spectrum):
    matrices = with_spectrum(spectrum)
    values, vectors, _ = solve(matrices)
    is_the_smallest_eigenpair(matrices, values, vectors, rtol=1e-10)


def test_one_dimension_takes_one_product():
    values, vectors, asked = solve(torch.tensor([[[-3.0]], [[2.0]], [[0.0]]]).double())
    assert values.tolist() == [-3.0, 2.0, 0.0]
    assert vectors.abs().flatten().tolist() == [1.0, 1.0, 1.0]
    assert asked == [3]


@pytest.mark.parametrize("dimension", [1, 2, 7, 40])
def test_zero_matrices(dimension):
    values, vectors, _ = solve(torch.zeros(3, dimension, dimension).double(), tolerance=0.01)
    assert values.tolist() == [0.0] * 3
    assert torch.isfinite(vectors).all()


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_far_from_full_rank(rank):
    """As splitting matrices of few samples are."""
    factors = torch.randn(4, 40, rank).double()
    matrices = -factors @ factors.mT
    values, vectors, _ = solve(matrices)
    is_the_smallest_eigenpair(matrices, values, vectors, rtol=1e-10)


def test_a_matrix_alone_gives_what_it_gives_among_others():
    """Easy and hard ones, small and large ones, together."""
    matrices = with_spectrum(
        *(
            [-1.0, *[0.0] * 29],
            torch.linspace(-1, 1, 30).tolist(),
            [0.0] * 30,
            (1e9 * torch.linspace(-1, 3, 30)).tolist(),
        )
    )
    start = torch.randn(4, 30).double()
    values, vectors, _ = solve(matrices, 1e-3, start)
    for index in range(4):
        value, vector, _ = solve(matrices[index : index + 1], 1e-3, start[index : index + 1])
        torch.testing.assert_close(value[0], values[index])
        torch.testing.assert_close(vector[0], vectors[index])
    is_the_smallest_eigenpair(matrices[[0, 1, 3]], values[[0, 1, 3]], vectors[[0, 1, 3]], rtol=1e-4)


def test_fewer_products_than_dimensions_at_a_tolerance_and_fewer_for_easy_matrices():
    matrices = with_spectrum(*[torch.linspace(-1, 1, 100).tolist()] * 3)
    _, _, exact = solve(matrices)
    values, vectors, asked = solve(matrices, 0.05)
    assert len(exact) == 100
    assert len(asked) < 60
    residual = (matrices @ vectors[:, :, None])[:, :, 0] - values[:, None] * vectors
    assert residual.norm(dim=1).max() <= 0.051


@pytest.mark.parametrize("dimension", [3, 60, 300])
def test_single_precision(dimension):
    matrices = with_spectrum(*(torch.randn(dimension).tolist() for _ in range(3)), dtype=torch.float32)
    values, vectors, _ = solve(matrices)
    assert values.dtype == vectors.dtype == torch.float32
    is_the_smallest_eigenpair(matrices, values, vectors, rtol=1e-4)


def test_it_leaves_the_start_vectors_and_gradients_alone():
    matrices, start = with_spectrum([-1.0, 2.0, 3.0]), torch.randn(1, 3).double().requires_grad_()
    before = start.detach().clone()
    values, vectors, _ = solve(matrices, start=start)
    assert torch.equal(start.detach(), before)
    assert not values.requires_grad
    assert not vectors.requires_grad


def test_matrices_that_do_not_matter_leave_early():
    generator = torch.Generator().manual_seed(3)
    matrices = torch.randn(64, 40, 40, generator=generator, dtype=torch.float64)
    matrices = (matrices + matrices.mT) * torch.linspace(0.2, 3.0, 64, dtype=torch.float64)[:, None, None]
    exact = torch.linalg.eigvalsh(matrices)[:, 0]
    asked = []

    def multiply(vectors: Tensor, which: Tensor) -> Tensor:
        asked.append(len(which))
        return (matrices[which] @ vectors[:, :, None])[:, :, 0]

    start = torch.randn(64, 40, generator=generator, dtype=torch.float64)
    values, vectors = smallest_eigenpairs(multiply, start, tolerance=1e-9, wanted=8)
    best = values.argsort()[:8]
    assert set(best.tolist()) == set(exact.argsort()[:8].tolist())
    torch.testing.assert_close(values[best], exact[best], rtol=1e-9, atol=0)
    quotients = (vectors[best, None] @ matrices[best] @ vectors[best, :, None])[:, 0, 0]
    torch.testing.assert_close(quotients, exact[best], rtol=1e-9, atol=0)
    assert (values >= exact - 1e-9).all(), "what left early is bounded from above"
    assert asked[0] == 64
    assert asked[8] < 32
