"""Every tensor that a model holds: parameters, buffers, and tensors kept as plain attributes."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic, TypeVar

from torch import Tensor, nn

__all__ = ["CONTAINERS", "HELD", "INTERNAL", "SIMPLE", "TensorTable", "named_tensors", "plain_tensors"]

Value = TypeVar("Value")

# The attributes in which torch keeps parameters, buffers, children and hooks; and those of them that hold no hooks.
INTERNAL = vars(nn.Module()).keys()
HELD = {"_parameters", "_buffers", "_modules"}

# Types of most attributes, quickly told: without anything inside, and containers.
SIMPLE = {bool, int, float, complex, str, bytes, type(None)}
CONTAINERS = {dict, OrderedDict, list, tuple, set}

# Types that most attributes have, since asking whether something is a tensor takes longer.
_OTHERS = {bool, int, float, str, tuple, list, dict, set, OrderedDict, type(None)}


class TensorTable(Generic[Value]):
    """Values by the identity of tensors, none of which it keeps alive."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Tensor], Value]] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __setitem__(self, tensor: Tensor, value: Value) -> None:
        self._entries[id(tensor)] = weakref.ref(tensor), value

    def get(self, tensor: Tensor) -> Value | None:
        """Return the value of a tensor, or None if it has none; an identity may have been another tensor's before."""
        entry = self._entries.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None


def plain_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a module keeps as plain attributes, such as a table of frequencies, by attribute.

    What an earlier pass left behind with its graph (a loss, say) is not among them.
    """
    return {
        key: value
        for key, value in vars(module).items()
        if type(value) not in _OTHERS and isinstance(value, Tensor) and value.is_leaf
    }


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters, buffers and plain tensor attributes by qualified name, tied ones under the first."""
    modules = list(model.named_modules())
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for held in (_parameters, _buffers, plain_tensors):
        for prefix, module in modules:
            for key, tensor in held(module).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    named[f"{prefix}.{key}" if prefix else key] = tensor
    return named


def _parameters(module: nn.Module) -> Mapping[str, Tensor | None]:
    return module._parameters


def _buffers(module: nn.Module) -> Mapping[str, Tensor | None]:
    return module._buffers
