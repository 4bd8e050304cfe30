"""Attributes follow: what repeats a size takes the new one, and comes back if the edit fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from functools import partial
from typing import Any

from torch import nn

from growkit.plugins import Plugins
from growkit.structure.dimensions import Symbol
from growkit.structure.mirrors import Mirror, held
from growkit.surgery.carry import ParamChange

__all__ = ["follow_sizes", "resize_modules"]

Undo = list[Callable[[], Any]]


def follow_sizes(mirrors: Iterable[Mirror], changed: Set[Symbol], undo: Undo) -> None:
    """Set the attributes that repeat a size which changed."""
    for mirror in mirrors:
        if changed & mirror.symbols:
            place = held(mirror.owner)
            undo.append(partial(place.__setitem__, mirror.attribute, place[mirror.attribute]))
            place[mirror.attribute] = mirror.value


def resize_modules(model: nn.Module, changes: Iterable[ParamChange], plugins: Plugins, undo: Undo) -> None:
    """Let plugins set the attributes of modules whose own tensors changed; see `growkit_resize_module`."""
    if not plugins.implement("growkit_resize_module"):
        return
    by_module: dict[str, dict[str, ParamChange]] = {}
    for change in changes:
        prefix, _, key = change.name.rpartition(".")
        by_module.setdefault(prefix, {})[key] = change
    for prefix, own in by_module.items():
        module = model.get_submodule(prefix)
        undo.append(partial(_restore, module, _attributes(module)))
        plugins.call("growkit_resize_module", module=module, changes=own)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if not key.startswith("_")}


def _restore(module: nn.Module, attributes: dict[str, Any]) -> None:
    for key in _attributes(module).keys() - attributes.keys():
        del vars(module)[key]
    vars(module).update(attributes)
