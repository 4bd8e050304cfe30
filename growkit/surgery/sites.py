"""Where a tensor stands in a model: every (module, key), so that tied weights stay tied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from growkit.structure.tensors import INTERNAL, plain_tensors

__all__ = ["Sites", "successor"]


class Sites:
    """Every place at which the parameters, buffers and plain tensor attributes of a model stand.

    A module may also keep them in its lists, tuples, dictionaries and sets, as code does that penalises some weights.

    Args:
        model: the model; its tensors must not be exchanged by others while this object is in use.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[int, list[tuple[nn.Module, str]]] = {}
        self._containers: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            held = (*module._parameters.items(), *module._buffers.items(), *plain_tensors(module).items())
            for key, tensor in held:
                if tensor is not None:
                    self._places.setdefault(id(tensor), []).append((module, key))
            for key, value in vars(module).items():
                if key not in INTERNAL and isinstance(value, _CONTAINERS):
                    for identity in {id(tensor) for tensor in _tensors_in(value)}:
                        self._containers.setdefault(identity, []).append((module, key))

    def exchange(self, old: Tensor, new: Tensor) -> None:
        """Put `new` wherever `old` stands."""
        places = self._places.pop(id(old))
        for module, key in places:
            setattr(module, key, new)  # recurrent layers keep a list of their weights, and follow assignments
        self._places[id(new)] = places
        containers = self._containers.pop(id(old), [])
        for module, key in containers:
            vars(module)[key] = _exchanged(vars(module)[key], old, new)
        self._containers[id(new)] = containers


_CONTAINERS = (list, tuple, dict, set, frozenset)
_DEPTH = 4


def _tensors_in(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """Yield the tensors in nested containers, keys of dictionaries included."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, _CONTAINERS) and depth:
        for child in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _tensors_in(child, depth - 1)


def _exchanged(value: Any, old: Tensor, new: Tensor, depth: int = _DEPTH) -> Any:
    """Return a value with another tensor in it: the same object, unless that cannot change."""
    if value is old:
        return new
    if (
        not isinstance(value, _CONTAINERS)
        or not depth
        or all(tensor is not old for tensor in _tensors_in(value, depth))
    ):
        return value

    def inner(child: Any) -> Any:
        return _exchanged(child, old, new, depth - 1)

    if isinstance(value, list):
        value[:] = map(inner, value)
    elif isinstance(value, dict):
        entries = [(inner(key), inner(child)) for key, child in value.items()]
        value.clear()
        value.update(entries)
    elif isinstance(value, set):
        members = [inner(child) for child in value]
        value.clear()
        value.update(members)
    else:
        children = map(inner, value)
        return type(value)(*children) if hasattr(value, "_fields") else type(value)(children)
    return value


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
