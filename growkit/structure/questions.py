"""What the code of a model asks about the way it is run, read from the code itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from growkit.structure.tensors import CONTAINERS, HELD, SIMPLE

__all__ = ["asks_for_gradients", "asks_for_mode", "words_of"]

_MODE = {"training"}
_GRADIENTS = {"is_grad_enabled", "requires_grad", "grad_fn"}

# Their own layers and base classes act alike in both modes, as far as sizes go.
_LIBRARIES = {"builtins", "torch", "pytorch_lightning", "lightning"}

# How many calls away from the model's own code to look.
_CALLS = 4


def words_of(model: nn.Module) -> frozenset[str]:
    """Return the names and strings in all code that a pass of the model may run, but for that of libraries."""
    return frozenset().union(*_words(model))


def asks_for_mode(model: nn.Module, words: Set[str]) -> bool:
    """Say whether some code of the model asks for the mode, so that training may take branches of its own.

    Args:
        model: the model.
        words: see `words_of`.
    """
    return _switches(model) or not words.isdisjoint(_MODE | _GRADIENTS)


def asks_for_gradients(words: Set[str]) -> bool:
    """Say whether some code asks if gradients are recorded."""
    return not words.isdisjoint(_GRADIENTS)


def _switches(model: nn.Module) -> bool:
    """Say whether a module does more on a switch of the mode than torch does, or hides its code."""
    kinds = {type(module) for module in model.modules()}
    return any(
        issubclass(kind, torch.jit.ScriptModule) or any({"train", "eval"} & vars(base).keys() for base in _own(kind))
        for kind in kinds
    )


def _own(kind: type) -> list[type]:
    """Return a class and those of its bases that no library brings."""
    return [base for base in kind.__mro__ if not _is_library(base.__module__)]


def _is_library(module: Any) -> bool:
    return str(module).partition(".")[0] in _LIBRARIES


def _words(model: nn.Module) -> Iterator[frozenset[str]]:
    """Yield the names and strings in each piece of code that a pass may run."""
    modules = list(model.modules())
    seen: set[int] = set()
    near: list[Any] = [*{type(module) for module in modules}, *(own for module in modules for own in _attached(module))]
    for _ in range(_CALLS + 1):
        called: list[Any] = []
        for function in _functions(near, seen):
            names, strings = _words_in(function.__code__)
            yield names | strings
            called += _used(function, names)
        near = called


@functools.lru_cache(maxsize=4096)
def _words_in(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names and the strings in a piece of code and in the functions defined inside it."""
    names, strings = set(code.co_names), set()
    for constant in code.co_consts:
        if isinstance(constant, str):
            strings.add(constant)
        elif isinstance(constant, CodeType):
            inner_names, inner_strings = _words_in(constant)
            names |= inner_names
            strings |= inner_strings
    return frozenset(names), frozenset(strings)


_PLAIN = (bool, int, float, str, list, tuple, dict, set, torch.Tensor, nn.Module, ModuleType, type(None))


def _attached(module: nn.Module) -> Iterator[Any]:
    """Yield what an instance brings beside its class: hooks, functions and helpers."""
    for key, value in vars(module).items():
        kind = type(value)
        if kind in SIMPLE or key in HELD or (kind in CONTAINERS and not value):
            continue  # most attributes, and quickly told
        if isinstance(value, (list, tuple, dict)):
            children = value.values() if isinstance(value, dict) else value
            yield from (child for child in children if callable(child) and not isinstance(child, nn.Module))
        else:
            yield value


def _functions(values: Iterable[Any], seen: set[int]) -> Iterator[FunctionType]:
    """Yield the functions in some objects, each once, but for those of libraries."""
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        seen.add(id(value))
        if isinstance(value, FunctionType) and not _is_library(value.__globals__.get("__name__")):
            yield value
        waiting += _inside(value)


def _inside(value: Any) -> list[Any]:
    """Return the functions that an object stands for: those it wraps, and those of its class."""
    if isinstance(value, type):
        return [member for base in _own(value) for name, member in vars(base).items() if name != "__init__"]
    if isinstance(value, FunctionType):
        return [*map(_content, value.__closure__ or ()), getattr(value, "__wrapped__", None)]
    if isinstance(value, property):
        return [value.fget]
    if isinstance(value, (staticmethod, classmethod, MethodType)):
        return [value.__func__]
    if isinstance(value, (functools.partial, functools.partialmethod)):
        return [value.func, *value.args]
    if isinstance(value, functools.cached_property):
        return [value.func]
    return [type(value), inspect.getattr_static(value, "__wrapped__", None)]


def _content(cell: CellType) -> Any:
    with suppress(ValueError):  # its variable has no value yet
        return cell.cell_contents


def _used(function: FunctionType, names: Iterable[str]) -> list[Any]:
    """Return what a function may call by a global name, or by a name in a module: functions and classes."""
    known = function.__globals__
    found = [known[name] for name in names if name in known]
    for module in [value for value in found if isinstance(value, ModuleType) and not _is_library(value.__name__)]:
        found += [vars(module)[name] for name in names if name in vars(module)]
    return [value for value in found if isinstance(value, (FunctionType, type, functools.partial))]
