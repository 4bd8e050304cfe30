"""The table of rules: what each ATen operation says about the dimensions of its inputs and outputs.

A rule receives the tracer, the operation, its arguments and its result, relates the axes of the inputs, and sets the
axes of every output. An output axis may *be* an input axis (the same object) where the operation is linear along
it, or where it acts on each unit separately and the input copies its units.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from growkit.structure.tracer import Tracer

__all__ = ["RULES", "Rule", "is_pointwise", "refuse", "rule"]

Rule = Callable[["Tracer", Any, tuple[Any, ...], dict[str, Any], Any], None]

RULES: dict[Any, Rule] = {}


def rule(*operations: Any) -> Callable[[Rule], Rule]:
    """Register a function as the rule of some operations (overload packets such as `torch.ops.aten.mm`)."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return register


@functools.cache
def is_pointwise(operation: Any) -> bool:
    """Say whether an operation acts on each entry by itself; torch tags those that do, but not all in-place forms."""
    if torch.Tag.pointwise in operation.tags:
        return True
    namespace, _, name = operation._schema.name.partition("::")
    if not (namespace == "aten" and operation._schema.is_mutable and name.endswith("_")):
        return False
    functional = getattr(torch.ops.aten, name[:-1], None)
    overload = getattr(functional, operation._overloadname, None)
    return overload is not None and torch.Tag.pointwise in overload.tags


def refuse(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Freeze every axis of every input, for operations that growkit does not know."""
    for tensor in tree_leaves((args, kwargs)):
        if isinstance(tensor, Tensor):
            for axis in tracer[tensor]:
                tracer.freeze(axis, "has no dimension rule")
    for tensor in tree_leaves(out):
        if isinstance(tensor, Tensor):
            tracer[tensor] = [
                tracer.extent(n, f"was computed by {tracer.where}, which has no rule") for n in tensor.shape
            ]
