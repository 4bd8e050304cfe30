"""Keys that nothing takes, in a recipe or an option: found before jsonargparse, which passes over some of them."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from inspect import Parameter, signature
from typing import Any

import pytorch_lightning as pl

from growkit.growth import Budget
from growkit.lightning import Growth
from growkit.plugins import Plugin

__all__ = ["SECTIONS", "unknown_keys"]

SECTIONS = {"seed_everything", "model", "data", "trainer", "growth", "compare", "optimizer", "lr_scheduler"}


Unknown = tuple[str, set[str], str]


def unknown_keys(recipe: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[Unknown]:
    """Yield each key that nothing takes, dotted, with the keys that would be right there and the class that has them.

    What cannot be judged (a class that cannot be imported, one that takes any keyword) is passed over.

    Args:
        recipe: the YAML as plain data.
        overrides: options such as `--trainer.max_epochs` with their values.
    """
    yield from _in_section("", dict(recipe), SECTIONS, "")
    for option in overrides:
        if option.startswith("--"):
            yield from _in_option(option[2:].partition("=")[0].removesuffix("+").split("."), recipe)


def _in_section(path: str, node: Any, known: set[str] | None, owner: str) -> Iterator[Unknown]:
    if isinstance(node, list):
        for child in node:
            yield from _in_section(path, child, None, "")
        return
    if not isinstance(node, Mapping):
        return
    if "class_path" in node:
        owner = str(node["class_path"])
        yield from _in_section(path, node.get("init_args"), parameters_of(owner), owner)
        return
    for key, child in node.items():
        name = f"{path}.{key}" if path else str(key)
        if known is not None and key not in known:
            yield name, known, owner
        else:
            yield from _in_section(name, child, _fixed(name), "")


def _in_option(keys: list[str], recipe: Mapping[str, Any]) -> Iterator[Unknown]:
    """Walk down the recipe along a dotted option."""
    node: Any = recipe
    known: set[str] | None = SECTIONS
    owner = ""
    for depth, key in enumerate(keys):
        if isinstance(node, list):  # an option speaks of the last entry
            node = node[-1] if node else None
        if isinstance(node, str):  # a class without arguments
            node = {"class_path": node}
        if isinstance(node, Mapping) and "class_path" in node:
            owner = str(node["class_path"])
            known, node = parameters_of(owner), node.get("init_args")
            if key in {"class_path", "help"}:
                return
            if key in {"init_args", "dict_kwargs"}:
                continue
        if known is None:
            return
        if key not in known:
            yield ".".join(keys[: depth + 1]), known, owner
            return
        node = node.get(key) if isinstance(node, Mapping) else None
        known, owner = _fixed(".".join(keys[: depth + 1])), ""


def _fixed(section: str) -> set[str] | None:
    """Return the keys of the sections whose class is not chosen in the recipe."""
    if section == "growth.budget":
        return {field.name for field in fields(Budget)}
    kind = {"growth": Growth, "trainer": pl.Trainer}.get(section)
    return None if kind is None else set(signature(kind).parameters)


def parameters_of(class_path: Any) -> set[str] | None:
    """Return the arguments of a class or function; None where that cannot be told."""
    try:
        made = pkgutil.resolve_name(str(class_path)) if "." in str(class_path) else _offered(str(class_path))
        parameters = signature(made).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return None
    if made is None or any(p.kind == Parameter.VAR_KEYWORD for p in parameters.values()):
        return None
    return set(parameters)


def _offered(name: str) -> Any:
    """Return the plugin class of that bare name, if it was imported."""
    waiting: list[type[Plugin]] = [Plugin]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == name:
            return kind
        waiting.extend(kind.__subclasses__())
    return None
