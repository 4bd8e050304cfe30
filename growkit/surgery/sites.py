"""Where a tensor stands in a model: every (module, key), so that tied weights stay tied."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from growkit.structure.tensors import plain_tensors

__all__ = ["Sites", "successor"]


class Sites:
    """Every place at which the parameters, buffers and plain tensor attributes of a model stand.

    Args:
        model: the model; its tensors must not be exchanged by others while this object is in use.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            held = (*module._parameters.items(), *module._buffers.items(), *plain_tensors(module).items())
            for key, tensor in held:
                if tensor is not None:
                    self._places.setdefault(id(tensor), []).append((module, key))

    def exchange(self, old: Tensor, new: Tensor) -> None:
        """Put `new` wherever `old` stands."""
        places = self._places.pop(id(old))
        for module, key in places:
            setattr(module, key, new)  # recurrent layers keep a list of their weights, and follow assignments
        self._places[id(new)] = places


def successor(old: Tensor, value: Tensor) -> Tensor:
    """Return a parameter or buffer like `old` with another value: same class, memory format, attributes and hooks."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    memory_format = formats.get(value.dim())
    if memory_format and not old.is_contiguous() and old.is_contiguous(memory_format=memory_format):
        value = value.contiguous(memory_format=memory_format)
    new = value
    if isinstance(old, nn.Parameter):
        new = torch.Tensor._make_subclass(type(old), value, old.requires_grad)
        new._backward_hooks = old._backward_hooks
        new._post_accumulate_grad_hooks = old._post_accumulate_grad_hooks  # type: ignore[attr-defined]
    new.__dict__.update(old.__dict__)
    return new
