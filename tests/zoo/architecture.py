"""What the zoo knows of an architecture: how to build it, inputs for it, and what must be growable in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

Inputs = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A network as people write it, in miniature.

    Attributes:
        name: unique in the zoo.
        build: makes the network with its usual random initialisation, in float32; draws from the global generator only.
        inputs: makes example inputs for a batch size, float32 where they are real: a tuple of positional or a dict of
            keyword inputs. Draws from the global generator only.
        grows: axes that belong to a width that can grow, as "parameter[axis]" by qualified parameter name.
        stuck: axes that cannot grow, each with a regular expression that the reason must match.
        batches: batch sizes with which the inputs work.
        longer: makes inputs of another length, height or width than `inputs`, where the network takes them.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    grows: tuple[str, ...] = ()
    stuck: Mapping[str, str] = field(default_factory=dict)
    batches: tuple[int, ...] = (2, 3)
    longer: Callable[[int], Inputs] | None = None

    def __str__(self) -> str:
        return self.name
