"""Models that the command line is told to import."""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter, Signature, signature
from textwrap import shorten
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from growkit.errors import RecipeError, suggestion
from growkit.structure.forward import Example

__all__ = ["current_folder", "doubled", "imported", "is_recipe", "line_of", "refuse_options", "signature_of"]


def is_recipe(name: str) -> bool:
    """Say whether a model is named by its recipe, and not as package.module:factory."""
    return ":" not in name or name.endswith((".yaml", ".yml"))


def refuse_options(given: Sequence[str], known: Sequence[str]) -> None:
    """Refuse options of a recipe where there is none.

    Args:
        given: what the parser does not know.
        known: what would have been right.

    Raises:
        RecipeError: there are some.
    """
    if given:
        raise RecipeError(
            "a factory takes no options of a recipe",
            seen=" ".join(given),
            expected=f"one of {', '.join(known)}" if known else "none",
            advice=suggestion(given[0], known, otherwise="leave them out"),
        )


@contextmanager
def current_folder() -> Iterator[None]:
    """Let modules in the current folder be imported, as `python -m growkit` does and the installed script does not."""
    folder = os.getcwd()
    added = folder not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def imported(name: str) -> nn.Module:
    """Import a model, or what makes it.

    Raises:
        RecipeError: there is no such thing, or it gives no model.
    """
    module, _, attribute = name.partition(":")
    try:
        made = pkgutil.resolve_name(name)
    except (Exception, SystemExit) as error:
        names = dir(sys.modules[module]) if module in sys.modules else []
        advice = "modules are looked for in the current folder and among the installed packages"
        _no_model(name, line_of(error), suggestion(attribute, names, otherwise=advice), error)
    if callable(made) and not isinstance(made, nn.Module):
        try:
            signature_of(made).bind()
        except TypeError as error:
            _no_model(name, line_of(error), "write a function that takes no arguments and returns the model", error)
        try:
            made = made()
        except (Exception, SystemExit) as error:
            _no_model(name, line_of(error), "GROWKIT_TRACEBACK=1 shows where it was raised", error)
    if not isinstance(made, nn.Module):
        _no_model(name, f"a {type(made).__name__}", "name a model, or a function that returns one")
    return made


def _no_model(name: str, seen: str, advice: str, cause: BaseException | None = None) -> NoReturn:
    raise RecipeError(
        f"{name!r} gives no model",
        seen=seen,
        expected="package.module:factory, where factory() returns a torch.nn.Module, or package.module:model",
        advice=advice,
    ) from cause


def line_of(error: BaseException) -> str:
    """Return what an error says, in one line of bearable length."""
    return shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")


def signature_of(function: Any) -> Signature:
    """Return the arguments of a function; any, where nothing is known."""
    try:
        return signature(function)
    except ValueError:  # built in: nothing is known
        return Signature([Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)])


def doubled(example: Example) -> list[Example]:
    """Return a batch of one twice over: one sample cannot be told from an axis that is broadcast."""
    values = list(example.values() if isinstance(example, Mapping) else example)
    if not values or not all(isinstance(value, Tensor) and value.shape[:1] == (1,) for value in values):
        return []
    pairs = [torch.cat([value, value]) for value in values]
    return [dict(zip(example, pairs, strict=True)) if isinstance(example, Mapping) else tuple(pairs)]
