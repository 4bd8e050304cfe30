"""Which widths may run through parameters that the example did not reach."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature

from torch import nn

from growkit.structure.dimensions import Symbol, leaves
from growkit.structure.forward import Example
from growkit.structure.roles import Axis

__all__ = ["leaves_choices", "suspects"]

_Axes = Mapping[str, Sequence[Axis]]


def leaves_choices(model: nn.Module, example: Example) -> bool:
    """Say whether a model takes inputs that the example does not give, or flags, so that others may lead elsewhere."""
    try:
        known = signature(model.forward)
        bound = known.bind(**example) if isinstance(example, Mapping) else known.bind(*example)
    except (TypeError, ValueError):
        return True
    given = bound.arguments
    several = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    missing = any(name not in given for name, p in known.parameters.items() if p.kind not in several)
    return missing or any(value is None or isinstance(value, (bool, int, str)) for value in given.values())


def suspects(name: str, shape: Sequence[int], axes: _Axes) -> set[Symbol]:
    """Return the widths that may run through a parameter that was not reached.

    If a parameter at the same place in another entry of a list was reached, as that of another expert, they are those
    that this one shares with the rest of the model; else all whose size is one of the parameter's, or divides it, and
    those of layers of the same shape beside it.

    Args:
        name: of the parameter.
        shape: of the parameter.
        axes: of the parameters that were reached.
    """
    alike = [other for other in axes if _place(other) == _place(name) and len(axes[other]) == len(shape)]
    if alike:
        like = max(alike, key=lambda other: _common(name, other))
        entry = _entry(like, name)
        rest = {other: found for other, found in axes.items() if not other.startswith(entry)}
        return _symbols({like: axes[like]}) & _symbols(rest)
    symbols = {symbol for symbol in _symbols(axes) if symbol.size > 1}
    found: set[Symbol] = set()
    for size in shape:
        equal = {symbol for symbol in symbols if symbol.size == size}
        # Where no width has just this size, it may be a multiple, as behind a flatten.
        found |= equal or {symbol for symbol in symbols if size and size % symbol.size == 0}
    for other, reached in axes.items():
        if _are_siblings(name, other) and [axis.expr.size for axis in reached] == list(shape):
            found |= symbols & _symbols({other: reached})
    return found


def _are_siblings(name: str, other: str) -> bool:
    """Say whether two names differ in one of their last two parts only: layers side by side, as of query and key."""
    one, two = name.split("."), other.split(".")
    return len(one) == len(two) and one[:-2] == two[:-2] and (one[-2:-1] == two[-2:-1] or one[-1] == two[-1])


def _place(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _common(name: str, other: str) -> int:
    """Return how many parts in front two names have in common."""
    return next((n for n, (a, b) in enumerate(zip(name.split("."), other.split("."), strict=True)) if a != b), 0)


def _entry(name: str, other: str) -> str:
    """Return the part of a name up to where it first differs from another one at the same place: "experts.3."."""
    return ".".join(name.split(".")[: _common(name, other) + 1]) + "."


def _symbols(axes: _Axes) -> set[Symbol]:
    return {symbol for found in axes.values() for axis in found for symbol in leaves(axis.expr)}
