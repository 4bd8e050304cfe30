"""Replace a method of one object for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["override"]


def override(instance: Any, **methods: Callable[..., Any]) -> Callable[[], None]:
    """Replace methods of one object, and return a function that puts back what was there."""
    before = {name: vars(instance).get(name) for name in methods}
    vars(instance).update(methods)

    def undo() -> None:
        for name, method in before.items():
            vars(instance).pop(name, None)
            if method is not None:
                vars(instance)[name] = method

    return undo
