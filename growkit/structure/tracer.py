"""The record of a traced pass, and the vocabulary in which rules write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from growkit.structure.calls import Call
from growkit.structure.dimensions import (
    Expr,
    Symbol,
    covers,
    forbid_exact,
    freeze,
    is_data,
    leaves,
    require_uniform,
    resolve,
)
from growkit.structure.guard import WriteGuard
from growkit.structure.hollow import Runner
from growkit.structure.mirrors import (
    MIRRORING,
    Attributes,
    Mirror,
    agrees,
    output_mirrors,
    parameter_mirrors,
)
from growkit.structure.operations import facts_of, flops_of
from growkit.structure.roles import Axis, Constraint
from growkit.structure.rules import RULES, Rule, is_pointwise, pointwise, refuse
from growkit.structure.rules.cuts import full_slices
from growkit.structure.shifts import Shifts
from growkit.structure.sizes import Log, Size, expression, same_size
from growkit.structure.tensors import TensorTable, named_tensors
from growkit.structure.traps import Trap, Traps
from growkit.structure.unify import unify

__all__ = ["Tracer"]


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The record of forward passes, and the vocabulary in which rules write it.

    Attributes:
        axes: the axes of every tensor seen that is still alive.
        constraints: demands on roles, in forward order.
        demands: further demands on whole axes, each a function of their expression and a reason, to be made when all
            expressions are known.
        work: FLOPs of operations, and the axes they are proportional to.
        mirrors: attributes that repeat sizes.
        tensors: the parameters, buffers and plain tensors of the model before the pass, by name.
        reached: the parameters, buffers and plain tensors that the pass used, by identity, in order of first use;
            last what it only wrote to.
        dtypes: of the tensors that the pass computed.
        runner: runs the operations.
        outputs: the shape of the last tensor that each module returned, by its name.
        results: the axes of each tensor that the model returned.
        gains: by identity, each direction of a weight norm, its gain, and the axis that the gain runs over.
        shifts: the vectors of the model that are used with a number added to them.
        guard: to be told of every operation, so that it can undo what they write.
        call: the torch function under way, as it was called from Python, or None.
        log: what the pass did with the values of sizes, and what it asked.
    """

    def __init__(
        self,
        model: nn.Module,
        rules: Mapping[Any, Rule] | None = None,
        runner: Runner | None = None,
        log: Log | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.axes: TensorTable[list[Axis]] = TensorTable()
        self.constraints: list[Constraint] = []
        self.demands: list[tuple[Callable[[Expr, str], None], Axis, str]] = []
        self.work: list[tuple[float, tuple[Axis, ...]]] = []
        self.mirrors: list[Mirror] = []
        self.reached: dict[int, None] = {}
        self._written: dict[int, None] = {}
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.results: list[list[Axis]] = []
        self.gains: list[tuple[int, int, int]] = []
        self.shifts = Shifts()
        self.runner = runner or Runner(values=True)
        self.dtypes: set[torch.dtype] = set()
        self.call: Call | None = None
        self.guard: WriteGuard | None = None
        self.log = log or Log()
        self._stack: list[Any] = self.log.stack
        self._rules = {**RULES, **(rules or {})}
        self._repeats: list[tuple[nn.Module, Axis]] = []
        self._scores: list[tuple[Constraint, object]] = []
        modules = dict(model.named_modules())
        self._names = {id(module): name for name, module in modules.items()}
        self._traps = Traps()
        self._operation = ""
        self._where: tuple[str, nn.Module | None, str] | None = None
        self._muted = False
        self.tensors = named_tensors(model)
        tensors = self.tensors.values()
        for tensor in tensors:
            self.axes[tensor] = [Axis(Symbol(size)) for size in tensor.shape]
            self.shifts.know(tensor, self[tensor])
            if not (tensor.is_floating_point() or tensor.is_complex()):
                self.constraints.extend(Constraint("copies", (axis,), "a mask") for axis in self[tensor])
        self._persistent = {id(tensor) for tensor in tensors}
        self._owners: dict[int, list[nn.Module]] = {}
        for module in modules.values():
            if not type(module).__module__.startswith("torch."):
                self._free_single_axes(module)
            for owned in (*module._parameters.values(), *module._buffers.values()):
                if owned is not None:
                    self._owners.setdefault(id(owned), []).append(module)

    def _free_single_axes(self, module: nn.Module) -> None:
        """Take an axis of one entry of a bare tensor, as class tokens have, for one that is there to be repeated."""
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            for axis in self[tensor] if tensor is not None and tensor.dim() > 1 else ():
                if isinstance(axis.expr, Symbol) and axis.expr.size == 1:
                    axis.expr.extent, axis.expr.frozen = True, "has one entry to be repeated"

    # ------------------------------------------------------------- for rules: axes

    def __getitem__(self, tensor: Tensor) -> list[Axis]:
        """Return the axes of a tensor, one an axis."""
        axes = self.axes.get(tensor)
        if axes is None:
            reason = f"meets a tensor in {self.where} that is neither a parameter, a buffer nor computed from inputs"
            axes = self.axes[tensor] = [self.extent(size, reason) for size in tensor.shape]
        return axes

    def __setitem__(self, tensor: Tensor, axes: list[Axis]) -> None:
        self.axes[tensor] = axes

    def axis(self, tensor: Tensor, position: int) -> Axis:
        """Return one axis of a tensor."""
        return self[tensor][position]

    def axes_of(self, tensor: Tensor) -> list[Axis] | None:
        """Return the axes of a tensor, or None if it has not been seen yet."""
        return self.axes.get(tensor)

    @property
    def where(self) -> str:
        """The operation under way, for reasons: "aten.mm in 'encoder.0' (Linear)"."""
        module = self._stack[-1] if self._stack else None
        known = self._where
        if known is None or known[0] is not self._operation or known[1] is not module:
            operation = self._operation or "the first operation"
            described = f"{operation} in {self.place}" if self._stack else operation
            known = self._where = self._operation, module, described
        return known[2]

    @property
    def place(self) -> str:
        """The module under way, for reasons: "'encoder.0' (Linear)"."""
        module = self._stack[-1] if self._stack else None
        name = self._names.get(id(module), "")
        return f"{name!r} ({type(module).__name__})" if name else "the model"

    def extent(self, size: int, reason: str) -> Axis:
        """Return a new axis that belongs to the data and cannot grow."""
        return Axis(Symbol(size, extent=True, frozen=reason))

    def made(self, size: int) -> Axis:
        """Return a new axis that belongs to the data because the operation under way made it."""
        return self.extent(size, f"was made by {self.where}")

    def asked(self, size: int) -> Axis:
        """Return an axis for a size that the call under way asked for; its entries are alike for all units."""
        wanted = self.call.origin(size) if self.call is not None else None
        expr = expression(wanted, self.where) if isinstance(wanted, Size) else None
        if expr is None or is_data(expr):
            return self.made(size)
        axis = Axis(expr)
        self.constrain("copies", axis)
        return axis

    # ------------------------------------------------------------- for rules: demands

    def unify(self, a: Axis, b: Axis) -> None:
        """Demand equal sizes."""
        if a.expr is not b.expr:
            unify(a.expr, b.expr, self.where)

    def freeze(self, axis: Axis, does: str) -> None:
        """Forbid any change of an axis; `does` completes the sentence "aten.x in 'module' ..."."""
        freeze(axis.expr, f"{self.where} {does}")

    def forbid_exact(self, axis: Axis, does: str) -> None:
        """Note that a change of the axis changes the function; `does` as for `freeze`."""
        self.demand(forbid_exact, axis, does)
        self.constrain("copies", axis)

    def demand(self, demand: Callable[[Expr, str], None], axis: Axis, does: str) -> None:
        """Make a demand on an axis when its expression is known; `does` as for `freeze`."""
        self.demands.append((demand, axis, f"{self.where} {does}"))

    def single(self, axis: Axis) -> None:
        """Note that an axis has one entry whatever the sizes of the network are."""
        for symbol in leaves(axis.expr):
            symbol.extent, symbol.frozen = True, symbol.frozen or f"has one entry for {self.where}"

    def trap(self, tensor: Tensor, axis: Axis, does: str) -> None:
        """Freeze an axis if a tensor is ever used."""
        self._traps.set(tensor, axis, f"{self.where} {does}")

    def norm(self, tensor: Tensor, axis: Axis) -> None:
        """Note a norm over the units along an axis; whatever uses it for more than `normed` forbids exact changes."""
        self._traps.set_norm(tensor, axis, f"{self.where} adds every one of its units to a norm")

    def normed(self, axes: list[Axis], norm: Tensor) -> list[Axis] | None:
        """Return the axes of a tensor that is divided by a norm over one of them; None if it is no such norm.

        With n times as many units the norm is the root of n times as large. Whatever multiplies the result with a
        gain, or contracts it, has to make up for that, unless the code itself multiplies with the root of the size.
        """
        trap = self._traps.at(norm)
        if trap is None or not trap.norm:
            return None
        place = next((n for n, axis in enumerate(axes) if axis.expr is trap.axis.expr), None)
        if place is None:
            self.spring(norm)
            return None
        axis = Axis(axes[place].expr)
        self.demand(require_uniform, axis, "divides by a norm of the units")
        self.constrain("copies", axes[place])
        constraint = Constraint("copies", (axis,), self.where)
        constraint.power = -1
        self.constraints.append(constraint)
        self._scores.append((constraint, self.log.module()))
        return [*axes[:place], axis, *axes[place + 1 :]]

    def written(self, axis: Axis, size: int) -> None:
        """Freeze an axis whose size the code gives as a number."""
        if not is_data(axis.expr):
            self.freeze(axis, f"gives its size as the number {size}")

    def sized(self, axis: Axis, wanted: Any) -> None:
        """Note that an axis has the size that the code asked for: a `Size`, a number, or None if it asked for none."""
        if isinstance(wanted, Size):
            expr = expression(wanted, self.where)
            if expr is not None and expr.size == axis.expr.size:
                if is_data(expr):
                    self._taken_apart(axis)
                if not same_size(expr, axis.expr):
                    unify(axis.expr, expr, self.where)
            elif not is_data(axis.expr):
                self.freeze(axis, f"computes its size ({int(wanted)}) in a way that growkit cannot follow")
        elif wanted is not None and wanted > 1:
            self.written(axis, wanted)

    def _taken_apart(self, axis: Axis) -> None:
        """Freeze what a view took apart by a size of the data: other data would take it apart elsewhere."""
        for symbol in leaves(axis.expr):
            for member in symbol.family:
                freeze(member, f"{self.where} takes its units apart by a size of the data")

    def same(self, a: Axis, b: Axis) -> None:
        """Demand equal sizes and equal roles."""
        if a is not b:
            self.unify(a, b)
            self.constrain("same", a, b)

    def piece(self, piece: Axis, whole: Axis, offset: int, length: int = 0) -> None:
        """Note that an axis is a stretch of another one, with its roles; or is the same at each part of a stretch."""
        self.constraints.append(Constraint("piece", (piece, whole), self.where, offset, length))

    def contract(self, a: Axis, b: Axis, *, scores: bool = False, scaled: bool = False) -> None:
        """Demand equal sizes and opposite roles: the operation sums over the products.

        Args:
            a: an axis of one factor.
            b: an axis of the other.
            scores: the sum may be divided by the square root of its length before or afterwards.
            scaled: it certainly is.
        """
        self.unify(a, b)
        constraint = Constraint("opposite", (a, b), self.where)
        constraint.power = int(scaled)
        if scores:
            self._scores.append((constraint, self.log.module()))
        self.constraints.append(constraint)

    def constrain(self, kind: str, *axes: Axis) -> None:
        """Demand something of roles; see `Constraint`."""
        self.constraints.append(Constraint(kind, axes, self.where))

    # ------------------------------------------------------------- for rules: attributes and costs

    def mirror(self, owner: Tensor | None, attribute: str, *axes: Axis, several: bool = False) -> None:
        """Note that an attribute repeats the sizes of these axes.

        The attribute is that of the modules that hold the parameter `owner`, else of the module under way.
        """
        for module in self._owners.get(id(owner), self._stack[-1:]):
            if isinstance(module, MIRRORING):
                self.note(module, attribute, axes, several=several)

    def note(self, module: nn.Module, attribute: str, axes: tuple[Axis, ...], *, several: bool = False) -> None:
        """Note a mirror of a module, if its attribute is there and repeats the sizes."""
        if id(module) in self._names and agrees(module, attribute, axes, several=several):
            self.mirrors.append(Mirror(module, attribute, [axis.expr for axis in axes], several))

    def repeat(self, axis: Axis) -> None:
        """Note that keys and values of one head serve this many heads of queries in the module under way.

        Its code has a number for that, which it may read on another path than that of the example only.
        """
        if self._stack:
            self._repeats.append((self._stack[-1], axis))

    def in_module(self, kind: type[nn.Module]) -> bool:
        """Say whether the module under way is of a kind."""
        return bool(self._stack) and isinstance(self._stack[-1], kind)

    def normalised(self, direction: Tensor, gain: Tensor, axis: int) -> None:
        """Note a weight that is a gain times a direction of norm 1, so that the gain follows the direction."""
        self.gains.append((id(direction), id(gain), axis))

    def shifted(self, tensor: Tensor, number: float) -> list[Axis] | None:
        """Return the axes of a parameter plus a number, as in `1 + weight`; None if the tensor is no such vector."""
        tie = self.shifts.add(self[tensor][0], number, self.where) if tensor.dim() == 1 else None
        if tie is None:
            return None
        self.constraints.append(tie)
        return [tie.axes[0]]

    def count(self, operation: Callable[..., Any], arguments: tuple[Any, ...], out: Any, *axes: Axis) -> None:
        """Note the FLOPs of the operation under way, and the axes they are proportional to."""
        flops = flops_of(operation, arguments, out)
        if flops is not None:
            self.work.append((flops, axes))

    # ------------------------------------------------------------- the pass

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, then let its rule say what it means for dimensions."""
        kwargs = kwargs or {}
        self._meet(func, args, kwargs)
        if self._muted:
            return self.runner.run(func, args, kwargs)
        facts = facts_of(func)
        rule = self._rules.get(facts.packet) or (pointwise if is_pointwise(func) else None)
        if rule is None:
            # Under inference mode composite operations arrive whole.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = self.runner.run(func, args, kwargs)
        if isinstance(out, Tensor):
            self.dtypes.add(out.dtype)
            self.log.turns.budget.spend(out.numel())
        self._operation = facts.name
        self.log.decides |= facts.decides
        if rule is None:
            self.count(func, args, out)
            rule = refuse
        self._apply(rule, func, args, kwargs, out)
        if self._traps:
            self._traps.hand_on(facts.packet, args, out)
        return out

    def _meet(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note which tensors an operation is about to use."""
        changed = self.guard.note(func, args, kwargs) if self.guard is not None else []
        if changed:
            self._written.update(dict.fromkeys(id(tensor) for tensor in changed if id(tensor) in self._persistent))
        for argument in (*args, *kwargs.values()):
            for tensor in argument if isinstance(argument, (list, tuple)) else (argument,):
                if isinstance(tensor, Tensor):
                    if id(tensor) in self._persistent and not any(tensor is each for each in changed):
                        self.reached.setdefault(id(tensor))
                    if self._traps:
                        self._demand(self._traps.sprung(func.overloadpacket, args, kwargs, tensor))

    def spring(self, tensor: Tensor) -> None:
        """Make the demand that a tensor is a trap for, because it is used."""
        self._demand(self._traps.at(tensor))

    def _demand(self, trap: Trap | None) -> None:
        if trap is not None:
            self.demands.append((trap.demand, trap.axis, trap.reason))

    def through(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function; if there is a rule for it as a whole, that speaks for the operations inside."""
        rule = self._rules.get(func)
        if func == Tensor.__getitem__:
            full_slices(self, *args)
        if rule is None or self._muted:
            return func(*args, **kwargs)
        self._muted = True
        try:
            out = func(*args, **kwargs)
        finally:
            self._muted = False
        self._operation = str(getattr(func, "__name__", func))
        self._apply(rule, func, args, kwargs, out)
        return out

    def _apply(self, rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        try:
            rule(self, func, args, kwargs, out)
        except (IndexError, KeyError, TypeError, ValueError):
            refuse(self, func, args, kwargs, out)  # a form of the operation that its rule does not know

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep track of the module under way."""

        def enter(module: nn.Module, inputs: Any) -> None:
            self._stack.append(module)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                axes = self.axes_of(output)
                if (name := self._names.get(id(module))) is not None and axes is not None:
                    self.outputs[name] = tuple(axis.expr.size for axis in axes)
                if isinstance(module, MIRRORING) and axes is not None:
                    for attribute, repeated, several in output_mirrors(module, axes):
                        self.note(module, attribute, repeated, several=several)
            self._stack.pop()

        hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def give_up(self) -> None:
        """Note that a pass failed, in whatever module, so that nobody knows what it would have done."""
        self._stack.clear()
        self.log.decides = True

    def settle(self, model: nn.Module, attributes: Attributes | None) -> None:
        """Make the demands that had to wait until every expression is known, and find the attributes that follow."""
        self.reached = {**self.reached, **self._written}
        for module in model.modules():
            for attribute, parameter, position in parameter_mirrors(module):
                self.note(module, attribute, (self[parameter][position],))
        known = self._units()
        if attributes is not None:
            self.mirrors.extend(attributes.mirrors(known))
            self.mirrors.extend(attributes.unread([(module, axis.expr) for module, axis in self._repeats], known))
            for constraint, place in self._scores:
                self._scale(constraint, *attributes.root_of(constraint.axes[0].expr, place))
            numbers = list(attributes.unexplained())
            known = self._units() if numbers else known  # to understand a number may take a dimension apart
            for expr, kind in numbers:
                if known.intersection(leaves(expr)):
                    forbid_exact(expr, f"is used as a number in the forward pass of {kind}")
        for demand, axis, reason in self.demands:
            demand(axis.expr, reason)
        self.constraints.extend(self.shifts.settle(self.constraints))

    def _units(self) -> set[Symbol]:
        """Return the symbols of all parameters and buffers but those that belong to the data."""
        axes = (axis for tensor in self.tensors.values() for axis in self[tensor])
        return {symbol for axis in axes for symbol in leaves(axis.expr) if not symbol.extent}

    def _scale(self, constraint: Constraint, rooted: bool, mirror: Mirror | None, others: Expr | None) -> None:
        """Let what shares units out make up for scores that are divided by the square root of their size."""
        expr = resolve(constraint.axes[0].expr)
        if others is not None:
            forbid_exact(others, f"{constraint.where} divides by the square root of its size, which no weight follows")
        if all(covers(symbol, expr) for symbol in leaves(expr)):
            constraint.power = min(constraint.power + int(rooted), 1)
            if mirror is not None:
                self.mirrors.append(mirror)
        elif (rooted and mirror is None) or constraint.power:
            # An attribute may keep its value; a number that is computed from several widths together may not.
            forbid_exact(expr, f"{constraint.where} divides by the square root of a sum of sizes")
            constraint.power = 0
