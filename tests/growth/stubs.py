"""Plugins that do as they are told, and the shortest way to one growth event on a plain model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

import growkit
from growkit.growth import grow
from growkit.plugins import Plugins


class Proposes(growkit.Plugin):
    """Proposes the same candidates at every event; notes the contexts it was asked in."""

    def __init__(self, *candidates: growkit.Candidate, name: str = "proposes") -> None:
        self.candidates, self._name, self.contexts = candidates, name, []

    @property
    def name(self) -> str:
        return self._name

    @growkit.hookimpl
    def growkit_propose(self, context):
        self.contexts.append(context)
        return list(self.candidates)


class Asks(growkit.Plugin):
    """Proposes what a function makes of the context."""

    def __init__(self, ask: Callable[[growkit.Context], Any], name: str = "asks") -> None:
        self._ask, self._name = ask, name

    @property
    def name(self) -> str:
        return self._name

    @growkit.hookimpl
    def growkit_propose(self, context):
        return self._ask(context)


class Selects(growkit.Plugin):
    """Chooses what a function makes of the candidates, the budget and the context."""

    def __init__(self, choose: Callable[..., Any], name: str = "selects") -> None:
        self._choose, self._name = choose, name

    @property
    def name(self) -> str:
        return self._name

    @growkit.hookimpl
    def growkit_select(self, candidates, budget, context):
        return self._choose(candidates, budget, context)


class Follows(growkit.Plugin):
    """Does something after every event."""

    def __init__(self, follow: Callable[[growkit.Event, nn.Module], None], name: str = "follows") -> None:
        self._follow, self._name = follow, name

    @property
    def name(self) -> str:
        return self._name

    @growkit.hookimpl
    def growkit_grown(self, event, model):
        self._follow(event, model)


def widen(width: str, *copies: int, new: int = 0, gain: float = 0.0, **offsets: Tensor) -> growkit.Candidate:
    """A candidate; offsets are named with "__" for the dot, as in `weight__0` for "0.weight"."""
    edit = growkit.Widen(width, copies=copies, new=new)
    return growkit.Candidate(edit, gain, {_parameter(key): offset for key, offset in offsets.items()})


def _parameter(key: str) -> str:
    kind, _, module = key.partition("__")
    return f"{module}.{kind}"


def event(
    model: nn.Module,
    *plugins: growkit.Plugin,
    example: tuple[Tensor, ...],
    optimizers: Sequence[Optimizer] = (),
    budget: growkit.Budget | None = None,
    journal: growkit.Journal | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    batches: Iterable[Any] = (),
) -> growkit.Event | None:
    """Run one growth event on a plain model, at step 7 of epoch 2."""
    context = growkit.Context(
        growkit.trace(model, *example),
        growkit.Journal() if journal is None else journal,
        example=example,
        step=7,
        epoch=2,
        seed=3,
        loss=loss or (lambda model, batch: model(batch).square().mean()),
        batches=lambda count: list(batches)[:count],
    )
    return grow(context, Plugins(plugins), budget or growkit.Budget(), optimizers=optimizers)


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers with an activation between each two; layer i is module 2 i. Double precision."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1]).double()


def take_steps(model: nn.Module, optimizer: Optimizer, batch: Tensor, count: int = 3) -> list[float]:
    """Train on one batch, so that the optimizer has state and the parameters have gradients."""
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def works(action: Callable[[], Any]) -> bool:
    """Whether an action works; if not, growkit must refuse it with a complete message."""
    try:
        action()
    except growkit.GrowkitError as error:
        if not has_four_parts(error):
            raise
        return False
    return True


def has_four_parts(error: BaseException) -> bool:
    """Whether the message of an error of growkit says what failed, what was seen, what was expected, what to do."""
    if not isinstance(error, growkit.GrowkitError):
        return False
    parts = (error.what, error.seen, error.expected, error.advice)
    return all(isinstance(part, str) and part.strip() and part in str(error) for part in parts)
