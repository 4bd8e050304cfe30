"""Ask the running model which sizes belong together.

Forward passes run under a `TorchDispatchMode`, below modules, at the level of ATen operations. Every axis of
every parameter, buffer and activation carries a dimension expression; the rule of each operation unifies them and
records what it demands of their roles. An operation without a rule freezes what it touches: never guess.

Beside it, a `TorchFunctionMode` lets tensors and modules answer with sizes that remember where they come from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from growkit.errors import StructureError
from growkit.structure.calls import SizeMode
from growkit.structure.dimensions import freeze, leaves
from growkit.structure.forward import Example, call, evaluation, switch, tensors_in
from growkit.structure.hollow import Runner
from growkit.structure.mirrors import Attributes
from growkit.structure.questions import asks_for_gradients, asks_for_mode, words_of
from growkit.structure.rules import Rule
from growkit.structure.sizes import Log
from growkit.structure.tracer import Tracer
from growkit.structure.turns import Exhausted, Place, out_of_sight

__all__ = ["trace_model"]


def trace_model(model: nn.Module, example: Example, rules: Mapping[Any, Rule] | None = None) -> Tracer:
    """Run the model on an example, as often as `growkit.trace` says, and return the record.

    The model is left exactly as it was: mode, parameters, buffers, gradients and the global random state.

    Args:
        model: any module whose forward pass runs eagerly.
        example: a tuple of positional or a dict of keyword inputs.
        rules: beside those of growkit, for further operations.

    Returns:
        The tracer, its constraints not solved yet.

    Raises:
        StructureError: the forward pass itself failed, or the model or an input has no sizes to trace.
    """
    _check_sizes(model, example)
    words = words_of(model)

    def traced(*, values: bool = True, remembering: bool = True) -> Tracer:
        record = partial(_traced, model, example, rules, words, values=values, remembering=remembering)
        tracer = record()
        lost = tracer.log.turns.lost
        # Passes that came to no end leave no demands.
        return record(lost=lost) if lost and not tracer.runner.lacking else tracer

    try:
        tracer = traced(values=False)
        if not tracer.runner.lacking:
            return tracer
    except StructureError:
        pass  # perhaps for want of values
    try:
        return traced()
    except StructureError:
        # Some code takes nothing but plain integers for sizes. Without their memory, less is known.
        return traced(remembering=False)


def _traced(
    model: nn.Module,
    example: Example,
    rules: Mapping[Any, Rule] | None,
    words: Set[str],
    *,
    lost: Sequence[Place] = (),
    remembering: bool = True,
    values: bool = True,
) -> Tracer:
    tracer = Tracer(model, rules, Runner(tensors_in(example), values=values), Log(lost))
    _freeze_power_iterated(tracer, model)
    for name, value in _inputs(example).items():
        for tensor in tensors_in(value):
            reasons = [f"is axis {axis} of the model's input {name}" for axis in range(tensor.dim())]
            tracer[tensor] = [tracer.extent(n, why) for n, why in zip(tensor.shape, reasons, strict=True)]
    attributes = Attributes(model, tracer.log, tracer.axis, words) if remembering else None
    with ExitStack() as stack:
        if attributes is not None:
            stack.enter_context(attributes)
        tracer.guard = stack.enter_context(evaluation(model, example, noted=True))
        stack.enter_context(_slow_path())
        stack.enter_context(tracer.watching())

        def run() -> Any:
            with tracer, SizeMode(tracer) if remembering else nullcontext():
                return call(model, example)

        try:
            outputs = [run()]
            first = tracer.work[:], dict(tracer.outputs)
            outputs += _turned_passes(tracer, model, run, training=False)
            unreached = any(id(parameter) not in tracer.reached for parameter in model.parameters())
            if unreached or asks_for_mode(model, words):
                outputs += _training_passes(tracer, model, run, gradients=asks_for_gradients(words))
            tracer.work, tracer.outputs = first
        except Exception as error:
            raise StructureError(
                f"the forward pass of {type(model).__name__} failed while it was traced, in {tracer.where}",
                seen=f"{type(error).__name__}: {_readable(error)}",
                expected="a forward pass that runs on the example inputs in evaluation mode",
                advice="call the model on the example yourself first; give keyword inputs as a dict",
            ) from error
    tracer.results = [tracer[tensor] for tensor in tensors_in(outputs[0])]
    for tensor in tensors_in(outputs):
        tracer.spring(tensor)
        for index, axis in enumerate(tracer[tensor]):
            for symbol in leaves(axis.expr):
                symbol.open_ended = symbol.open_ended or f"is axis {index} of the model's output"
    tracer.settle(model, attributes)
    return tracer


def _readable(error: Exception) -> str:
    """Return the message of an error, without what torch advises the authors of modes."""
    text = str(error)
    unknown = re.match(r"There was no rule registered for HigherOrderOperator (\w+) ", text)
    return f"the higher-order operator {unknown[1]} has no dimension rule" if unknown else text


def _check_sizes(model: nn.Module, example: Example) -> None:
    """Refuse what has no sizes: lazy parameters and nested tensors."""
    held = [*model.named_parameters(), *model.named_buffers()]
    lazy = next((name for name, tensor in held if is_lazy(tensor)), None)
    if lazy is not None:
        raise StructureError(
            f"cannot trace {type(model).__name__}: {lazy!r} has no shape yet",
            seen="a lazy layer that no input has reached",
            expected="parameters and buffers that are initialised",
            advice="call the model on the example once, then trace it",
        )
    if any(tensor.is_nested for value in _inputs(example).values() for tensor in tensors_in(value)):
        raise StructureError(
            f"cannot trace {type(model).__name__} on a nested tensor",
            seen="an input whose rows have different lengths",
            expected="inputs with one size an axis",
            advice="pad the example, as by torch.nested.to_padded_tensor; widths do not depend on lengths",
        )


def _inputs(example: Example) -> dict[Any, Any]:
    return dict(example.items() if isinstance(example, Mapping) else enumerate(example))


@contextmanager
def _slow_path() -> Iterator[None]:
    """Let torch's attention and transformer layers run as the operations they consist of."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _freeze_power_iterated(tracer: Tracer, model: nn.Module) -> None:
    """Freeze what a spectral norm is estimated for: copies of units would change the norm."""
    for name, module in model.named_modules():
        estimated: list[Tensor | None] = []
        if isinstance(module, _SpectralNorm):
            parent = model.get_submodule(name.rpartition(".")[0])
            estimated = [*parent._parameters.values(), *module._buffers.values()]
        elif any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values()):
            estimated = [*module._parameters.values(), *module._buffers.values()]
        if estimated:
            for tensor in estimated:
                for axis in tracer[tensor] if tensor is not None else ():
                    freeze(axis.expr, f"is estimated by power iteration in {name!r} while the model trains")


