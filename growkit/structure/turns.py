"""The other answers to what a model asks about data: `if h.amax() > 5`, `if x.shape[1] > 8` are traced both ways."""

from __future__ import annotations

import dis
import logging
import math
import sys
import warnings
from collections import Counter
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from types import CodeType, FrameType
from typing import Any, NoReturn

__all__ = ["Budget", "Place", "Turns", "Exhausted", "compares", "out_of_sight", "place_of_question"]

# What these ask leads to other code for the same function: other kernels, masks that are left out.
_ASIDE = ("torch", "einops", "growkit.structure", "transformers.masking_utils", "transformers.integrations")
_PASSING_ON = {"torch.overrides", "torch._tensor"}
_PASSING_ON |= {f"growkit.structure.{name}" for name in ("turns", "sizes", "calls", "tracer")}
_MOST_TURNS = 32

# An instruction in a piece of code.
Place = tuple[CodeType, int]


class Turns:
    """Which answers a model got to its questions about values and sizes of data, and which it is to get instead.

    A question is a place in the code. A turned pass gives the other answer to whoever asks there, as often as the
    question was asked before: loops end, and questions that come up behind it are turned in their turn.

    Attributes:
        lost: questions whose turned passes failed.
        budget: of turned passes.

    Args:
        lost: questions that are not to be turned.
    """

    def __init__(self, lost: Collection[Place] = ()) -> None:
        # By place: the answer that each module got, each time it asked; and what was turned for it to be asked at all.
        self._answers: dict[Place, dict[tuple[Hashable, int], bool]] = {}
        self._behind: dict[Place, tuple[Place, ...]] = {}
        self._tried: set[Place] = set(lost)
        self._turned: tuple[Place, ...] = ()
        self._asked: Counter[tuple[Place, Hashable]] = Counter()
        self.lost: list[Place] = []
        self.budget = Budget()

    def next(self) -> bool:
        """Choose a question to turn in the pass to come; say whether there is one left."""
        self.budget.end(turned=bool(self._turned))
        place = next((place for place in self._answers if place not in self._tried), None)
        self._asked.clear()
        self._turned = ()
        if place is None or len(self._tried) >= _MOST_TURNS:
            return False
        self._tried.add(place)
        self._turned = (*self._behind[place], place)
        self.budget.limit()
        return True

    def lose(self) -> None:
        """Note that the turned pass failed."""
        self.lost.append(self._turned[-1])

    def answer(self, place: Place, module: Hashable, given: bool) -> bool:
        """Return the answer to a question at a place in the code, which is the one given but where it is turned."""
        self.budget.spend(1)
        asker = module, self._asked[place, module]
        self._asked[place, module] += 1
        self._behind.setdefault(place, self._turned)
        answers = self._answers.setdefault(place, {})
        if place in self._turned and asker in answers:
            return not answers[asker]
        answers.setdefault(asker, given)
        return given


class Exhausted(BaseException):
    """A turned pass goes on for much longer than that of the example, or makes much more."""


class Budget:
    """How far a turned pass may go: the end of a loop is perhaps never met after an answer that is not true."""

    def __init__(self) -> None:
        self._steps = self._numbers = 0
        self._usual_steps = self._usual_numbers = 0
        self._most_steps = self._most_numbers = math.inf

    def spend(self, numbers: int) -> None:
        """Note a step, and how many numbers it makes.

        Raises:
            Exhausted: it was one too many.
        """
        self._steps += 1
        self._numbers = max(self._numbers, numbers)
        if self._steps > self._most_steps or self._numbers > self._most_numbers:
            raise Exhausted

    def end(self, *, turned: bool) -> None:
        """Note that a pass has ended; what was not turned shows what is usual."""
        if not turned:
            self._usual_steps = max(self._usual_steps, self._steps)
            self._usual_numbers = max(self._usual_numbers, self._numbers)
        self._steps = self._numbers = 0
        self._most_steps = self._most_numbers = math.inf

    def limit(self) -> None:
        """Allow the pass to come some times what is usual."""
        self._most_steps, self._most_numbers = 1000 + 4 * self._usual_steps, 2**20 + 16 * self._usual_numbers


@contextmanager
def out_of_sight() -> Iterator[None]:
    """Let nobody hear of what happens after an answer that is not true: prints, warnings, logs, debuggers.

    Other threads of the process are not heard either meanwhile.
    """
    disabled, hook, keyboard = logging.root.manager.disable, sys.breakpointhook, sys.stdin
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sys.breakpointhook, sys.stdin = _stop, StringIO()
            yield
    finally:
        sys.breakpointhook, sys.stdin = hook, keyboard
        logging.disable(disabled)


def _stop(*_: Any, **__: Any) -> NoReturn:
    raise Exhausted


def place_of_question() -> Place | None:
    """Return where the code under way asks; None if a library does, whose questions lead nowhere else."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in _PASSING_ON:
        frame = frame.f_back
    if frame is None or f"{frame.f_globals.get('__name__')}.".startswith(tuple(f"{name}." for name in _ASIDE)):
        return None
    return frame.f_code, frame.f_lasti


def compares(place: Place) -> bool:
    """Say whether an instruction compares, be it with each entry of a constant: `x in (1, 2)`.

    Other equations are those of keys, and a dictionary would be filled with answers that are not true.
    """
    code, at = place[0].co_code, place[1]
    constant = at >= 2 and code[at - 2] == dis.opmap["LOAD_CONST"]
    return code[at] == dis.opmap["COMPARE_OP"] or (code[at] == dis.opmap["CONTAINS_OP"] and constant)
