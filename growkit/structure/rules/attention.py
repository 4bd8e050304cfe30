"""Scaled dot product attention as a whole, whichever kernel computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from growkit.structure.dimensions import Symbol, product, require_uniform
from growkit.structure.roles import Axis
from growkit.structure.rules.registry import rule

if TYPE_CHECKING:
    from growkit.structure.tracer import Tracer

aten = torch.ops.aten


@rule(F.scaled_dot_product_attention, aten.scaled_dot_product_attention)
def attention(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """`softmax(q k^T * scale + mask) v` over (..., L, E), (..., S, E), (..., S, V).

    Without a scale, the scores are divided by the square root of E. Copying all keys and values equally often changes
    nothing: each gets its share of the attention.
    """
    query, key, value = (args[i] if len(args) > i else kwargs[name] for i, name in enumerate(("query", "key", "value")))
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    q, k, v = tracer[query], tracer[key], tracer[value]
    tracer.contract(q[-1], k[-1], scores=True, scaled=kwargs.get("scale") is None)
    tracer.unify(k[-2], v[-2])
    tracer.demand(require_uniform, k[-2], "shares its attention out over the units")
    for axis in (k[-2], v[-2], *q[:-1], *k[:-2]):
        tracer.constrain("copies", axis)
    batch = [_meet(tracer, *axes) for axes in zip(q[:-2], k[:-2], v[:-2], strict=True)]
    if isinstance(mask, Tensor):
        _mask(tracer, tracer[mask], [*batch, q[-2], k[-2]])
    length = (q[-2].expr.size, k[-2].expr.size)
    scores = 2 * query.numel() * length[1]
    tracer.work.append((scores, (*q[:-2], q[-1])))
    tracer.work.append((2 * out.numel() * length[1], (*q[:-2], v[-1])))
    tracer[out] = [*batch, q[-2], v[-1]]


def _meet(tracer: Tracer, q: Axis, k: Axis, v: Axis) -> Axis:
    """Relate a batch axis: heads or samples; several heads of queries may use one of keys and values."""
    tracer.unify(k, v)
    size = q.expr.size
    if k.expr.size == 1 and size > 1:
        tracer.freeze(k, "repeats it along a longer axis")
        tracer.repeat(q)
        return q
    if size == 1 and k.expr.size > 1:
        tracer.freeze(q, "repeats it along a longer axis")
        return v
    if k.expr.size == size:
        tracer.unify(q, k)
        return v
    repeats = Symbol(size // k.expr.size)
    shared = Axis(product((k.expr, repeats)))
    tracer.unify(q, shared)
    tracer.constrain("same", v, shared)
    each = Axis(repeats)
    tracer.repeat(each)
    tracer.constrain("copies", each)
    tracer.constrain("same", each, shared)
    return shared


def _mask(tracer: Tracer, mask: list[Axis], scores: list[Axis]) -> None:
    for axis, other in zip(reversed(mask), reversed(scores), strict=False):
        if axis.expr.size == other.expr.size:
            tracer.unify(axis, other)
        tracer.constrain("copies", axis)


@rule(aten._softmax, aten._safe_softmax)
def softmax(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Exponentials divided by their sum: if all units are copied equally often, each copy gets its share."""
    axes = list(tracer[args[0]])
    dim = args[1] % max(len(axes), 1)
    for axis in axes:
        tracer.constrain("copies", axis)
    if axes:
        tracer.demand(require_uniform, axes[dim], "shares one out over the units")
        axes[dim] = Axis(axes[dim].expr)
        tracer.constrain("shares", axes[dim])
    tracer[out] = axes


@rule(aten._log_softmax, aten.logsumexp, aten.logcumsumexp)
def log_softmax(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Logarithms of a softmax, or of a sum of exponentials: every copy adds to it."""
    axes = list(tracer[args[0]])
    dims = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
    gone = {dim % max(len(axes), 1) for dim in dims}
    for position, axis in enumerate(axes):
        tracer.constrain("copies", axis)
        if position in gone:
            tracer.forbid_exact(axis, "sums the exponentials of its units")
    if out.dim() == len(axes):
        tracer[out] = [axis if axis.expr.size == n else tracer.made(n) for axis, n in zip(axes, out.shape, strict=True)]
    else:
        tracer[out] = [axis for position, axis in enumerate(axes) if position not in gone]
