"""Names of widths: that of the first module that makes the units, else something near it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

__all__ = ["free_name"]


def free_name(pieces: Sequence[tuple[str, int]], taken: set[str], hidden: Sequence[str]) -> str:
    """Return the module of the first slice, else its parameter, else that with the axis and primes behind it.

    Args:
        pieces: parameter and axis of each slice of the width, at least one.
        taken: names of other widths.
        hidden: containers that were put in place of a module; what stands first in them keeps its former name.
    """
    known = [(_former(parameter, hidden), axis) for parameter, axis in pieces]
    names = [known[0][0].rpartition(".")[0] or known[0][0]]
    for parameter, axis in known:
        names += [parameter] * (axis == 0) + [f"{parameter}[{axis}]"]
    for primes in itertools.count():
        for name in names if not primes else names[2:] or names[-1:]:
            if name + "'" * primes not in taken:
                return name + "'" * primes
    raise AssertionError("there is always one more prime")


def _former(parameter: str, hidden: Sequence[str]) -> str:
    for container in reversed(hidden):
        if parameter.startswith(f"{container}.0."):
            parameter = container + parameter[len(container) + 2 :]
    return parameter
