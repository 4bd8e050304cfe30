"""Forward passes on example inputs that leave no trace in the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from inspect import Parameter, signature
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from growkit import randomness
from growkit.errors import StructureError
from growkit.structure.guard import WriteGuard

__all__ = ["Example", "call", "evaluation", "joined", "switch", "tensors_in"]

Example = Sequence[Any] | Mapping[str, Any]

# What cannot hold an input or an output of a model.
_OPAQUE = (str, bytes, int, float, type, nn.Module, ModuleType, FunctionType, MethodType, BuiltinFunctionType)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors inside nested containers, data classes and plain objects, in order, each once.

    A cache of keys and values, as decoders return it for their next call, is state and no output: it is left out. Such
    objects are known by the name of their class, which ends in "Cache".
    """
    found: dict[int, Tensor] = {}
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            found.setdefault(id(value), value)
        elif id(value) not in seen and not isinstance(value, _OPAQUE) and not type(value).__name__.endswith("Cache"):
            seen.add(id(value))
            if isinstance(value, Mapping):
                children: Any = (*value.keys(), *value.values())
            elif isinstance(value, (list, tuple, set, frozenset)):
                children = value
            else:
                children = getattr(value, "__dict__", {}).values()
            for child in children:
                visit(child)

    visit(value)
    return list(found.values())


def call(model: nn.Module, example: Example) -> Any:
    """Call the model with positional inputs (a tuple) or keyword inputs (a dict)."""
    return model(**example) if isinstance(example, Mapping) else model(*example)


def joined(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Example:
    """Return positional and keyword inputs as one example: by keyword where there are both kinds.

    Raises:
        StructureError: some positional inputs have no name.
    """
    if not (args and kwargs):
        return dict(kwargs) or args
    bound = signature(model.forward).bind(*args, **kwargs)
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is Parameter.VAR_KEYWORD:
            named |= value
        elif kind in (Parameter.VAR_POSITIONAL, Parameter.POSITIONAL_ONLY):
            raise StructureError(
                f"positional and keyword inputs of {type(model).__name__} cannot be put together",
                seen=f"{name!r}, which takes inputs by position only",
                expected="positional inputs that have a name, beside keyword inputs",
                advice="give all inputs by keyword, or all by position",
            )
        else:
            named[name] = value
    return named


@contextmanager
def evaluation(model: nn.Module, example: Example, *, noted: bool = False) -> Iterator[WriteGuard]:
    """Run forward passes in evaluation mode without leaving a trace.

    Modes, whatever the pass writes to parameters, buffers and inputs, and the global random state are put back; no
    gradients are recorded.

    Args:
        model: the model.
        example: its inputs.
        noted: the caller tells the guard of every operation; otherwise the guard is a mode of its own.
    """
    guard = WriteGuard(model, tensors_in(example), example)
    with ExitStack() as stack:
        stack.callback(guard.restore)
        with randomness.isolated(), torch.no_grad():
            with guard:  # some modules merge their weights on the switch
                switch(model, training=False)
            with nullcontext() if noted else guard:
                yield guard


def switch(model: nn.Module, *, training: bool) -> None:
    """Switch the model to training or evaluation; inside of `evaluation`, whatever that does is undone.

    Raises:
        StructureError: the model cannot be switched.
    """
    try:
        model.train() if training else model.eval()
    except NotImplementedError as error:
        raise StructureError(
            f"{type(model).__name__} cannot be switched to {'training' if training else 'evaluation'}",
            seen=f"{type(error).__name__}: {error}",
            expected="a model that has both modes",
            advice="an exported program is a fixed graph: trace the module that it was made from",
        ) from error
