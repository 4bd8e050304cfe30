"""Ask the running model which sizes belong together.

One forward pass runs under a `TorchDispatchMode`, below modules, at the level of ATen operations. Every axis of
every parameter, buffer and activation carries a dimension expression; the rule of each operation unifies them and
records what it demands of their roles. An operation without a rule freezes what it touches: never guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

from growkit.errors import StructureError
from growkit.structure.dimensions import Symbol, freeze, unify
from growkit.structure.forward import Example, call, evaluation, tensors_in
from growkit.structure.mirrors import MIRRORING, Mirror, agrees, output_mirrors, parameter_mirrors
from growkit.structure.roles import Axis, Constraint
from growkit.structure.rules import RULES, pointwise, refuse

__all__ = ["Tracer", "trace_model"]


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The record of one forward pass, and the vocabulary in which rules write it.

    Attributes:
        axes: the axes of every tensor seen that is still alive.
        constraints: demands on roles, in forward order.
        work: for each operation that `torch.utils.flop_counter` counts, its FLOPs and the axes they are
            proportional to.
        mirrors: for each (module name, attribute), the axes whose sizes the attribute repeats.
        reached: the parameters and buffers that the pass used, by identity, in order of first use.
        decides: whether the pass looked at values, so that other inputs may take other branches.
        outputs: the shape of the last tensor that each module returned, by its name.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.axes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.constraints: list[Constraint] = []
        self.work: list[tuple[int, tuple[Axis, ...]]] = []
        self.mirrors: dict[tuple[str, str], Mirror] = {}
        self.reached: dict[int, None] = {}
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.decides = False
        self._names = {id(module): name for name, module in model.named_modules()}
        self._stack: list[nn.Module] = []
        self._operation = ""
        for tensor in (*model.parameters(), *model.buffers()):
            self.axes[tensor] = [Axis(Symbol(size)) for size in tensor.shape]
            if not (tensor.is_floating_point() or tensor.is_complex()):
                self.constraints.extend(Constraint("copies", (axis,), "a mask") for axis in self.axes[tensor])
        self._persistent = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._owners: dict[int, list[nn.Module]] = {}
        for module in model.modules():
            for owned in (*module._parameters.values(), *module._buffers.values()):
                if owned is not None:
                    self._owners.setdefault(id(owned), []).append(module)

    # ------------------------------------------------------------- for rules

    def __getitem__(self, tensor: Tensor) -> list[Axis]:
        """Return the axes of a tensor, one an axis."""
        axes = self.axes.get(tensor)  # type: ignore[no-untyped-call]
        if axes is None:
            reason = f"meets a tensor in {self.where} that is neither a parameter, a buffer nor computed from inputs"
            axes = self.axes[tensor] = [self.extent(size, reason) for size in tensor.shape]
        return axes  # type: ignore[no-any-return]

    def __setitem__(self, tensor: Tensor, axes: list[Axis]) -> None:
        self.axes[tensor] = axes

    @property
    def where(self) -> str:
        """The operation under way, for reasons: "aten.mm in 'encoder.0' (Linear)"."""
        operation = self._operation or "the first operation"
        if not self._stack:
            return operation
        module = self._stack[-1]
        name = self._names.get(id(module), "")
        return f"{operation} in {name!r} ({type(module).__name__})" if name else f"{operation} in the model"

    def extent(self, size: int, reason: str) -> Axis:
        """Return a new axis that belongs to the data and cannot grow."""
        return Axis(Symbol(size, extent=True, frozen=reason))

    def unify(self, a: Axis, b: Axis) -> None:
        """Demand equal sizes."""
        if a.expr is not b.expr:
            unify(a.expr, b.expr, self.where)

    def freeze(self, axis: Axis, does: str) -> None:
        """Forbid any change of an axis; `does` completes the sentence "aten.x in 'module' ..."."""
        freeze(axis.expr, f"{self.where} {does}")

    def same(self, a: Axis, b: Axis) -> None:
        """Demand equal sizes and equal roles."""
        if a is not b:
            self.unify(a, b)
            self.constrain("same", a, b)

    def contract(self, a: Axis, b: Axis) -> None:
        """Demand equal sizes and opposite roles: the operation sums over the products."""
        self.unify(a, b)
        self.constrain("opposite", a, b)

    def constrain(self, kind: str, *axes: Axis) -> None:
        """Demand something of roles; see `Constraint`."""
        self.constraints.append(Constraint(kind, axes, self.where))

    def mirror(self, owner: Tensor | None, attribute: str, *axes: Axis, several: bool = False) -> None:
        """Note that an attribute repeats the sizes of these axes.

        The attribute is that of the modules that hold the parameter `owner`, else of the module under way.
        """
        for module in self._owners.get(id(owner), self._stack[-1:]):
            if isinstance(module, MIRRORING):
                self.note(module, attribute, Mirror(axes, several))

    def note(self, module: nn.Module, attribute: str, mirror: Mirror) -> None:
        """Note a mirror of a module, if its attribute is there and repeats the sizes."""
        name = self._names.get(id(module))
        if name is not None and agrees(module, attribute, mirror):
            self.mirrors[name, attribute] = mirror

    def count(self, operation: Callable[..., Any], arguments: tuple[Any, ...], out: Any, *axes: Axis) -> None:
        """Note the FLOPs of the operation under way, and the axes they are proportional to."""
        formula = flop_registry.get(operation.overloadpacket)  # type: ignore[attr-defined]
        if formula is not None:
            self.work.append((int(formula(*arguments, out_val=out)), axes))

    # ------------------------------------------------------------- the pass

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, then let its rule say what it means for dimensions."""
        kwargs = kwargs or {}
        rule = RULES.get(func.overloadpacket)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = pointwise
        if rule is None:
            # Under inference mode composite operations arrive whole.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        self._operation = str(func.overloadpacket)
        self.decides |= torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and id(tensor) in self._persistent:
                self.reached.setdefault(id(tensor))
        if rule is None:
            self.count(func, args, out)
            rule = refuse
        try:
            rule(self, func, args, kwargs, out)
        except (IndexError, TypeError, ValueError):
            refuse(self, func, args, kwargs, out)  # a form of the operation that its rule does not know
        return out

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep track of the module under way."""

        def enter(module: nn.Module, inputs: Any) -> None:
            self._stack.append(module)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and (name := self._names.get(id(module))) is not None:
                self.outputs[name] = tuple(output.shape)
            if isinstance(output, Tensor) and isinstance(module, MIRRORING):
                for attribute, mirror in output_mirrors(module, self[output]):
                    self.note(module, attribute, mirror)
            self._stack.pop()

        hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def trace_model(model: nn.Module, example: Example) -> Tracer:
    """Run the model once on an example and return the record.

    The model is left exactly as it was: mode, parameters, buffers, gradients and the global random state.

    Args:
        model: any module whose forward pass runs eagerly.
        example: a tuple of positional or a dict of keyword inputs.

    Returns:
        The tracer, its constraints not solved yet.

    Raises:
        StructureError: the forward pass itself failed.
    """
    tracer = Tracer(model)
    named = example.items() if isinstance(example, Mapping) else enumerate(example)
    for name, value in named:
        for tensor in tensors_in(value):
            reasons = [f"is axis {axis} of the model's input {name}" for axis in range(tensor.dim())]
            tracer[tensor] = [tracer.extent(n, why) for n, why in zip(tensor.shape, reasons, strict=True)]
    with evaluation(model, example), tracer.watching():
        try:
            with tracer:
                output = call(model, example)
                if any(id(parameter) not in tracer.reached for parameter in model.parameters()):
                    # Perhaps they belong to a branch that only training takes.
                    _train_pass(model, example)
        except Exception as error:
            raise StructureError(
                f"the forward pass of {type(model).__name__} failed while it was traced, in {tracer.where}",
                seen=f"{type(error).__name__}: {error}",
                expected="a forward pass that runs on the example inputs in evaluation mode",
                advice="call the model on the example yourself first; give keyword inputs as a dict",
            ) from error
    for tensor in tensors_in(output):
        for index, axis in enumerate(tracer[tensor]):
            freeze(axis.expr, f"is axis {index} of the model's output")
    for module in model.modules():
        for attribute, parameter, position in parameter_mirrors(module):
            tracer.note(module, attribute, Mirror((tracer[parameter][position],), several=False))
    return tracer


def _train_pass(model: nn.Module, example: Example) -> None:
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        call(model, example)
    except Exception:
        pass
    finally:
        for module, training in modes:
            module.training = training
