"""The exceptions of growkit and the one layout of their messages.

Every message has four parts: what failed and where, what was seen, what was expected, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "GrowkitError",
    "PeerError",
    "PluginError",
    "RankError",
    "RecipeError",
    "StructureError",
    "SurgeryError",
    "suggestion",
]


class GrowkitError(Exception):
    """Base of everything growkit raises on purpose.

    Args:
        what: what failed and where, one phrase.
        seen: what was found there.
        expected: what would have been right.
        advice: what the reader can do now.
    """

    def __init__(self, what: str, *, seen: str, expected: str, advice: str) -> None:
        self.what, self.seen, self.expected, self.advice = what, seen, expected, advice
        super().__init__(f"{what}\n  seen:     {seen}\n  expected: {expected}\n  advice:   {advice}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.seen, self.expected, self.advice)


def _rebuild(kind: type[GrowkitError], what: str, seen: str, expected: str, advice: str) -> GrowkitError:
    return kind(what, seen=seen, expected=expected, advice=advice)


class StructureError(GrowkitError):
    """A model could not be traced, or a width was asked for that it does not have."""


class SurgeryError(GrowkitError):
    """An edit could not be made; the model and its optimizers are as they were."""


class PluginError(GrowkitError):
    """A plugin could not be registered, or broke the contract of a hook."""


class RecipeError(GrowkitError):
    """A recipe, or something that it names, could not be found or read."""


class CheckpointError(GrowkitError):
    """A checkpoint could not be read, or does not fit the module it should be loaded into."""


class RankError(GrowkitError):
    """The processes of a data-parallel run disagree, or are out of step; every one of them raises."""


class PeerError(GrowkitError):
    """Another process of a data-parallel run failed, and this one gave up what they were doing together."""


def suggestion(name: str, known: Iterable[str], *, otherwise: str) -> str:
    """Return "did you mean 'x'?" for the nearest known name, or `otherwise` when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else otherwise
