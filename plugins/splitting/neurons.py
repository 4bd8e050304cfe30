"""Neurons: what the splitting matrix of a unit is made of, gathered from one forward and one backward pass.

A neuron is a unit of a Linear or convolution layer whose output goes through a pointwise activation and nothing else,
with a batch norm (running statistics) in between at the most. With inputs `x` (a patch for a convolution, a 1 appended
for a bias), `z = c * theta . x` up to a constant, and `a = act(z)`, its splitting matrix is

    S = E[ dL/da  act''(z)  c^2  x x^T ]

summed over output positions. Splitting the neuron into `theta +- eps v` with halved outgoing weights changes the loss
by `eps^2 / 2 * v^T S v + O(eps^3)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import growkit
from growkit_plugins.splitting.eigen import smallest_eigenpairs
from growkit_plugins.splitting.functions import second_derivative
from growkit_plugins.splitting.recorder import Record, Recorder

__all__ = ["Neurons", "find_neurons", "splitting_indices", "splitting_matrices"]


@dataclass(frozen=True, eq=False)
class Neurons:
    """The units of one width, as splitting sees them.

    Attributes:
        width: name of the width.
        weight: name of the weight parameter, shape (units, ...).
        bias: name of the bias parameter, or None; if there is one, it moves along with the weight.
        inputs: x of every sample and position: shape (samples, dimension), a last column of ones for a bias.
        curvature: dL/da act''(z) c^2 at every sample and position: shape (samples, units).
    """

    width: str
    weight: str
    bias: str | None
    inputs: Tensor
    curvature: Tensor

    @property
    def units(self) -> int:
        """Number of neurons."""
        return self.curvature.shape[1]


def splitting_matrices(neurons: Neurons) -> Tensor:
    """Return the splitting matrix of every neuron: shape (units, dimension, dimension), symmetric.

    Cost: units x dimension^2 numbers; samples x units x dimension^2 multiply-adds.
    """
    weighted = neurons.curvature.T[:, None, :] * neurons.inputs.T[None, :, :]
    return weighted @ neurons.inputs


def splitting_indices(
    neurons: Neurons,
    generator: torch.Generator,
    tolerance: float,
    wanted: int | None = None,
    mean: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the splitting index and the splitting gradient of every neuron: the smallest eigenpair of its matrix.

    No matrix is formed. Where there are fewer samples than dimensions, all eigenvectors with an eigenvalue other
    than 0 lie in the span of the inputs, and the search takes place there; neurons without a negative eigenvalue
    may then be reported with a positive one instead of 0.

    Args:
        neurons: of one width.
        generator: of the start vectors.
        tolerance: relative residual of the eigenpairs, see `smallest_eigenpairs`.
        wanted: how many of the smallest indices matter, see there; all if None.
        mean: averages a tensor over the processes of a data-parallel run, each of which has samples of its own; None
            for a single process.

    Returns:
        Indices, shape (units,), and unit vectors, shape (units, dimension).

    Cost: two products of samples x min(samples, dimension) x units an iteration; usually 8 to 24 iterations.
    """
    inputs, span = neurons.inputs, None
    if mean is None and inputs.shape[0] < inputs.shape[1]:
        # inputs = U diag(s) V^T with U, s^2 from the small Gram matrix; only well-determined directions are kept.
        squares, left = torch.linalg.eigh(inputs @ inputs.T)
        kept = squares > squares[-1] * 100 * torch.finfo(inputs.dtype).eps
        singular = squares[kept].sqrt()
        span = inputs.T @ (left[:, kept] / singular)
        inputs = left[:, kept] * singular
    start = torch.randn(neurons.units, inputs.shape[1], generator=generator).to(inputs)

    def multiply(vectors: Tensor, which: Tensor) -> Tensor:
        product = (neurons.curvature[:, which] * (inputs @ vectors.T)).T @ inputs
        return product if mean is None else mean(product)

    values, vectors = smallest_eigenpairs(multiply, start, tolerance=tolerance, wanted=wanted)
    return values, vectors if span is None else vectors @ span.T


