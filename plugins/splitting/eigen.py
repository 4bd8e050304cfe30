"""The smallest eigenpair of many symmetric matrices at once, from products alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["smallest_eigenpairs"]

# A residual bounds the distance to some eigenvalue, not to the smallest. With this margin 0.2 % of the wanted ones were
# missed on random matrices, with 1 it was 1 %, without leaving early 0.03 %.
_MARGIN = 3
_CHECK_EVERY = 8  # a look at the residuals costs more than a product


@torch.no_grad()
def smallest_eigenpairs(
    multiply: Callable[[Tensor, Tensor], Tensor], start: Tensor, *, tolerance: float, wanted: int | None = None
) -> tuple[Tensor, Tensor]:
    """Find the smallest eigenvalue and its unit eigenvector of each of a batch of symmetric matrices.

    Lanczos iteration with full reorthogonalisation. A matrix leaves the iteration when its residual
    `|S v - lambda v|` is at most `tolerance` times the largest magnitude of its Ritz values, or when its Krylov space
    is exhausted, where the result is exact. The error of the eigenvalue is of second order in the residual. As with
    every Krylov method, a start vector with hardly any part along the smallest eigenvector may lead to the second
    smallest; the smaller the tolerance, the less likely.

    Args:
        multiply: maps vectors, shape (m, dimension), and the numbers of m matrices, shape (m,), int64, to the
            products, shape (m, dimension).
        start: start vectors, shape (matrices, dimension); random ones have a part along every eigenvector.
        tolerance: relative residual, at least 0.
        wanted: how many of the smallest eigenvalues matter; all if None. A matrix whose eigenvalue, even less thrice
            its residual, lies above so many others leaves the iteration, too; what is returned of it is an upper bound.

    Returns:
        Eigenvalues, shape (matrices,), and eigenvectors, shape (matrices, dimension). Of the two signs of an
        eigenvector, it is the one with which its largest entry is positive.

    Cost: an iteration takes one call of `multiply` and memory for one more vector a matrix.

    Source: Lanczos (1950); Golub and Van Loan, Matrix Computations, section 10.1.
    """
    count, dimension = start.shape
    values, vectors = start.new_zeros(count), torch.zeros_like(start)
    active = torch.arange(count, device=start.device)
    tiny = torch.finfo(start.dtype).tiny
    basis = (start / start.norm(dim=1, keepdim=True).clamp(min=tiny))[:, None]
    diagonal, beside = start.new_zeros(count, 0), start.new_zeros(count, 0)
    for iteration in range(1, dimension + 1):
        product = multiply(basis[:, -1], active)
        quotient = (product * basis[:, -1]).sum(1, keepdim=True)
        if iteration > 1:
            # Behind an exhausted space stand zero vectors; an entry above all others keeps them out of the minimum.
            above = diagonal.abs().amax(1, keepdim=True) + 2 * beside.abs().amax(1, keepdim=True)
            quotient = torch.where(beside[:, -1:] > 0, quotient, above)
        diagonal = torch.cat([diagonal, quotient], dim=1)
        scale = product.norm(dim=1)
        product = _orthogonalise(_orthogonalise(product, basis), basis)  # twice is enough (Kahan and Parlett)
        length = product.norm(dim=1)
        # Nothing but rounding is left of a product inside an exhausted space; it goes on as zeros.
        length = torch.where(length > 10 * torch.finfo(start.dtype).eps * scale, length, 0.0)
        if iteration % _CHECK_EVERY == 0 or iteration == dimension:
            ritz, weights = _ritz(diagonal, beside)
            residual = (length * weights[:, -1]).abs()
            values[active] = ritz[:, 0]
            done = residual <= tolerance * ritz.abs().amax(1)
            if wanted is not None and wanted < count:
                done |= ritz[:, 0] - _MARGIN * residual > values.kthvalue(wanted).values
            if iteration == dimension:
                done = torch.ones_like(done)
            finished = active[done]
            found = (weights[done, None] @ basis[done])[:, 0]
            vectors[finished] = found / found.norm(dim=1, keepdim=True).clamp(min=tiny)
            going = ~done
            if not bool(going.any()):
                break
            active, basis, product, length = active[going], basis[going], product[going], length[going]
            diagonal, beside = diagonal[going], beside[going]
        basis = torch.cat([basis, (product / length.clamp(min=tiny)[:, None] * (length > 0)[:, None])[:, None]], dim=1)
        beside = torch.cat([beside, length[:, None]], dim=1)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return values, torch.where(largest < 0, -vectors, vectors)


def _ritz(diagonal: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of tridiagonal matrices, and the eigenvector of the smallest."""
    values, vectors = torch.linalg.eigh(
        torch.diag_embed(diagonal) + torch.diag_embed(beside, offset=1) + torch.diag_embed(beside, offset=-1)
    )
    return values, vectors[:, :, 0]


def _orthogonalise(vectors: Tensor, basis: Tensor) -> Tensor:
    return vectors - (basis.mT @ (basis @ vectors[:, :, None]))[:, :, 0]
