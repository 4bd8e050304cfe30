"""The state of growth in a checkpoint: plain data and tensors, in a format of its own that outlives versions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, NotRequired, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from growkit.errors import CheckpointError, SurgeryError
from growkit.growth import Rewarm
from growkit.structure.forward import Example
from growkit.surgery import Journal

__all__ = ["STATE_KEY", "Layout", "Parts", "check_plain", "pack", "short", "unpack"]

STATE_KEY = "growkit.Growth"
_FORMAT = 2
_LONG = 400  # characters; more of a damaged value are no help in a message

Layout = list[list[list[str]]]  # names, by optimizer and group


class Parts(TypedDict):
    """What a resumed run needs to grow like an uninterrupted one.

    Attributes:
        journal: every edit so far.
        example: inputs for the trace; None before the first batch.
        random_states: of the global generators, one a process.
        schedule: state of the schedule.
        plugins: states of the plugins, by name.
        layout: names of the parameters in each group of each optimizer.
        grown_at: step of the last growth event, or -1.
        metrics: logged so far, by name.
        gradients: of a step under way, by name of the parameter.
        pending: what is still to come of the current step and epoch.
        rewarm: state of the learning rates that warm up again after growth, or None.
    """

    journal: Journal
    example: Example | None
    random_states: list[dict[str, Any]]
    schedule: dict[str, Any]
    plugins: dict[str, dict[str, Any]]
    layout: Layout
    grown_at: int
    metrics: NotRequired[dict[str, Tensor]]
    gradients: NotRequired[dict[str, Tensor]]
    pending: NotRequired[dict[str, Any]]
    rewarm: NotRequired[dict[str, Any] | None]


def pack(**parts: Unpack[Parts]) -> dict[str, Any]:
    """Return the state of growth as plain data and tensors, so that it loads with `weights_only=True`."""
    example = parts["example"]
    plain = {
        "format": _FORMAT,
        "journal": parts["journal"].to_json(),
        "example": dict(example) if isinstance(example, Mapping) else example,
    }
    return {**_unless_given(), **parts, **plain}


def unpack(state: Any) -> dict[str, Any]:
    """Check what `pack` made, now or in an earlier version, and return it with the journal read.

    Raises:
        CheckpointError: a later format, or parts are missing or damaged.
    """
    version = state.get("format") if isinstance(state, dict) else None
    if type(version) is not int or version < 1:
        seen = f"format {_shown(version)}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise _unreadable(seen, "a damaged file must be saved again")
    if version > _FORMAT:
        raise _unreadable(f"format {_shown(version)}", "a later growkit wrote it: load it with that one")
    if version == 1:
        state = _from_format_1(state)
    if missing := _CHECKS.keys() - state.keys():
        raise _unreadable(f"no {', '.join(sorted(missing))}", "a damaged file must be saved again")
    for part, (expected, fits) in _CHECKS.items():
        if not _holds(fits, state[part]):
            raise CheckpointError(
                f"the checkpoint holds a state of growth whose {part!r} is damaged",
                seen=f"{_shown(state[part])}, a {type(state[part]).__name__}",
                expected=expected,
                advice="a damaged file must be saved again",
            )
    try:
        journal = Journal.from_json(state["journal"])
    except SurgeryError as error:
        raise _unreadable(f"a journal with {error.seen}", "a damaged file must be saved again") from error
    if len(journal) and state["example"] is None:
        raise _unreadable("a journal without an example", "a damaged file must be saved again")
    return {**state, "journal": journal}


def check_plain(example: Any) -> None:
    """Refuse an example that a checkpoint could hold, but that could not be loaded from it again.

    Raises:
        CheckpointError: it is not plain data and tensors.

    Cost: a save of the example to memory.
    """
    if _is_plain(culprit := dict(example) if isinstance(example, Mapping) else example):
        return
    while (inner := next((child for child in _children(culprit) if not _is_plain(child)), None)) is not None:
        culprit = inner
    raise CheckpointError(
        "checkpoints could not be loaded again with the example that growth takes from the batches",
        seen=f"an object of the class {type(culprit).__module__}.{type(culprit).__qualname__}",
        expected="tensors, numbers, text, and lists, tuples and dicts of them",
        advice="pass Growth(example=function of a batch), or allow it with torch.serialization.add_safe_globals",
    )


def short(text: str) -> str:
    """Return a text in one line of bearable length."""
    line = " ".join(text[: 2 * _LONG].split())
    return line if len(line) <= _LONG else line[:_LONG] + " ..."


def _shown(value: Any) -> str:
    try:
        return short(repr(value))
    except Exception:  # nested without end, or a number with more digits than Python writes
        return "something that cannot be shown"


def _unreadable(seen: str, advice: str) -> CheckpointError:
    return CheckpointError(
        "the checkpoint holds a state of growth that this growkit cannot read",
        seen=short(seen),
        expected=f"format {_FORMAT} or earlier, whole",
        advice=advice,
    )


def _unless_given() -> dict[str, Any]:
    return {"metrics": {}, "gradients": {}, "pending": {}, "rewarm": None}


def _from_format_1(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of 0.1, which knew one process and nothing of a step under way, in the format of today."""
    states = {"random_states": [state["random_state"]]} if "random_state" in state else {}
    kept = {part: value for part, value in state.items() if part != "random_state"}
    return {**_unless_given(), **kept, **states, "format": _FORMAT}


