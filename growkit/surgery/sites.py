"""Where a parameter or buffer stands in a model: every (module, key), so that tied weights stay tied."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Sites", "successor"]


class Sites:
    """Every place at which the parameters and buffers of a model stand.

    Args:
        model: the model; its tensors must not be exchanged by others while this object is in use.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[int, list[tuple[dict[str, Any], str]]] = {}
        for module in model.modules():
            tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for table in tables:
                for key, tensor in table.items():
                    if tensor is not None:
                        self._places.setdefault(id(tensor), []).append((table, key))

    def exchange(self, old: Tensor, new: Tensor) -> None:
        """Put `new` wherever `old` stands."""
        places = self._places.pop(id(old))
        for table, key in places:
            table[key] = new
        self._places[id(new)] = places


def successor(old: Tensor, value: Tensor) -> Tensor:
    """Return a parameter or buffer like `old` with another value: same kind, memory format, attributes and hooks."""
    if value.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous():
        value = value.contiguous(memory_format=torch.channels_last)
    new = value
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(value, requires_grad=old.requires_grad)
        new._backward_hooks = old._backward_hooks
        new._post_accumulate_grad_hooks = old._post_accumulate_grad_hooks  # type: ignore[attr-defined]
    new.__dict__.update(old.__dict__)
    return new
