"""What the tests of splitting share: losses, data, and the two ways to check a splitting matrix."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from growth.stubs import Proposes, event
from torch import Tensor, nn

import growkit
from growkit_plugins.splitting import Neurons, Split, Splitting, SplittingMatrices, candidates, schemes

Batch = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Any], Tensor]
STEP = 3e-3


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def data(shape: tuple[int, ...], outputs: tuple[int, ...], batches: int = 1, count: int = 9) -> list[Batch]:
    double = torch.float64
    return [
        (torch.randn(count, *shape, dtype=double), torch.randn(count, *outputs, dtype=double)) for _ in range(batches)
    ]


def data_for(model: nn.Module, shape: tuple[int, ...], batches: int = 1, count: int = 9) -> list[Batch]:
    """Random inputs, and random targets of the shape of the output."""
    inputs = torch.randn(count, *shape, dtype=torch.float64)
    with torch.no_grad():
        outputs = model(inputs).shape[1:]
    return data(shape, tuple(outputs), batches, count)


def settle(model: nn.Module) -> nn.Module:
    """Double precision, evaluation mode, and norms away from their trivial start."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.bias)
    return model.double().eval()


def matrices_of(
    model: nn.Module, batches: Sequence[Batch], loss: Loss = squared_error, **options: Any
) -> SplittingMatrices:
    """The matrices of a model. Its structure is that of a copy, as in a growth event."""
    structure = growkit.trace(copy.deepcopy(model), batches[0][0][:2])
    return SplittingMatrices(model, structure, partial(loss, model), batches, **options)


def neurons_of(matrices: SplittingMatrices) -> dict[str, Neurons]:
    return {neurons.width: neurons for neurons in matrices.neurons}


def dense(matrices: SplittingMatrices, width: str) -> Tensor:
    return matrices.dense([neurons.width for neurons in matrices.neurons].index(width))


def grow(
    model: nn.Module, batches: Sequence[Batch], plugin: growkit.Plugin, loss: Loss = squared_error, **options: Any
) -> growkit.Event | None:
    return event(model, plugin, example=(batches[0][0][:2],), loss=loss, batches=batches, **options)


def mean_loss(model: nn.Module, batches: Sequence[Batch], loss: Loss = squared_error) -> float:
    with torch.no_grad():
        return sum(loss(model, batch).item() for batch in batches) / len(batches)


def law_holds(
    model: nn.Module, batches: Sequence[Batch], *, loss: Loss = squared_error, rel: float = 0.01, **options: Any
) -> growkit.Event:
    """The loss falls by what the event predicts."""
    options = {"fraction": 1.0, "step": STEP, **options}
    before = mean_loss(model, batches, loss)
    happened = grow(model, batches, Splitting(batches=len(batches), **options), loss)
    assert happened is not None
    assert happened.note["gain"] > 0
    fall = before - mean_loss(model, batches, loss)
    assert abs(fall - happened.note["gain"]) <= rel * happened.note["gain"]
    return happened


def directions_of(matrices: SplittingMatrices, seed: int = 0) -> list[Tensor]:
    """A random unit vector for every neuron."""
    generator = torch.Generator().manual_seed(seed)
    vectors = [
        torch.randn(n.units, n.dimension, generator=generator, dtype=torch.float64).to(**matrices.like)
        for n in matrices.neurons
    ]
    return [vector / vector.norm(dim=1, keepdim=True) for vector in vectors]


def splits_along(matrices: SplittingMatrices, number: int, vectors: Tensor, products: Tensor) -> list[Split]:
    """The positive binary split of all neurons at one place, whether it lowers the loss or not."""
    neurons, (binary,) = matrices.neurons[number], schemes(1.0, 2)
    values = (vectors * products).sum(1).tolist()
    return [
        Split(number, neurons, unit, binary, value, torch.stack([vectors[unit], -vectors[unit]]))
        for unit, value in enumerate(values)
    ]


def assert_any_direction_obeys(
    model: nn.Module, batches: Sequence[Batch], loss: Loss = squared_error, *, step: float = STEP, rel: float = 0.01
) -> set[str]:
    """Split every neuron of each width in turn along random directions: the loss changes by step^2 / 2 v^T S v.

    Returns:
        The widths that were split.
    """
    matrices = matrices_of(copy.deepcopy(model), batches, loss)
    vectors = directions_of(matrices)
    products = matrices.multiply(vectors)
    for number, neurons in enumerate(matrices.neurons):
        splits = splits_along(matrices, number, vectors[number], products[number])
        grown = copy.deepcopy(model)
        before = mean_loss(grown, batches, loss)
        happened = grow(grown, batches, Proposes(*candidates(splits, step)), loss)
        assert happened is not None
        values = torch.tensor([split.value for split in splits])
        change, size = mean_loss(grown, batches, loss) - before, 0.5 * step**2 * values.abs().sum().item()
        error = abs(change - 0.5 * step**2 * values.sum().item())
        assert error <= rel * size, (neurons.width, change, values)
    return {neurons.width for neurons in matrices.neurons}


def by_autograd(model: nn.Module, batches: Sequence[Batch], neurons: Neurons, unit: int) -> Tensor:
    """The Hessian of the loss of the model in which a unit has become theta + shift and theta - shift, half each."""
    grown = copy.deepcopy(model)
    example = (batches[0][0][:2],)
    change = growkit.apply(grown, growkit.Widen(neurons.width, copies=[unit]), example=example)
    pieces = {piece.parameter: piece for piece in growkit.trace(grown, *example)[neurons.width].incoming}
    parameters = {name: parameter.detach() for name, parameter in grown.named_parameters()}

    def split_loss(shift: Tensor) -> Tensor:
        moved = dict(parameters)
        for name, (part,) in neurons.offsets(shift[None, None]).items():
            axis, index = pieces[name].axis, pieces[name].index
            for other, mapped in enumerate(change[name].maps):
                if other != axis and mapped is not None:  # the units also feed the layer that makes them
                    part = mapped.apply(part, other, "weight")
            moved[name] = moved[name].index_add(axis, index[unit], part).index_add(axis, index[-1], -part)
        losses = [
            (torch.func.functional_call(grown, moved, (inputs,)) - targets).square().mean()
            for inputs, targets in batches
        ]
        return torch.stack(losses).mean()

    return torch.autograd.functional.hessian(split_loss, torch.zeros(neurons.dimension, dtype=torch.float64))


def assert_exact(model: nn.Module, batches: Sequence[Batch], width: str) -> None:
    """The matrices of a width are what autograd says of the grown model."""
    matrices = matrices_of(copy.deepcopy(model), batches)
    neurons = neurons_of(matrices)
    assert width in neurons, matrices.refused
    for unit, matrix in enumerate(dense(matrices, width)):
        expected = by_autograd(model, batches, neurons[width], unit)
        assert expected.abs().max() > 1e-6
        torch.testing.assert_close(matrix, expected, rtol=1e-8, atol=1e-12)
