"""What is compared: outputs, what training has made, and models as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from growkit.lightning.checkpoint import layout_of


def distance(before: Tensor, after: Tensor) -> float:
    """Return the largest difference relative to the largest entry; of outputs that were added, nothing is known."""
    former = after[tuple(slice(size) for size in before.shape)]
    return (before - former).abs().max().item() / max(before.abs().max().item(), 1.0)


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def bits(model: nn.Module, optimizers: Sequence[optim.Optimizer]) -> dict[str, Any]:
    """Everything that training has made of a model and its optimizers, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        "weights": {name: raw(tensor) for name, tensor in model.state_dict().items()},
        "states": [
            {names[id(parameter)]: plain(state) for parameter, state in optimizer.state.items()}
            for optimizer in optimizers
        ],
        "layout": layout_of(model, optimizers),
    }


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return (value.dtype, tuple(value.shape), raw(value)) if isinstance(value, Tensor) else value


def picture(model: nn.Module, optimizers: Sequence[optim.Optimizer]) -> dict[str, Any]:
    """A model and its optimizers as they are: the same objects with the same content."""
    return {
        "bits": bits(model, optimizers),
        "gradients": [
            (name, id(p.grad), None if p.grad is None else raw(p.grad)) for name, p in model.named_parameters()
        ],
        "tensors": [(name, id(tensor)) for name, tensor in (*model.named_parameters(), *model.named_buffers())],
        "modules": [(name, id(each), each.training, each.extra_repr()) for name, each in model.named_modules()],
        "states": [{id(p): {key: id(v) for key, v in s.items()} for p, s in each.state.items()} for each in optimizers],
        "random numbers": raw(torch.get_rng_state()),
    }