def _is_plain(value: Any) -> bool:
    file = BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # whatever pickling an object raises
        return False
    return True


def _children(value: Any) -> list[Any]:
    """Return the entries of a container whose own class is plain."""
    if type(value) is dict:
        return [*value, *value.values()]
    return list(value) if type(value) in (list, tuple, set) else []


# ------------------------------------------------------------------ what the parts must be


def _holds(fits: Callable[[Any], bool], value: Any) -> bool:
    try:
        return fits(value)
    except RecursionError:  # nested without end
        return False


def _is_named(value: Any, *kinds: type) -> bool:
    """Say whether a value is a dict by name, its entries of some kinds, and tensors whole."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(entry, kinds) and _is_whole(entry) for name, entry in value.items()
    )


def _is_whole(value: Any) -> bool:
    """Say whether a tensor has all its data; one that repeats them could fill any memory once it is copied."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return True
    return not value.is_meta and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _is_example(value: Any) -> bool:
    inputs = value is None or isinstance(value, (tuple, list)) or _is_named(value, object)
    return inputs and all(map(_is_whole, tree_leaves(value)))


def _is_list(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(fits, value))


def _is_layout(value: Any) -> bool:
    return _is_list(value, lambda groups: _is_list(groups, lambda names: _is_list(names, _is_text)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_random_state(value: Any) -> bool:
    """Say whether generators take a state; asked are generators of our own."""
    try:
        version, words, gauss = value["python"]
        random.Random().setstate((version, tuple(words), gauss))
        algorithm, keys, position, has_gauss, cached = value["numpy"]
        np.random.RandomState().set_state((algorithm, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        torch.Generator().set_state(value["torch"])
        # NumPy believes any position, and reads there.
        known = 0 <= position <= len(keys) and isinstance(cached, float) and isinstance(gauss, (float, type(None)))
    except Exception:  # whatever generators make of it
        return False
    return known and _is_list(value["cuda"], lambda state: isinstance(state, Tensor) and state.dtype == torch.uint8)


def _is_ramp(value: Any) -> bool:
    if value is None:
        return True
    try:
        Rewarm(value["steps"], value["start"])
        return type(value["steps"]) is int and _is_list(value["taken"], lambda steps: type(steps) is int and steps >= 0)
    except (KeyError, IndexError, TypeError, ValueError):
        return False


_NAMED = "a dict by name"
_PENDING = {"epoch", "batch", "validation", "step", "last"}
_CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "journal": ("text", _is_text),
    "example": ("None, or the inputs of forward by position or by name", _is_example),
    "random_states": (
        "states of the generators of Python, NumPy, torch and CUDA, one a process",
        lambda value: _is_list(value, _is_random_state) and bool(value),
    ),
    "schedule": (_NAMED, lambda value: _is_named(value, object)),
    "plugins": ("dicts by name", lambda value: _is_named(value, dict)),
    "layout": ("names of parameters by optimizer and group", _is_layout),
    "grown_at": ("a step", lambda value: type(value) is int),
    "metrics": (
        "tensors with one number each, by name",
        lambda value: _is_named(value, Tensor) and all(metric.numel() == 1 for metric in value.values()),
    ),
    "gradients": ("tensors by name", lambda value: _is_named(value, Tensor)),
    "pending": (
        f"nothing, or numbers for {', '.join(sorted(_PENDING))}",
        lambda value: _is_named(value, int) and value.keys() in (set(), _PENDING),
    ),
    "rewarm": ("None, or steps, start and what each optimizer has taken of them", _is_ramp),
}
