"""The other answers to what a model asks about data: `if h.amax() > 5`, `if x.shape[1] > 8` are traced both ways."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Hashable
from types import CodeType, FrameType

__all__ = ["Place", "Turns", "place_of_question"]

# What these ask leads to other code for the same function: other kernels, masks that are left out.
_ASIDE = ("torch.", "growkit.structure.", "transformers.masking_utils", "transformers.integrations.")
_PASSING_ON = {f"growkit.structure.{name}" for name in ("turns", "sizes", "calls", "tracer")}
_MOST = 16

# An instruction in a piece of code.
Place = tuple[CodeType, int]


class Turns:
    """Which answers a model got to its questions about values and sizes of data, and which it is to get instead.

    A question is a place in the code. A turned pass gives the other answer to whoever asks there, as often as the
    question was asked before: loops end, and questions that come up behind it are turned in their turn.
    """

    def __init__(self) -> None:
        # By place: the answer that each module got, each time it asked; and what was turned for it to be asked at all.
        self._answers: dict[Place, dict[tuple[Hashable, int], bool]] = {}
        self._behind: dict[Place, tuple[Place, ...]] = {}
        self._tried: set[Place] = set()
        self._turned: tuple[Place, ...] = ()
        self._asked: Counter[tuple[Place, Hashable]] = Counter()

    def next(self) -> bool:
        """Choose a question to turn in the pass to come; say whether there is one left."""
        place = next((place for place in self._answers if place not in self._tried), None)
        self._asked.clear()
        self._turned = ()
        if place is None or len(self._tried) >= _MOST:
            return False
        self._tried.add(place)
        self._turned = (*self._behind[place], place)
        return True

    def answer(self, place: Place, module: Hashable, given: bool) -> bool:
        """Return the answer to a question at a place in the code, which is the one given but where it is turned."""
        asker = module, self._asked[place, module]
        self._asked[place, module] += 1
        self._behind.setdefault(place, self._turned)
        answers = self._answers.setdefault(place, {})
        if place in self._turned and asker in answers:
            return not answers[asker]
        return answers.setdefault(asker, given)


def place_of_question() -> Place | None:
    """Return where the code under way asks; None if a library does, whose questions lead nowhere else."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in _PASSING_ON:
        frame = frame.f_back
    if frame is None or str(frame.f_globals.get("__name__")).startswith(_ASIDE):
        return None
    return frame.f_code, frame.f_lasti
