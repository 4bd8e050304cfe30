"""A private copy of a model, on which plugins may try things."""

from __future__ import annotations

import copy
from types import FunctionType, MethodType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch._dynamo.eval_frame import innermost_fn
from torch.utils._pytree import tree_leaves

from growkit.structure.tensors import CONTAINERS, SIMPLE

__all__ = ["private_copy"]

Module = TypeVar("Module", bound=nn.Module)


def private_copy(model: Module) -> Module:
    """Return a deep copy of a model in evaluation mode, without gradients.

    Compiled methods among the attributes would run on the model itself; the copy gets its own, which are not compiled.
    Attributes that cannot be copied (open files, configuration objects that hold code) are shared with the model.

    Cost: one copy of parameters and buffers.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in tree_leaves(dict(vars(module))):
            if isinstance(tensor, Tensor) and not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()  # a loss that was kept, say; its graph stays behind
        for value in vars(module).values():
            if not _is_plain(value):
                _share_if_uncopyable(value, memo)
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        private = copy.deepcopy(model, memo)
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
    _give_methods(model, memo)
    return private.eval()


def _is_plain(value: Any) -> bool:
    """Say whether a value is sure to be copyable: most attributes are, and a trial copy costs."""
    kind = type(value)  # a class of the user's may hold more than it contains
    if kind in CONTAINERS:
        return not value or (kind in (tuple, list) and all(map(_is_plain, value)))
    return kind in SIMPLE or isinstance(value, (Tensor, nn.Module))


def _give_methods(model: nn.Module, memo: dict[int, Any]) -> None:
    """Give the copies of modules methods of their own where the modules have compiled ones among their attributes."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, FunctionType) and isinstance(method := innermost_fn(value), MethodType):
                vars(memo[id(module)])[name] = copy.deepcopy(method, memo)


def _share_if_uncopyable(value: Any, memo: dict[int, Any]) -> None:
    if isinstance(value, dict) and any(isinstance(child, (Tensor, nn.Module)) for child in value.values()):
        return  # the tables of parameters, buffers and children
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        memo[id(value)] = value
