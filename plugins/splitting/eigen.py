"""The smallest eigenpair of many symmetric matrices at once, from products alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["smallest_eigenpairs"]


@torch.no_grad()
def smallest_eigenpairs(
    multiply: Callable[[Tensor], Tensor], start: Tensor, *, tolerance: float = 1e-2, check_every: int = 4
) -> tuple[Tensor, Tensor]:
    """Find the smallest eigenvalue and its unit eigenvector of each of a batch of symmetric matrices.

    Lanczos iteration with full reorthogonalisation, run until every residual `|S v - lambda v|` is at most
    `tolerance` times the largest eigenvalue in magnitude of its matrix, or until the Krylov spaces are exhausted,
    where the result is exact.

    Args:
        multiply: maps one vector a matrix, shape (matrices, dimension), to the products, same shape.
        start: start vectors, shape (matrices, dimension); random ones have a part along every eigenvector.
        tolerance: relative residual, at least 0.
        check_every: iterations between two looks at the residuals.

    Returns:
        Eigenvalues, shape (matrices,), and eigenvectors, shape (matrices, dimension).

    Cost: one call of `multiply` an iteration, and memory for `iterations` vectors a matrix.

    Source: Lanczos (1950); Golub and Van Loan, Matrix Computations, section 10.1.
    """
    dimension = start.shape[1]
    tiny = torch.finfo(start.dtype).tiny
    vector = start / start.norm(dim=1, keepdim=True)
    basis, diagonal, beside = [vector], [], []
    for iteration in range(1, dimension + 1):
        product = multiply(basis[-1])
        diagonal.append((product * basis[-1]).sum(1))
        stacked = torch.stack(basis, dim=1)
        for _ in range(2):  # twice is enough (Kahan and Parlett)
            product = product - (stacked.transpose(1, 2) @ (stacked @ product[:, :, None]))[:, :, 0]
        length = product.norm(dim=1)
        beside.append(length)
        if iteration == dimension or iteration % check_every == 0:
            values, vectors = _ritz(diagonal, beside)
            residual = (length * vectors[:, -1, 0]).abs()
            scale = values.abs().amax(1)
            if iteration == dimension or bool((residual <= tolerance * scale + tiny).all()):
                break
        # A Krylov space that is exhausted goes on as zero vectors, which add zeros to its spectrum only.
        basis.append(torch.where(length > 1e3 * tiny, 1.0, 0.0)[:, None] * product / length.clamp(min=tiny)[:, None])
    eigenvector = (vectors[:, None, :, 0] @ torch.stack(basis, dim=1))[:, 0]
    return values[:, 0], eigenvector / eigenvector.norm(dim=1, keepdim=True).clamp(min=tiny)


def _ritz(diagonal: list[Tensor], beside: list[Tensor]) -> tuple[Tensor, Tensor]:
    tridiagonal = torch.diag_embed(torch.stack(diagonal, dim=1))
    if len(beside) > 1:
        off = torch.stack(beside[:-1], dim=1)
        tridiagonal = tridiagonal + torch.diag_embed(off, offset=1) + torch.diag_embed(off, offset=-1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    return values, vectors
