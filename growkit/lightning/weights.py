"""The weights in a checkpoint: whether they fit a module, and what tells those who load them without growkit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from growkit.errors import CheckpointError
from growkit.lightning.state import short

__all__ = ["add_message", "check_fit", "check_gradients", "copy_weights", "entries", "remove_message"]

# torch names entries of a state dict that a module does not know: so this is what it says about a grown model.
_SENDER = "growkit: "
_MESSAGE = (
    _SENDER + "this model has grown since it was built; load it with growkit.load(path, module), "
    "add growkit.Growth() to the callbacks, or run `growkit export`"
)

_LISTED = 3  # more differences than that are no help in a message


def add_message(checkpoint: dict[str, Any]) -> None:
    """Add an entry to the weights whose name says how to load them."""
    checkpoint["state_dict"][_MESSAGE] = torch.empty(0)


def remove_message(checkpoint: dict[str, Any]) -> None:
    """Remove what `add_message` added, now or in another version."""
    weights = checkpoint.get("state_dict")
    if isinstance(weights, dict):
        for name in [name for name in weights if isinstance(name, str) and name.startswith(_SENDER)]:
            del weights[name]


def entries(weights: Any) -> int:
    """Return how many numbers a state dict holds; a tensor that repeats its numbers counts each once."""
    tensors = [t for t in weights.values() if isinstance(t, Tensor) and not is_lazy(t)] if _is_named(weights) else []
    dense = [t for t in tensors if t.layout == torch.strided and not t.is_meta]
    return sum(min(t.numel(), t.untyped_storage().nbytes() // t.element_size()) for t in dense)


def check_fit(weights: Any, module: nn.Module, *, strict: bool = True) -> None:
    """Refuse weights that do not fit a module, before any is copied.

    Args:
        weights: by name.
        module: at its final structure.
        strict: whether the names have to be the same; shapes and types of numbers have to fit in any case.

    Raises:
        CheckpointError: the first few differences.
    """
    found = list(_differences(weights, module, strict=strict))
    if found:
        rest = f" and {len(found) - _LISTED} more differences" if len(found) > _LISTED else ""
        raise _unfit(module, short(", ".join(found[:_LISTED]) + rest))


def check_gradients(gradients: dict[str, Tensor], module: nn.Module) -> None:
    """Refuse gradients that the parameters of a module cannot have.

    Raises:
        CheckpointError: the first such gradient.
    """
    parameters = dict(module.named_parameters())
    for name, gradient in gradients.items():
        if name not in parameters or any(_difference(name, gradient, parameters[name])):
            raise _unfit(module, f"a gradient of shape {list(gradient.shape)} for {name!r}")


def copy_weights(weights: dict[str, Any], module: nn.Module, *, strict: bool) -> None:
    """Copy weights into a module, all of them or none.

    Raises:
        CheckpointError: they do not fit, or the module refuses them.

    Cost: a copy of the weights of the module, for the time of the call.
    """
    check_fit(weights, module, strict=strict)
    held = [tensor for tensor in (*module.parameters(), *module.buffers()) if not is_lazy(tensor)]
    before = [tensor.detach().clone() for tensor in held]
    try:
        module.load_state_dict(weights, strict=strict)
    except Exception as error:  # modules may load in ways of their own
        with torch.no_grad():
            for tensor, value in zip(held, before, strict=True):
                tensor.copy_(value)
        raise _unfit(module, short(f"{type(error).__name__}: {error}")) from error


def _differences(weights: Any, module: nn.Module, *, strict: bool) -> Iterator[str]:
    if not _is_named(weights):
        yield f"weights in a {type(weights).__name__}"
        return
    own, unforeseen = module.state_dict(), _unforeseen(module)
    for name in sorted(own.keys() | weights.keys()):
        if name.startswith(unforeseen):
            continue
        if name in own and name in weights:
            yield from _difference(name, weights[name], own[name])
        elif strict:
            yield f"no {name!r}" if name in own else f"{name!r}, which the module lacks"


def _difference(name: str, value: Any, own: Any) -> Iterator[str]:
    if not isinstance(own, Tensor) or is_lazy(own):
        return
    if not isinstance(value, Tensor) or value.is_meta:
        yield f"{name!r} without data"
    elif value.shape != own.shape:
        yield f"{name!r} of shape {list(value.shape)} instead of {list(own.shape)}"
    elif not torch.can_cast(value.dtype, own.dtype) or value.layout != own.layout:
        yield f"{name!r} of {value.dtype}, {value.layout} instead of {own.dtype}, {own.layout}"


def _is_named(weights: Any) -> bool:
    return isinstance(weights, dict) and all(isinstance(name, str) for name in weights)


def _unforeseen(module: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of names that modules load in ways of their own, which may rename and resize."""
    own_ways = [
        name
        for name, each in module.named_modules()
        if each._load_state_dict_pre_hooks
        or not type(each)._load_from_state_dict.__module__.startswith("torch.nn.modules.")
        or type(each).load_state_dict is not nn.Module.load_state_dict
    ]
    return tuple(f"{name}." if name else "" for name in own_ways)


def _unfit(module: nn.Module, seen: str) -> CheckpointError:
    return CheckpointError(
        f"the weights of the checkpoint do not fit {type(module).__name__}",
        seen=seen,
        expected="the module that was trained, built with the same arguments",
        advice="build it as the run did; its recipe is in the folder of the run",
    )
