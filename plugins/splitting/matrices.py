"""Splitting matrices, as what they do to vectors.

With `sigma(theta)` the value of a unit where it goes into the sum over units, its splitting matrix is

    S = E[ dL/dsigma . d^2 sigma / dtheta^2 ]

over samples and positions. Splitting the unit into `theta +- eps v` with halved outgoing weights changes the loss by
`eps^2 / 2 * v^T S v + O(eps^4)` at fixed other units. `S v` takes no more than a forward and a backward pass through
the layer that makes the unit, for all units of the layer at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

import growkit
from growkit_plugins.splitting.neurons import Neurons, Rows
from growkit_plugins.splitting.replay import Curvature, curvatures_of
from growkit_plugins.splitting.tape import Tape

__all__ = ["SplittingMatrices"]

_KEPT = 2**30  # bytes of what batches leave behind; those beyond are run anew for every product

Loss = Callable[[Any], Tensor]


class SplittingMatrices:
    """The splitting matrices of all neurons of some widths, on some batches.

    Curvature is that of gradients: what a model detaches counts as given.

    Args:
        model: in evaluation mode; its gradients are used up.
        structure: of a model with the same names.
        loss: the mean loss of `model` on a batch.
        batches: as many as the expectation shall run over, at least one.
        widths: name patterns; all widths if empty.
        beta: sharpness of the surrogate for activations with a kink, see `bent`.
        mean: averages a tensor over the processes of a data-parallel run, each of which has batches of its own.

    Raises:
        StructureError: a pattern matches no width.

    Attributes:
        neurons: of every width that can be split, in forward order.
        refused: the reason why the others cannot, by width.

    Cost: a forward and a backward pass a batch, and as much memory as these keep for the layers that make units, up to
    1 GiB; batches beyond that are run anew for every product.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: growkit.Structure,
        loss: Loss,
        batches: Iterable[Any],
        *,
        widths: Iterable[str] = (),
        beta: float = 3.0,
        mean: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._model, self._loss, self._beta, self._mean = model, loss, beta, mean or _alone
        self._batches = list(batches)
        self.refused: dict[str, str] = {}
        self._widths = []
        for width in _matching(structure, tuple(widths)):
            if reason := _obstacle(structure, width):
                self.refused[width.name] = reason
            else:
                self._widths.append(width)
        self._kept: dict[int, dict[str, Curvature]] = {}
        found = self._look()
        self.neurons = [
            self._neurons(structure, width, found[width.name]) for width in self._widths if width.name in found
        ]

    def multiply(self, vectors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the products of splitting matrices with a vector each.

        Args:
            vectors: for each of `neurons` shape (units, dimension), or None to leave these out.

        Returns:
            The same shapes; None for those left out.

        Cost: for each batch, two thirds of a training step of the layers that make the units.
        """
        asked = {
            neurons.width: (neurons, neurons.unpack(each))
            for neurons, each in zip(self.neurons, vectors, strict=True)
            if each is not None
        }
        totals: dict[str, Tensor] = {}
        for number in range(len(self._batches)):
            curvatures = self._curvatures(number)
            for name, (neurons, moved) in asked.items():
                product = neurons.pack(curvatures[name].multiply(moved)) / len(self._batches)
                totals[name] = totals[name] + product if name in totals else product
        return [
            self._mean(totals[neurons.width]) if each is not None else None
            for neurons, each in zip(self.neurons, vectors, strict=True)
        ]

    def dense(self, number: int) -> Tensor:
        """Form the matrices of the neurons at one place of `neurons`: shape (units, dimension, dimension).

        Cost: a product for each entry of theta, and units x dimension^2 numbers.
        """
        neurons = self.neurons[number]
        columns = []
        for entry in torch.eye(neurons.dimension, **self.like):
            vectors: list[Tensor | None] = [None] * len(self.neurons)
            vectors[number] = entry.expand(neurons.units, -1)
            columns.append(self.multiply(vectors)[number])
        matrices = torch.stack([column for column in columns if column is not None], dim=2)
        return (matrices + matrices.mT) / 2

    @torch.no_grad()
    def statistics(self, number: int, offsets: Tensor) -> dict[str, Tensor]:
        """Return by how much running statistics of batch norms right behind the layers change as neurons move.

        Args:
            number: place of the neurons in `neurons`.
            offsets: how far each of them moves, shape (units, dimension).

        Returns:
            The changes of each neuron's entries, shape (units, multiplicity), by the name of the buffer.
        """
        neurons = self.neurons[number]
        weights = neurons.unpack(offsets)
        totals: dict[str, Tensor] = {}
        for batch in range(len(self._batches)):
            for name, change in self._curvatures(batch)[neurons.width].moments(weights).items():
                totals[name] = totals.get(name, torch.zeros_like(change)) + change / len(self._batches)
        pieces = {piece.parameter: piece for width in self._widths for piece in width.incoming}
        return {name: self._mean(total)[pieces[name].index.to(total.device)] for name, total in totals.items()}

    def kept(self, width: str) -> list[Curvature] | None:
        """Return the curvature of a width on all batches; None if they are run anew, or belong to several processes."""
        if self._mean is not _alone or len(self._kept) < len(self._batches):
            return None
        return [self._kept[number][width] for number in range(len(self._batches))]

    @property
    def like(self) -> dict[str, Any]:
        """The type and the device of the vectors."""
        parameter = next(self._model.parameters())
        return {"dtype": torch.promote_types(parameter.dtype, torch.float32), "device": parameter.device}

    def _look(self) -> dict[str, Curvature]:
        """Run every batch once; sort out what cannot be split, and keep what the memory allows."""
        found: dict[str, Curvature] = {}
        trouble: dict[str, str] = {}
        room = _KEPT
        for number, batch in enumerate(self._batches):
            seen = self._run(batch)
            trouble |= {width: answer for width, answer in seen.items() if isinstance(answer, str)}
            curvatures = {width: answer for width, answer in seen.items() if not isinstance(answer, str)}
            room -= sum(curvature.nbytes for curvature in curvatures.values())
            if room > 0:
                self._kept[number] = curvatures
            found |= curvatures
        self._widths = self._agreed(trouble)
        return {width.name: found[width.name] for width in self._widths if width.name in found}

    def _agreed(self, trouble: dict[str, str]) -> list[growkit.Width]:
        """Return the widths that can be split in every process."""
        if not self._widths:
            return []
        flags = torch.tensor([float(width.name in trouble) for width in self._widths], **self.like)
        agreed = []
        for width, flag in zip(self._widths, self._mean(flags).tolist(), strict=True):
            if flag:
                self.refused[width.name] = trouble.get(width.name, "another process cannot split it")
            else:
                agreed.append(width)
        return agreed

    def _curvatures(self, number: int) -> dict[str, Curvature]:
        if number in self._kept:
            return self._kept[number]
        seen = self._run(self._batches[number])
        return {width: answer for width, answer in seen.items() if not isinstance(answer, str)}

    def _run(self, batch: Any) -> dict[str, Curvature | str]:
        with torch.enable_grad(), Tape(self._model, self._widths) as tape:
            value = self._loss(batch)
        return curvatures_of(tape.routes, value, beta=self._beta)

    def _neurons(self, structure: growkit.Structure, width: growkit.Width, curvature: Curvature) -> Neurons:
        parameters = dict(self._model.named_parameters())
        pieces = {piece.parameter: piece for piece in width.incoming}
        rows = {
            name: Rows(pieces[name].axis, pieces[name].index.to(parameters[name].device))
            for name in curvature.parameters
        }
        return Neurons(width.name, width.size, rows, {name: parameters[name].shape for name in rows})


def _alone(tensor: Tensor) -> Tensor:
    return tensor


def _matching(structure: growkit.Structure, patterns: tuple[str, ...]) -> list[growkit.Width]:
    """Return the widths that are not frozen and match a pattern; all of them without one."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in structure.widths):
            raise growkit.StructureError(
                f"no width matches {pattern!r}",
                seen=f"widths {', '.join(map(repr, structure.widths)) or 'none'}",
                expected='patterns of their names, such as "blocks.*"',
                advice="`growkit inspect` lists the widths of a model",
            )
    return structure.matching(*patterns)


def _obstacle(structure: growkit.Structure, width: growkit.Width) -> str:
    """Return why no units of a width can be split one by one, or ""."""
    if width.uniform:
        return f"its units cannot be split one by one: {width.uniform}"
    places = [(piece.parameter, piece.axis) for piece in width.incoming]
    for other in structure.widths.values():
        for piece in (*other.incoming, *other.outgoing):
            if (piece.parameter, piece.axis) in places and (other.name != width.name or piece in width.outgoing):
                return f"axis {piece.axis} of {piece.parameter!r} does not run over its units alone"
    names = [name for name, _ in places]
    twice = {name for name in names if names.count(name) > 1}
    return f"its units lie in {min(twice)!r} more than once" if twice else ""
