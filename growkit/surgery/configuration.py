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
from torch import nn

from growkit import randomness
from growkit.surgery.carry import ParamChange

__all__ = ["follow_configuration"]

_MOST_FIELDS = 6


def follow_configuration(model: nn.Module, changes: Sequence[ParamChange], undo: list[Callable[[], Any]]) -> None:
    """Set the fields of a model's configuration to the new sizes, if some setting describes the grown model.

    Args:
        model: after the edit. Only one with an attribute `config`, which its class takes, is looked at.
        changes: the replaced tensors.
        undo: where to note how to put the fields back.

    Cost: nothing for other models; for these, some constructions on the meta device, which allocate no memory.
    """
    config = vars(model).get("config")
    if config is None or not changes or isinstance(config, (nn.Module, dict)) or not hasattr(config, "__dict__"):
        return
    wanted = _shapes(model)
    for setting in _settings(config, changes):
        candidate = copy.deepcopy(config)
        vars(candidate).update(setting)
        if _built(type(model), candidate) == wanted:
            for field, value in setting.items():
                undo.append(partial(vars(config).__setitem__, field, vars(config)[field]))
                vars(config)[field] = value
            return


def _settings(config: Any, changes: Sequence[ParamChange]) -> Iterator[dict[str, int]]:
    """Yield new values for fields that hold, before the edit, a size that changed or the ratio of such sizes."""
    ratios = {new / old for c in changes for old, new in zip(c.old.shape, c.new.shape, strict=True) if old != new}
    sizes = {old for c in changes for old, new in zip(c.old.shape, c.new.shape, strict=True) if old != new}
    fields: dict[str, list[int]] = {}
    for field, value in vars(config).items():
        if type(value) is int and value > 0 and any(size % value == 0 for size in sizes):
            values = [round(value * ratio) for ratio in sorted(ratios) if float(value * ratio).is_integer()]
            if values and len(fields) < _MOST_FIELDS:
                fields[field] = values
    for count in range(1, len(fields) + 1):
        for chosen in itertools.combinations(fields, count):
            for setting in itertools.product(*(fields[field] for field in chosen)):
                yield dict(zip(chosen, setting, strict=True))


def _built(kind: type[nn.Module], config: Any) -> dict[str, torch.Size] | None:
    try:
        with randomness.isolated(), torch.device("meta"):
            return _shapes(kind(config))
    except Exception:
        return None  # whatever a configuration that fits nothing makes the class raise


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