def find_neurons(
    model: nn.Module,
    structure: growkit.Structure,
    loss: Callable[[Any], Tensor],
    batches: Iterable[Any],
    *,
    widths: Iterable[str] = (),
    beta: float = 3.0,
) -> tuple[list[Neurons], dict[str, str]]:
    """Run the model on some batches and gather what the splitting matrices are made of.

    Args:
        model: in evaluation mode; its gradients are used up.
        structure: of a model with the same names.
        loss: the mean loss of `model` on a batch.
        batches: as many as the expectation shall run over.
        widths: name patterns; all widths if empty.
        beta: sharpness of the surrogate for piecewise linear activations, see `second_derivative`.

    Returns:
        The neurons of every width that can be split, and for the others the reason why they cannot.

    Cost: a forward and a backward pass a batch.
    """
    layers: dict[str, _Layer] = {}
    refused: dict[str, str] = {}
    for width in structure.matching(*widths):
        layer = _layer_of(model, width)
        if isinstance(layer, str):
            refused[width.name] = layer
        else:
            layers[width.name] = layer
    count = 0
    for batch in batches:
        with Recorder(layer.weight for layer in layers.values()) as recorder:
            value = loss(batch)
        count += 1
        _digest(layers, recorder, value, beta)
    found = []
    for name, layer in layers.items():
        if layer.trouble or not layer.inputs:
            refused[name] = layer.trouble or f"{layer.name} was not called"
        else:
            curvature = torch.cat(layer.curvature) / count
            found.append(Neurons(name, f"{layer.name}.weight", layer.bias, torch.cat(layer.inputs), curvature))
    return found, refused


class _Layer:
    """A layer whose units may be split, and what was gathered of it."""

    def __init__(self, name: str, module: nn.Linear | nn.modules.conv._ConvNd) -> None:
        self.name, self.weight = name, module.weight
        self.bias = f"{name}.bias" if module.bias is not None else None
        self.inputs: list[Tensor] = []
        self.curvature: list[Tensor] = []
        self.trouble = ""


def _layer_of(model: nn.Module, width: growkit.Width) -> _Layer | str:
    """Return the layer that makes the units of a width, or the reason why they are no neurons."""
    if width.uniform:
        return f"its units cannot be split one by one: {width.uniform}"
    layers = {}
    for piece in width.incoming:
        name = piece.parameter.rpartition(".")[0]
        module = model.get_submodule(name)
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            layers[name] = module
        elif not isinstance(module, nn.modules.batchnorm._BatchNorm):
            return f"{name} ({type(module).__name__}) also makes its units"
    if len(layers) != 1:
        return f"its units are made by {len(layers)} layers ({', '.join(layers) or 'none'})"
    ((name, layer),) = layers.items()
    if not layer.weight.requires_grad:
        return f"{name} is not trained"
    if not isinstance(layer, nn.Linear) and (layer.groups != 1 or layer.padding_mode != "zeros"):
        return f"{name} is a convolution with groups or with another padding than zeros"
    return _Layer(name, layer)


def _digest(layers: dict[str, _Layer], recorder: Recorder, loss: Tensor, beta: float) -> None:
    """Add what one batch says of each layer."""
    calls = [(layer, record) for layer in layers.values() for record in recorder.records[id(layer.weight)]]
    for layer, record in calls:
        if record.trouble or record.activation is None:
            layer.trouble = f"{layer.name} {record.trouble or 'is not followed by a pointwise activation'}"
    usable = [(layer, record) for layer, record in calls if not layer.trouble]
    outputs = [record.output for _, record in usable]
    gradients = torch.autograd.grad(loss, outputs, allow_unused=True) if outputs else ()
    for (layer, record), gradient in zip(usable, gradients, strict=True):
        if gradient is None:
            layer.trouble = f"{layer.name} has no part in the loss"
            continue
        inputs, curvature = _terms(record, gradient, beta)
        if layer.bias is not None:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        layer.inputs.append(inputs)
        layer.curvature.append(curvature)


def _terms(record: Record, gradient: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return inputs (samples, dimension) and dL/da act''(z) c^2 (samples, units) of one call of a layer."""
    assert record.activation is not None
    curved = second_derivative(record.activation, record.z, beta=beta if record.piecewise_linear else None)
    curved = (curved * gradient).movedim(record.channel, -1).flatten(0, -2)
    if record.scale is not None:
        curved = curved * record.scale.square()
    inputs = record.patches()
    # Eigenvalues want more digits than half precision has.
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    return inputs.to(dtype), curved.to(dtype)