def _turned_passes(tracer: Tracer, model: nn.Module, run: Callable[[], Any], *, training: bool) -> list[Any]:
    """Run the model once more for each question it asked about data, with the other answer; return the outputs.

    Where the example does not fit the other answer, the pass fails, as it would after a failed check.
    """
    outputs: list[Any] = []
    if any(tensor.device.type not in {"cpu", "meta"} for tensor in tracer.tensors.values()):
        return outputs  # an index out of range would leave the device unusable
    while not tracer.runner.lacking and tracer.log.turns.next():
        _begin_again(tracer, model, training=training)
        try:
            with out_of_sight():
                outputs.append(run())
        except (Exception, SystemExit, Exhausted):
            tracer.give_up()
            tracer.log.turns.lose()
    return outputs


def _training_passes(tracer: Tracer, model: nn.Module, run: Callable[[], Any], *, gradients: bool) -> list[Any]:
    """Run the model in training mode; return its outputs, or none if it wants other inputs then."""
    with _without_graphs(model), torch.set_grad_enabled(gradients):
        try:
            _begin_again(tracer, model, training=True)
            output = run()
        except Exception:
            tracer.give_up()
            return []
        return [output, *_turned_passes(tracer, model, run, training=True)]


def _begin_again(tracer: Tracer, model: nn.Module, *, training: bool) -> None:
    """Put back what the pass before has changed."""
    assert tracer.guard is not None
    tracer.guard.restore()
    with tracer.guard:
        switch(model, training=training)


@contextmanager
def _without_graphs(model: nn.Module) -> Iterator[None]:
    """Detach what a pass leaves behind in attributes, so that the model can still be copied."""
    before = {id(value) for module in model.modules() for value in vars(module).values()}
    try:
        yield
    finally:
        for module in model.modules():
            for key, value in vars(module).items():
                if isinstance(value, Tensor) and not value.is_leaf and id(value) not in before:
                    vars(module)[key] = value.detach()
