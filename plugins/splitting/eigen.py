"""The smallest eigenpairs of very many symmetric matrices at once, from products alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Eigenpairs", "canonical", "extreme", "in_range", "smallest_eigenpairs"]

# A residual bounds the distance to some eigenvalue, not to the smallest.
_MARGIN = 3

Multiply = Callable[[Sequence[Tensor | None]], Sequence[Tensor | None]]


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """One eigenpair of each of a batch of matrices.

    Attributes:
        values: shape (matrices,); 0 where rounding leaves nothing else to say.
        vectors: shape (matrices, dimension), of length 1. Of the two signs it is the one with which the largest entry
            is positive.
        residuals: `|S v - value v|` over the largest magnitude of any Rayleigh quotient seen, shape (matrices,).
        products: how many were taken.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int


@torch.no_grad()
def smallest_eigenpairs(
    multiply: Multiply,
    starts: Sequence[Tensor],
    *,
    tolerance: float = 0.02,
    products: int = 64,
    wanted: int | None = None,
) -> list[Eigenpairs]:
    """Descend the Rayleigh quotient of every matrix of several batches, all at the same time.

    Each step minimises `v^T S v / v^T v` exactly over the plane of `v`, its gradient and the last direction, so there
    is no step size. A matrix has converged when its residual is at most `tolerance`; the error of the eigenvalue is of
    second order in it. As with every iteration of this kind, a start with hardly any part along the smallest
    eigenvector may lead to the second smallest; the smaller the tolerance, the less likely.

    Args:
        multiply: maps one vector a matrix, shape (matrices, dimension) for each batch, to the products; batches that
            are None are left out and come back as None.
        starts: start vectors, shape (matrices, dimension) for each batch; random ones have a part along every
            eigenvector.
        tolerance: relative residual, at least 0.
        products: take at most so many, at least 1; one beyond the range of numbers counts as zero.
        wanted: how many of the smallest eigenvalues of all batches together matter; all if None. The iteration also
            ends when every other eigenvalue, even less thrice its residual, lies above so many.

    Returns:
        For each batch.

    Cost: a product a step, and memory for six vectors a matrix.

    Source: the descent is that of Wang et al. (2019), arXiv:1910.03103, section 3, which takes RMSprop steps on
    stochastic products. The exact step over three vectors is the locally optimal conjugate gradient method: Knyazev
    (2001), SIAM J. Sci. Comput. 23, algorithm 4.1, without preconditioner.
    """
    searches = [_Search(start) for start in starts]
    going = searches
    for taken in range(1, products + 1):
        answers = multiply([search.direction if search in going else None for search in searches])
        for search, answer in zip(searches, answers, strict=True):
            if answer is not None:
                search.step(answer)
        if taken == 1:
            continue  # the start itself says nothing of convergence
        going = _unfinished(searches, tolerance, wanted)
        if not going:
            break
    return [search.eigenpairs() for search in searches]


def _unfinished(searches: Sequence[_Search], tolerance: float, wanted: int | None) -> list[_Search]:
    """Return the batches that hold a matrix that matters and has not converged."""
    values = torch.cat([search.values for search in searches])
    bound = values.new_tensor(torch.inf)
    if wanted is not None and wanted < len(values):
        bound = values.kthvalue(wanted).values
    return [
        search
        for search in searches
        if bool(((search.residuals > tolerance) & (search.values - _MARGIN * search.length <= bound)).any())
    ]


