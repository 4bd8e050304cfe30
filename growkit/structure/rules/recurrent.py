"""Recurrent layers as a whole: gates lie end to end, the hidden state feeds back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from growkit.structure.dimensions import Expr, Symbol, concat, resolve
from growkit.structure.refine import chop
from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule
from growkit.structure.unify import unify

if TYPE_CHECKING:
    from growkit.structure.tracer import Tracer

aten = torch.ops.aten


@rule(torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
def layers(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Stacked recurrent layers over (time, batch, features), or packed (steps, features); several directions."""
    packed = (
        isinstance(args[1], Tensor) and isinstance(args[2], (tuple, list, Tensor)) and not args[1].is_floating_point()
    )
    x, states, weights = (args[0], args[2], args[3]) if packed else args[:3]
    number, both = (args[5], args[8]) if packed else (args[4], args[7])
    directions = 2 if both else 1
    each = len(weights) // (number * directions)
    cells = [weights[i : i + each] for i in range(0, len(weights), each)]
    projected = func is torch.lstm and each % 2 == 1
    biased = len(cells[0]) - int(projected) == 4
    # All layers and directions have the one hidden size that the module knows.
    hidden, fed_back = Symbol(_hidden_size(cells[0], projected)), Symbol(cells[0][1].shape[1])
    if not projected:
        fed_back = hidden
    inputs = [tracer[x][-1]]
    steps = x.numel() // x.shape[-1]
    for layer in range(number):
        made = []
        for direction in range(directions):
            parts = cells[layer * directions + direction]
            made.append(_cell(tracer, parts, inputs, hidden, fed_back, biased=biased, steps=steps))
        inputs = made
    for state, size in zip(_tensors(states), (fed_back, hidden), strict=False):
        _state(tracer, tracer[state][-1], size)
    _set(tracer, out, tracer[x][:-1], [axis.expr for axis in inputs], (fed_back, hidden))


@rule(torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell)
def cell(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """One step: `input, state(s), W_ih, W_hh, b_ih, b_hh`."""
    x, states, *weights = args
    weights = [weight for weight in weights if isinstance(weight, Tensor)]
    hidden = Symbol(weights[1].shape[1])
    steps = x.numel() // x.shape[-1]
    made = _cell(tracer, weights, [tracer[x][-1]], hidden, hidden, biased=len(weights) == 4, steps=steps)
    for state in _tensors(states):
        _state(tracer, tracer[state][-1], hidden)
    for result in _tensors(out):
        tracer[result] = [*tracer[x][:-1], made]


def _tensors(states: Any) -> list[Tensor]:
    return list(states) if isinstance(states, (tuple, list)) else [states]


def _hidden_size(weights: Sequence[Tensor], projected: bool) -> int:
    return int(weights[-1].shape[1] if projected else weights[1].shape[1])


def _cell(
    tracer: Tracer,
    weights: Sequence[Tensor],
    inputs: list[Axis],
    hidden: Symbol,
    fed_back: Symbol,
    *,
    biased: bool,
    steps: int,
) -> Axis:
    """Relate the weights of one layer in one direction; return the features it puts out."""
    gates = weights[0].shape[0] // hidden.size
    for weight in weights[: 4 if biased else 2]:
        rows = tracer[weight][0]
        gate = chop(rows.expr, gates, tracer.where)
        if gate is not None:
            unify(gate, hidden, tracer.where)
        tracer.constrain("copies", rows)
    received = Axis(concat(axis.expr for axis in inputs))
    offset = 0
    for axis in inputs:
        tracer.piece(axis, received, offset)
        offset += axis.expr.size
    tracer.contract(received, tracer[weights[0]][1])
    result, state = Axis(fed_back), Axis(hidden)
    tracer.constrain("copies", result)
    tracer.constrain("copies", state)
    tracer.contract(result, tracer[weights[1]][1])
    if fed_back is not hidden:
        features, units = tracer[weights[-1]]
        tracer.same(result, features)
        tracer.contract(state, units)
        tracer.work.append((2.0 * steps * weights[-1].numel(), (result, state)))
    tracer.work.append((2.0 * steps * weights[0].numel(), (received, state)))
    tracer.work.append((2.0 * steps * weights[1].numel(), (result, state)))
    return result


def _state(tracer: Tracer, axis: Axis, size: Symbol) -> None:
    unify(axis.expr, size, tracer.where)
    tracer.constrain("copies", axis)


def _set(tracer: Tracer, out: Any, kept: list[Axis], features: list[Expr], states: tuple[Symbol, Symbol]) -> None:
    result, *last = out
    joined = Axis(concat(map(resolve, features)))
    tracer.constrain("copies", joined)
    tracer[result] = [*kept, joined]
    for tensor, size in zip(last, states, strict=False):
        state = Axis(resolve(size))
        tracer.constrain("copies", state)
        tracer[tensor] = [*(tracer.made(n) for n in tensor.shape[:-1]), state]


@rule(aten._pack_padded_sequence)
def pack(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Leave the padding out: time and batch become one axis of steps."""
    data, counts = out
    tracer[data] = [tracer.made(data.shape[0]), *tracer[args[0]][2:]]
    tracer[counts] = [tracer.made(counts.shape[0])]


@rule(aten._pad_packed_sequence)
def unpack(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Lay steps out by time and batch again."""
    data, lengths = out
    tracer[data] = [*(tracer.made(n) for n in data.shape[:2]), *tracer[args[0]][1:]]
    tracer[lengths] = [tracer.made(lengths.shape[0])]
