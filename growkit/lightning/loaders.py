"""Training loaders that know where they stand, so that a run resumes in the middle of an epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from growkit import randomness
from growkit.lightning.override import override

__all__ = ["follow_loaders"]

Position = Callable[[], int | None]


def follow_loaders(trainer: pl.Trainer, states: list[dict[str, Any]]) -> Callable[[], None]:
    """Let the training loaders of a trainer be saved in the middle of an epoch.

    What is no `DataLoader`, or has a state of its own, stays as it is. Lightning saves the state of the others with
    that of its loops, but restores it in the middle of an epoch only.

    Args:
        trainer: about to fit.
        states: of the loaders of an interrupted run, taken out as the loaders are made.

    Returns:
        A function that undoes it.
    """
    prepare = trainer.strategy.process_dataloader
    twins: list[Any] = []

    def position() -> int | None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        # A batch that a failure broke off has begun, and will be trained on again.
        done, begun = progress.current.processed, progress.current.ready  # type: ignore[attr-defined]
        return None if progress.is_last_batch and done == begun else done

    def process_dataloader(loader: object) -> object:
        loader = prepare(loader)
        if not trainer.training or not isinstance(loader, DataLoader) or hasattr(loader, "state_dict"):
            return loader
        twin = _resumable(loader, position)
        if states:
            twin.load_state_dict(states.pop(0))
        twins.append(twin)
        return twin

    put_back = override(trainer.strategy, process_dataloader=process_dataloader)

    def undo() -> None:
        put_back()
        for twin in twins:
            twin._walk = None  # holds worker processes

    return undo


def _resumable(loader: Any, position: Position) -> Any:
    """Return a twin of a loader whose class has a state besides, by which Lightning knows that it can go on.

    The two share their attributes: what the user sets on the loader counts.
    """
    kind = type(loader)
    twin: Any = object.__new__(type(kind.__name__, (_Resumable, kind), {"__module__": kind.__module__}))
    twin.__dict__ = vars(loader)
    twin._position, twin._walk, twin._restored = position, None, None
    return twin


class _Resumable:
    """Mixed into the class of a loader.

    The order of the batches is drawn from random generators: the global ones, or those of the loader and its sampler.
    So their state at the start of an epoch, and the number of batches taken, say where the loader stands. A restored
    loader draws the same order again and loads the batches before that place once more, so that worker processes, too,
    are as they were.

    Cost: the state of the global generators (10 kB) an epoch; on resuming, the loading of the batches before.
    """

    __slots__ = ("_position", "_restored", "_walk")

    _position: Position
    _walk: _Walk | None
    _restored: dict[str, Any] | None  # the place in an epoch to go on at, empty for the start of one

    def __iter__(self) -> Iterator[Any]:
        """Start an epoch, or go on with the one that was restored."""
        restored, self._restored = self._restored, None
        if self._walk is not None:
            self._walk.end()
        self._walk = _Walk(self, super().__iter__, restored)  # type: ignore[misc]
        return self._walk

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader stands: plain data and tensors."""
        trained = self._position()
        walk = {} if self._walk is None or trained is None else self._walk.state_dict(trained)
        return {"generators": [generator.get_state() for generator in _generators(self)], "walk": walk}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned; the next iteration goes on from there."""
        _set(self, state["generators"])
        self._restored = state["walk"]


class _Walk(Iterator[Any]):
    """One pass over a loader.

    Args:
        loader: whose batches they are.
        start: begins a pass of the loader as it was written.
        restored: where to go on, see `state_dict`; empty to start as late as can be, None to start at once.
    """

    def __init__(self, loader: Any, start: Callable[[], Iterator[Any]], restored: dict[str, Any] | None) -> None:
        self._loader, self._start, self._restored = loader, start, restored
        self._taken = 0
        self._waiting: deque[Any] = deque()
        self._batches: Iterator[Any] | None = None
        # Samplers draw the order of an epoch only when the first batch is taken, workers of a loader at once.
        self._created: dict[str, Any] | None = None
        self._begun: dict[str, Any] | None = None
        if restored is None:
            self._create()

    def __next__(self) -> Any:
        if self._batches is None:
            # A resumed run asks for the iterator before it validates and tells samplers the epoch; the whole one after.
            self._catch_up(self._restored) if self._restored else self._create()
        if self._begun is None:
            self._begun = _capture(self._loader)
        assert self._batches is not None
        batch = self._waiting.popleft() if self._waiting else next(self._batches)
        self._taken += 1
        return batch

    def end(self) -> None:
        """Undo what was drawn for an epoch that never came: Lightning may take a batch before it asks for the next one.

        The global generators are set back when the resumed run starts.
        """
        if self._restored == {} and self._created is not None and self._taken <= 1:
            _set(self._loader, self._created["generators"])

    def state_dict(self, trained: int) -> dict[str, Any]:
        """Return the place: the first `trained` batches are done with, further ones may have been taken."""
        if self._begun is None:
            return self._restored or {}
        return {"created": self._created, "begun": self._begun, "taken": self._taken, "trained": trained}

    def _create(self) -> None:
        self._created = _capture(self._loader)
        self._batches = self._start()

    def _catch_up(self, state: dict[str, Any]) -> None:
        self._created, self._begun, self._taken = state["created"], state["begun"], state["trained"]
        with randomness.isolated():
            _restore(self._loader, state["created"])
            self._batches = self._start()
            _restore(self._loader, state["begun"])
            for number in range(state["taken"]):
                batch = next(self._batches)
                if number >= state["trained"]:
                    self._waiting.append(batch)


def _generators(loader: Any) -> list[torch.Generator]:
    """Return the generators that a loader and its samplers draw from, each once."""
    sampler = loader.batch_sampler
    held = (loader, loader.sampler, sampler, getattr(sampler, "sampler", None))
    found = {id(g): g for each in held if isinstance(g := getattr(each, "generator", None), torch.Generator)}
    return list(found.values())


def _capture(loader: Any) -> dict[str, Any]:
    return {"random": randomness.capture(), "generators": [g.get_state() for g in _generators(loader)]}


def _restore(loader: Any, state: dict[str, Any]) -> None:
    randomness.restore(state["random"])
    _set(loader, state["generators"])


def _set(loader: Any, states: list[Tensor]) -> None:
    for generator, state in zip(_generators(loader), states, strict=False):
        generator.set_state(state.cpu())