class _Search:
    """Where the descent of one batch of matrices is.

    Attributes:
        direction: the vectors whose products are to come.
        values: Rayleigh quotients so far.
        length: of their residuals.
        scale: largest magnitude of any quotient seen.
    """

    def __init__(self, start: Tensor) -> None:
        self.direction = start / start.norm(dim=1, keepdim=True).clamp(min=torch.finfo(start.dtype).tiny)
        self.values = self.length = start.new_zeros(len(start))
        self.scale = start.new_full((len(start),), torch.finfo(start.dtype).tiny)
        self._products = 0
        # The vectors and the last direction, orthonormal or zero, shape (matrices, 2, dimension); their products.
        self._basis = self._images = start.new_zeros(len(start), 2, start.shape[1])
        self._lengths = start.new_zeros(len(start), 3)  # of these two and the direction: 0 or 1
        self._lengths[:, 2] = 1

    @property
    def residuals(self) -> Tensor:
        """Relative residuals."""
        return self.length / self.scale

    def step(self, product: Tensor) -> None:
        """Take the products of `direction`, and find the best vectors in reach."""
        self._products += 1
        basis = torch.cat([self._basis, self.direction[:, None]], dim=1)
        images = torch.cat([self._images, in_range(product)[:, None]], dim=1)
        ritz, coordinates = _best(basis @ images.mT, self._lengths == 0)
        self.scale = torch.maximum(self.scale, ritz)
        self._basis, self._images = coordinates @ basis, coordinates @ images
        lengths = self._basis.norm(dim=2, keepdim=True)
        self._lengths[:, :2] = (lengths[:, :, 0] > 0.5).to(lengths.dtype)
        # Rounding would add up from step to step.
        lengths = torch.where(lengths > 0.5, lengths, 1)
        self._basis, self._images = self._basis / lengths, self._images / lengths
        v, image = self._basis[:, 0], self._images[:, 0]
        self.values = (v * image).sum(1)
        residual = (image - self.values[:, None] * v)[:, :, None]
        residual = (residual - self._basis.mT @ (self._basis @ residual))[:, :, 0]
        self.length = residual.norm(dim=1)
        # A residual that is nothing but rounding leads nowhere.
        going = self.length > 100 * torch.finfo(v.dtype).eps * self.scale
        self._lengths[:, 2] = going.to(v.dtype)
        self.direction = residual * (going / self.length.clamp(min=torch.finfo(v.dtype).tiny))[:, None]

    def eigenpairs(self) -> Eigenpairs:
        """Return what was found."""
        return extreme(self.values, self._basis[:, 0], self.residuals, self.scale, self._products)


def extreme(values: Tensor, vectors: Tensor, residuals: Tensor, scale: Tensor, products: int) -> Eigenpairs:
    """Return eigenpairs in their canonical form.

    Args:
        values: shape (matrices,).
        vectors: unit vectors, shape (matrices, dimension).
        residuals: relative ones, shape (matrices,).
        scale: magnitude of the largest eigenvalue that is known, shape (matrices,).
        products: how many were taken.
    """
    rounding = values.abs() <= 100 * torch.finfo(values.dtype).eps * scale
    return Eigenpairs(torch.where(rounding, 0, values), canonical(vectors), residuals, products)


def in_range(vectors: Tensor) -> Tensor:
    """Return vectors, shape (vectors, dimension), with zeros in place of those whose length is not finite."""
    return torch.where(vectors.norm(dim=1, keepdim=True).isfinite(), vectors, 0)


def canonical(vectors: Tensor) -> Tensor:
    """Return each of some vectors, shape (vectors, dimension), with the sign that makes its largest entry positive."""
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


def _best(small: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
    """Find the smallest Rayleigh quotient in the span of (v, p, w).

    Args:
        small: `S` in this basis, shape (matrices, 3, 3).
        empty: which of the three are no vectors but zero, shape (matrices, 3).

    Returns:
        The largest magnitude of a quotient in the span, shape (matrices,), and the coordinates of two orthonormal
        vectors, shape (matrices, 2, 3): the best one, and what is at right angles to it in the plane of both it and
        the step that led to it from v.
    """
    small = (small + small.mT) / 2
    size = small.abs().sum((1, 2)).clamp(min=torch.finfo(small.dtype).tiny)[:, None]
    # An entry above all others keeps what is no vector out of the minimum.
    values, vectors = torch.linalg.eigh(small + torch.diag_embed(2 * size * empty))
    inside = torch.where(values > 1.5 * size, 0, values)
    best = vectors[:, :, 0]
    step = best * best.new_tensor([0.0, 1.0, 1.0])
    last = step - (step * best).sum(1, keepdim=True) * best
    length = last.norm(dim=1, keepdim=True)
    last = torch.where(length > torch.finfo(best.dtype).eps ** 0.75, last / length, 0)
    return inside.abs().amax(1), torch.stack([best, last], dim=1)
