"""Measure how much longer a forward pass takes with more units."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

import growkit
from growkit_plugins.knapsack.limits import Limit

__all__ = ["added_seconds", "limit_latency", "repeated", "time_in_turn"]

_RESOLUTION = 1e-9  # seconds: what the clock counts in


def limit_latency(
    candidates: Sequence[growkit.Candidate],
    context: growkit.Context,
    most: Callable[[float], float],
    *,
    samples: int | None,
    repeats: int,
) -> Limit:
    """Measure what each candidate adds to a forward pass, and limit the sum.

    Each width is doubled in a copy of the model (every unit copied once, which any width allows), each block inserted
    in one, and the copy timed in turn with the model as it is. A unit costs its share of the difference.

    Args:
        candidates: whose widths and blocks to measure.
        context: its example is what is passed forward, its private model what is timed.
        most: returns how many seconds the model may take, given how many it takes.
        samples: see `repeated`.
        repeats: how often to time each pass.

    Returns:
        The limit, in seconds. Its total is the time of the model as it is plus what the candidates add: an estimate.

    Raises:
        PluginError: the model does not run on so many samples.

    Cost: for each width or block a copy of the model, a trace, and `2 * repeats + 2` forward passes.
    """
    structure = context.structure
    example = repeated(context.example, samples)
    _check_samples(context.model, example, samples)
    timings: dict[Any, tuple[list[float], list[float]]] = {}
    costs = []
    for candidate in candidates:
        edit = candidate.edit
        key, units = (edit, 1) if isinstance(edit, growkit.Deepen) else (edit.width, structure[edit.width].size)
        if key not in timings:
            timings[key] = _compare(context, _trial(edit, structure), example, repeats)
        added = 1 if isinstance(edit, growkit.Deepen) else edit.new_size(0)
        costs.append(added * added_seconds(*timings[key]) / units)
    now = median(chain.from_iterable(before for before, _ in timings.values())) if timings else 0.0
    return Limit(np.array(costs), most(now), lambda chosen: now + math.fsum(costs[number] for number in chosen))


def added_seconds(before: Sequence[float], after: Sequence[float]) -> float:
    """Return by how much the median rose, but at least what the noise could hide, and a nanosecond.

    The noise is the median distance from the median, of both together: the difference of two layers that cost less
    than that cannot be told, and they count alike.

    Args:
        before: seconds of each pass without the change.
        after: seconds of each pass with it.
    """
    noise = sum(median(abs(seconds - median(series)) for seconds in series) for series in (before, after))
    return max(median(after) - median(before), noise, _RESOLUTION)


def time_in_turn(
    passes: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Time several passes in turn, so that whatever slows the machine down for a while slows all of them down.

    Args:
        passes: run once each to warm up, then `repeats` times.
        repeats: at least 1.
        clock: returns seconds, once everything that was begun is done.

    Returns:
        The seconds of each pass, by pass.
    """
    for run in passes:
        run()
    seconds: list[list[float]] = [[] for _ in passes]
    for _ in range(repeats):
        for run, found in zip(passes, seconds, strict=True):
            start = clock()
            run()
            found.append(clock() - start)
    return seconds


def repeated(example: Any, samples: int | None) -> Any:
    """Return the example with its samples repeated until there are so many.

    Args:
        example: a tuple of positional or a dict of keyword inputs. Samples lie along the first axis of every tensor
            that is as long there as the first one, as growkit counts FLOPs per sample.
        samples: how many; None for the example as it is.
    """
    if samples is None:
        return example
    length = len(next(leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor) and leaf.dim() > 0))
    index = torch.arange(samples) % length

    def repeat(leaf: Any) -> Any:
        held = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == length
        return leaf[index.to(leaf.device)] if held else leaf

    return tree_map(repeat, example)


def _trial(edit: growkit.Edit, structure: growkit.Structure) -> growkit.Edit:
    """Return what to make of a copy in order to see what such an edit costs."""
    if isinstance(edit, growkit.Deepen):
        return edit
    width = structure[edit.width]
    return growkit.Widen(width.name, copies=tuple(range(width.size)), output=width.open_ended is not None)


def _forward(model: nn.Module, example: Any) -> Any:
    return model(**example) if isinstance(example, Mapping) else model(*example)


def _check_samples(model: nn.Module, example: Any, samples: int | None) -> None:
    try:
        with torch.no_grad():
            _forward(model, example)
    except Exception as error:
        raise growkit.PluginError(
            f"cannot run the model on {samples or 'the'} samples to measure latency",
            seen=f"{type(error).__name__}: {error}",
            expected="a model that takes any number of samples, along the first axis of its inputs",
            advice="leave `samples` out: then the example is measured as it is",
        ) from error


def _compare(
    context: growkit.Context, edit: growkit.Edit, example: Any, repeats: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of each pass without and with an edit."""
    grown = copy.deepcopy(context.model)
    growkit.apply(grown, edit, example=context.example)
    device = next(grown.parameters()).device

    def clock() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    # growkit watches every operation of a hook; that takes longer than some operations themselves.
    with torch.no_grad(), _disable_current_modes():
        before, after = time_in_turn(
            [partial(_forward, context.model, example), partial(_forward, grown, example)], repeats, clock
        )
    return before, after
