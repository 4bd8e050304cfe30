"""What must hold for every width of every architecture."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import growkit
from growkit.structure.forward import tensors_in
from zoo.architecture import Architecture, Inputs

__all__ = ["call", "doubled", "edits_of", "inputs_of", "model_of", "moved", "structure_of"]


def model_of(architecture: Architecture) -> nn.Module:
    """The network in float64 and evaluation mode, every tensor away from its trivial start."""
    torch.manual_seed(0)
    model = architecture.build().double().eval()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif isinstance(tensor, nn.Parameter) or name.endswith("running_mean"):
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def doubled(value: Any) -> Any:
    """Inputs with their real tensors in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: doubled(child) for key, child in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(doubled(child) for child in value))
    if isinstance(value, (list, tuple)):
        return type(value)(doubled(child) for child in value)
    if hasattr(value, "__dict__"):
        value = copy.copy(value)
        vars(value).update({key: doubled(child) for key, child in vars(value).items()})
    return value


def inputs_of(architecture: Architecture, *, batch: int | None = None, longer: bool = False) -> Inputs:
    torch.manual_seed(1 + int(longer))
    make = architecture.longer if longer else architecture.inputs
    assert make is not None
    return doubled(make(batch or architecture.batches[0]))


def call(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        output = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    return [tensor.clone() for tensor in tensors_in(output)]


def structure_of(model: nn.Module, inputs: Inputs) -> growkit.Structure:
    return growkit.trace(model, **inputs) if isinstance(inputs, Mapping) else growkit.trace(model, *inputs)


def moved(before: list[Tensor], after: list[Tensor]) -> float:
    """How far the outputs moved, relative to their scale."""
    if [t.shape for t in before] != [t.shape for t in after]:
        return float("inf")
    distances = [0.0]
    for old, new in zip(before, after, strict=True):
        finite = old[old.isfinite()] if old.is_floating_point() else old
        scale = max(float(finite.abs().max()) if finite.numel() else 0.0, 1e-3)
        same = (old == new) | (old.isnan() & new.isnan()) if old.is_floating_point() else old == new
        if old.numel():
            distances.append(float(torch.where(same, 0.0, (old - new).abs().double()).max()) / scale)
    return max(distances)


def edits_of(width: growkit.Width) -> Iterator[tuple[str, growkit.Widen]]:
    everyone = tuple(range(width.size))
    yield "uniform", growkit.Widen(width.name, everyone)
    if not width.uniform:
        yield "uneven", growkit.Widen(width.name, (width.size - 1, 0, 0))
