"""Whatever the zoo holds: each width that is not refused obeys the law."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from growth.stubs import Proposes
from splitting.helpers import directions_of, splits_along
from torch import Tensor, nn
from zoo.catalogue import ARCHITECTURES
from zoo.check import inputs_of, model_of, run, structure_of

import growkit
from growkit.growth import grow
from growkit.plugins import Plugins
from growkit_plugins.splitting import SplittingMatrices, candidates

pytestmark = pytest.mark.slow

WIDTHS = 3  # of each architecture
# Where the gradient is not that of the loss, or a kink is left.
EXCEPT = {"vq-vae": "gradients go straight through a choice", "siamese network": "an absolute value"}
# One of them is small enough for the second order, and large enough to stand out from rounding.
STEPS = (1e-3, 1e-2, 1e-4)


def softplus(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return F.softplus(x)


def silu(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return F.silu(x)


def sigmoid(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.sigmoid(x)


def means_for(maxima: Callable[..., Tensor], means: Callable[..., Tensor]) -> Callable[..., Any]:
    """A pool of means with the arguments of a pool of maxima, where there is one."""

    def pool(x: Tensor, size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, *rest: Any, **more: Any):
        more |= dict(zip(("ceil_mode", "return_indices"), rest, strict=False))
        if more.get("return_indices") or dilation not in (1, (1, 1)):
            return maxima(x, size, stride, padding, dilation, **more)
        return means(x, size, stride, padding, more.get("ceil_mode", False))

    return pool


@pytest.fixture
def smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations without kinks take the place of those with one, and means that of maxima."""
    for maxima, means in (("max_pool1d", "avg_pool1d"), ("max_pool2d", "avg_pool2d")):
        monkeypatch.setattr(F, maxima, means_for(getattr(F, maxima), getattr(F, means)))
    for name in ("relu", "relu6", "leaky_relu", "prelu", "threshold"):
        monkeypatch.setattr(F, name, softplus)
    monkeypatch.setattr(F, "hardswish", silu)
    for name in ("hardsigmoid", "hardtanh"):
        monkeypatch.setattr(F, name, sigmoid)
    for owner, name in ((torch, "relu"), (torch, "relu_"), (Tensor, "relu"), (Tensor, "relu_")):
        monkeypatch.setattr(owner, name, softplus)


def loss_on(inputs: Any) -> Callable[..., Tensor]:
    """The squared distance of all outputs from random targets."""

    def distance(number: int, output: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        target = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
        finite = output.detach().isfinite()
        return (output - target)[finite].square().mean()

    def loss(model: nn.Module, batch: Any) -> Tensor:
        outputs = [output for output in run(model, inputs) if output.is_floating_point() and output.numel()]
        return torch.stack([distance(number, output).double() for number, output in enumerate(outputs)]).sum()

    return loss


def value_of(model: nn.Module, loss: Callable[..., Tensor]) -> float:
    with torch.no_grad():
        return loss(model, None).item()


def errors(
    model: nn.Module, inputs: Any, matrices: SplittingMatrices, number: int, loss: Callable[..., Tensor]
) -> Iterator[float]:
    """How far the change of the loss is from the predicted one, for each step, beyond rounding."""
    vectors = directions_of(matrices)
    asked = [vector if place == number else None for place, vector in enumerate(vectors)]
    splits = splits_along(matrices, number, vectors[number], matrices.multiply(asked)[number])
    values = torch.tensor([split.value for split in splits])
    for step in STEPS:
        grown = copy.deepcopy(model)
        context = growkit.Context(
            *(structure_of(grown, inputs), growkit.Journal()),
            **{"example": inputs, "step": 1, "epoch": 1, "seed": 1, "loss": loss, "batches": lambda count: [None]},
        )
        before = value_of(grown, loss)
        grow(context, Plugins([Proposes(*candidates(splits, step))]), growkit.Budget())
        size, rounding = 0.5 * step**2, 1e-14 * abs(before)
        error = abs(value_of(grown, loss) - before - size * values.sum().item())
        yield max(error - rounding, 0.0) / max(size * values.abs().sum().item(), rounding)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_widths_that_are_not_refused_obey_the_law(architecture, smooth):
    if architecture.name in EXCEPT:
        pytest.skip(EXCEPT[architecture.name])
    model = model_of(architecture)
    inputs = inputs_of(architecture, batch=architecture.batches[-1])
    structure = structure_of(model, inputs)
    if structure.dtypes & {torch.float32, torch.complex64}:
        pytest.skip("it computes in single precision")
    loss, private = loss_on(inputs), copy.deepcopy(model)
    matrices = SplittingMatrices(private, structure, lambda batch: loss(private, batch), [None])
    assert not any("no second derivative" in reason for reason in matrices.refused.values()), matrices.refused
    for number in torch.randperm(len(matrices.neurons))[:WIDTHS].tolist():
        width = matrices.neurons[number].width
        assert any(error < 0.01 for error in errors(model, inputs, matrices, number, loss)), width
