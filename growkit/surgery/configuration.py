"""Configuration objects follow where they can: a model built from them must have the shapes of the grown one.

Models of Hugging Face are built from one configuration for all layers. When every layer has grown alike, the
configuration can say so, and the model can be saved and built again; when only some have, no configuration can, and it
stays as it was. Which fields say it is not guessed from their names: candidates are tried on the meta device.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from growkit import randomness
from growkit.surgery.carry import ParamChange

__all__ = ["follow_configuration"]

_MOST_FIELDS = 6
_MOST_TRIALS = 64

# What a model is as far as its configuration says it: shapes of tensors, whole and real numbers of modules.
_Numbers = dict[tuple[str, str], Any]
_Form = tuple[dict[str, torch.Size], _Numbers, _Numbers]


def follow_configuration(model: nn.Module, changes: Sequence[ParamChange], undo: list[Callable[[], Any]]) -> None:
    """Set the fields of a model's configuration to the new sizes, if exactly one setting describes the grown model.

    Nothing follows where a model that is built anew would compute something else: where a buffer is not saved with the
    model and would have other entries, or a number (the root of a width, by which embeddings are scaled) another value.

    Args:
        model: after the edit. Only one with an attribute `config`, which its class takes, is looked at.
        changes: the replaced tensors.
        undo: where to note how to put the fields back.

    Cost: nothing for other models; for these, at most 64 constructions on the meta device, which allocate no memory,
    and one real one, with nothing drawn, if the model has buffers that are not saved with it.
    """
    config = vars(model).get("config")
    if config is None or not changes or isinstance(config, (nn.Module, dict)) or not hasattr(config, "__dict__"):
        return
    wanted = _form(model)
    before = _built(type(model), config, {})
    # Real numbers that the edit left as the configuration makes them: so they have to come out again.
    kept = dict(wanted[2].items() & _numbers(before, float).items()) if before is not None else wanted[2]
    fitting = [s for s in _settings(config, changes) if _describes(type(model), config, s, wanted, kept)]
    # A setting that changes more fields than another one changes some that shape nothing.
    least = min(map(len, fitting), default=0)
    chosen = [setting for setting in fitting if len(setting) == least]
    if len(chosen) == 1 and _unsaved_agree(model, config, chosen[0]):
        for field, value in chosen[0].items():
            undo.append(partial(vars(config).__setitem__, field, vars(config)[field]))
            vars(config)[field] = value


def _settings(config: Any, changes: Sequence[ParamChange]) -> Iterator[dict[str, int]]:
    """Yield new values for fields that hold, before the edit, a size that changed or the ratio of such sizes.

    The first changes nothing: the configuration may describe the model as it is now.
    """
    pairs = {(old, new) for c in changes for old, new in zip(c.old.shape, c.new.shape, strict=True) if old != new}
    fields: dict[str, list[int]] = {}
    for field, value in vars(config).items():
        if type(value) is int and value > 0 and len(fields) < _MOST_FIELDS:
            values = {value * new // old for old, new in pairs if old % value == 0 and value * new % old == 0}
            if values:
                fields[field] = sorted(values)
    settings = (
        dict(zip(chosen, values, strict=True))
        for count in range(len(fields) + 1)
        for chosen in itertools.combinations(fields, count)
        for values in itertools.product(*(fields[field] for field in chosen))
    )
    yield from itertools.islice(settings, _MOST_TRIALS)


def _describes(kind: type[nn.Module], config: Any, setting: dict[str, int], wanted: _Form, kept: _Numbers) -> bool:
    built = _built(kind, config, setting)
    if built is None:
        return False
    shapes, numbers, reals = _form(built)
    return (shapes, numbers) == wanted[:2] and all(reals.get(key) == value for key, value in kept.items())


def _built(kind: type[nn.Module], config: Any, setting: dict[str, int], device: str = "meta") -> nn.Module | None:
    try:
        candidate = copy.deepcopy(config)
        vars(candidate).update(setting)
        with randomness.isolated(), torch.device(device), _NothingDrawn():  # type: ignore[no-untyped-call]
            return kind(candidate)
    except Exception:
        return None  # whatever a configuration that fits nothing makes the class raise


class _NothingDrawn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Leaves out what would only fill parameters with random numbers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func.overloadpacket in _DRAWING else func(*args, **(kwargs or {}))


_DRAWING = {torch.ops.aten.normal_, torch.ops.aten.uniform_}


def _form(model: nn.Module) -> _Form:
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return shapes, _numbers(model, int), _numbers(model, float)


def _numbers(model: nn.Module, kind: type) -> _Numbers:
    found = ((name, key, value) for name, module in model.named_modules() for key, value in vars(module).items())
    return {(name, key): value for name, key, value in found if type(value) is kind}


def _unsaved_agree(model: nn.Module, config: Any, setting: dict[str, int]) -> bool:
    """Say whether the buffers that are not saved with a model would come out the same in one that is built anew."""
    unsaved = dict(model.named_buffers()).keys() - model.state_dict().keys()
    if not unsaved:
        return True
    built = _built(type(model), config, setting, "cpu")
    if built is None:
        return False
    here, there = dict(model.named_buffers()), dict(built.named_buffers())
    return all(
        name in there and there[name].shape == here[name].shape and _alike(here[name].cpu(), there[name])
        for name in unsaved
    )


def _alike(mine: Tensor, built: Tensor) -> bool:
    """Say whether a buffer is what it was built as, but for its precision."""
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(mine.dtype, 1e-4)
    return torch.allclose(mine, built.to(mine.dtype), rtol=tolerance, atol=1e-6, equal_nan=True)
