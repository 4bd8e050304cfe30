"""What may change in a model: its widths, where their units lie, and what each unit costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from growkit.errors import StructureError, suggestion
from growkit.plugins import Plugins, installed
from growkit.structure.advice import ON_DEMAND, OTHERWISE, REGARDLESS, helps
from growkit.structure.dimensions import Route, Symbol, freeze, leaves, squared
from growkit.structure.forward import Example, joined, tensors_in
from growkit.structure.mirrors import Mirror
from growkit.structure.names import free_name
from growkit.structure.positions import evaluate, multiplicity, unit_positions
from growkit.structure.roles import Axis, Roles
from growkit.structure.suspects import leaves_choices, suspects
from growkit.structure.tensors import named_tensors
from growkit.structure.trace import trace_model
from growkit.structure.tracer import Tracer

__all__ = ["Slice", "Structure", "Width", "trace"]


@dataclass(frozen=True, eq=False)
class Slice:
    """Where the units of a width lie along one axis of one parameter or buffer.

    Attributes:
        parameter: qualified name of the parameter or buffer (the first one, if it is tied).
        axis: which of its axes.
    """

    parameter: str
    axis: int
    _axis: Axis = field(repr=False)
    _symbol: Symbol = field(repr=False)
    _routes: frozenset[Route] = field(repr=False)

    @property
    def index(self) -> Tensor:
        """Positions of each unit along the axis: shape (size, multiplicity), int64."""
        return unit_positions(self._axis.expr, self._symbol, self._routes)

    @property
    def multiplicity(self) -> int:
        """Number of positions of each unit along the axis."""
        return multiplicity(self._axis.expr, self._symbol, self._routes)


@dataclass(frozen=True, eq=False)
class Width:
    """A named, ordered family of units with the same kind of slices.

    Attributes:
        name: qualified name of the first module that produces the units.
        incoming: slices that produce the units; they are copied with a unit.
        outgoing: slices that consume the units; they are shared out among the copies of a unit. An axis may have
            both kinds, as that of a fused projection has for the head size: queries are copied, keys shared out.
    """

    name: str
    incoming: tuple[Slice, ...]
    outgoing: tuple[Slice, ...]
    symbol: Symbol = field(repr=False)

    @property
    def size(self) -> int:
        """Number of units."""
        return self.symbol.size

    @property
    def frozen(self) -> str | None:
        """Why the width cannot change, or None.

        Some edits can still be asked for: `Widen(..., output=True)` adds outputs, and `exact=False` allows what only
        changes the function.
        """
        return self.symbol.reason

    @property
    def advice(self) -> str | None:
        """What helps where the width is frozen, or None where it is not."""
        symbol = self.symbol
        if symbol.frozen:
            return helps(symbol.frozen) or OTHERWISE
        if symbol.open_ended:
            return ON_DEMAND
        return "; or ".join(filter(None, (helps(symbol.inexact), REGARDLESS))) if symbol.inexact else None

    @property
    def open_ended(self) -> str | None:
        """Why units can only be added on demand (`Widen(..., output=True)`), or None."""
        return self.symbol.open_ended

    @property
    def uniform(self) -> str | None:
        """Why all units must be copied equally often, or None."""
        return self.symbol.uniform

    @property
    def copies_only(self) -> str | None:
        """Why units can be added as copies only, or None."""
        return self.symbol.copies_only


class Structure:
    """The widths of a model, as one forward pass showed them. Made by `growkit.trace`.

    Sizes follow the edits that are applied through the structure; a change of the forward pass itself needs a new
    trace.

    Attributes:
        model: the traced model.
        plugins: whose rules took part, and who resize modules of their own.
        widths: every width by name, in forward order; frozen ones included, with their reason.
        axes: the axes of each parameter and buffer that the forward pass used, by qualified name.
        roles: which axes copy and which share.
        mirrors: module attributes that repeat sizes.
        dtypes: of the tensors that the pass computed.
        outputs: the shape of each module's output on the example, by module name.
        results: the axes of each tensor that the model returns.
        gains: the directions of weight norms, their gains, and the axis that the gain runs over.
        shifts: parameters that are used with a number added to them, and that number.
    """

    def __init__(self, model: nn.Module, tracer: Tracer, samples: int, plugins: Plugins) -> None:
        self.model = model
        self.plugins = plugins
        names = {id(tensor): name for name, tensor in tracer.tensors.items()}
        self.mirrors: Sequence[Mirror] = tracer.mirrors
        self.dtypes: Set[torch.dtype] = tracer.dtypes
        self.outputs: Mapping[str, tuple[int, ...]] = tracer.outputs
        self.gains = [
            (names[direction], names[gain], axis)
            for direction, gain, axis in tracer.gains
            if direction in names and gain in names
        ]
        self.shifts = {names[key]: number for key, number in tracer.shifts.numbers.items()}
        self.results: Sequence[Sequence[Axis]] = tracer.results
        self._work = [(flops / max(math.prod(axis.expr.size for axis in axes), 1), axes) for flops, axes in tracer.work]
        self._samples = samples
        self.axes: dict[str, list[Axis]] = {}
        self._fixed_parameters = 0
        self._collect(tracer)
        fixed = [axis for tensor in tracer.tensors.values() for axis in tracer[tensor] if not tensor.requires_grad]
        self.roles = Roles(tracer.constraints, fixed=fixed)
        self.widths: Mapping[str, Width] = {width.name: width for width in self._name_widths()}
        self._parameter_names = {name for name, _ in model.named_parameters()}

    def __repr__(self) -> str:
        rows = (f"  {w.name}: {w.size}" + (f" (frozen: {w.frozen})" if w.frozen else "") for w in self.widths.values())
        return "Structure of " + type(self.model).__name__ + "\n" + "\n".join(rows)

    def __getitem__(self, name: str) -> Width:
        """Return a width by name.

        Raises:
            StructureError: the model has no such width.
        """
        if name not in self.widths:
            raise StructureError(
                f"no width {name!r} in {type(self.model).__name__}",
                seen=repr(name),
                expected=f"one of {', '.join(map(repr, self.widths)) or 'no widths at all'}",
                advice=suggestion(name, self.widths, otherwise="`growkit inspect` lists the widths of a model"),
            )
        return self.widths[name]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The model's parameters, buffers and plain tensor attributes, by qualified name."""
        return named_tensors(self.model)

    @property
    def growable(self) -> list[Width]:
        """The widths that are not frozen, in forward order."""
        return [width for width in self.widths.values() if not width.frozen]

    def matching(self, *patterns: str) -> list[Width]:
        """Return the widths that are not frozen and match a pattern such as "blocks.*"; all of them without one."""
        return [w for w in self.growable if not patterns or any(fnmatchcase(w.name, pattern) for pattern in patterns)]

    def parameters(self, sizes: Mapping[str, int] | None = None) -> int:
        """Return the number of parameters the model has, or would have if some widths had other sizes.

        Args:
            sizes: new size by width name; the others stay.
        """
        new = self._symbols(sizes)
        total = self._fixed_parameters
        for name in self._parameter_names & self.axes.keys():
            total += math.prod(evaluate(axis.expr, new) for axis in self.axes[name])
        return total

    def flops(self, sizes: Mapping[str, int] | None = None) -> float:
        """Return the FLOPs of one forward pass per sample, or what they would be with other sizes.

        Counted are the operations that `torch.utils.flop_counter` knows (a multiply-add is two), divided by the
        length of the first axis of the first input.

        Args:
            sizes: new size by width name; the others stay.
        """
        new = self._symbols(sizes)
        total = 0.0
        for flops, axes in self._work:
            total += flops * math.prod(evaluate(axis.expr, new) for axis in axes)
        return total / self._samples

    def _symbols(self, sizes: Mapping[str, int] | None) -> dict[Symbol, int]:
        return {self[name].symbol: size for name, size in (sizes or {}).items()}

    def _collect(self, tracer: Tracer) -> None:
        """Name the axes of what the pass used; freeze what it did not reach or what no edit could follow."""
        parameters = dict(self.model.named_parameters())
        named = {id(tensor): (name, tensor) for name, tensor in tracer.tensors.items()}
        for key in tracer.reached:
            name, tensor = named[key]
            self.axes[name] = tracer[tensor]
            for axis in tracer[tensor]:
                for symbol in squared(axis.expr):
                    freeze(symbol, f"runs over pairs of its units in {name!r}")
        for name, parameter in parameters.items():
            if name not in self.axes and tracer.log.decides:
                for symbol in suspects(name, parameter.shape, self.axes):
                    freeze(symbol, f"may also run through {name!r}, which the model did not use on this example")
        self._freeze_untrained(parameters.keys())
        self._fixed_parameters = sum(p.numel() for name, p in parameters.items() if name not in self.axes)

    def _freeze_untrained(self, parameters: Set[str]) -> None:
        """Freeze what no parameter makes or uses, as the positions of a mask."""
        symbols = {name: {s for axis in axes for s in leaves(axis.expr)} for name, axes in self.axes.items()}
        trained = set().union(*(found for name, found in symbols.items() if name in parameters))
        for name, found in symbols.items():
            for symbol in found - trained:
                freeze(symbol, f"has its units in no parameter, only in {name!r}")

    def _name_widths(self) -> Iterator[Width]:
        slices: dict[Symbol, list[Slice]] = {}
        for name, axes in self.axes.items():
            for position, axis in enumerate(axes):
                for symbol in leaves(axis.expr):
                    if not symbol.extent:
                        slices.setdefault(symbol, []).extend(self._slices(name, position, axis, symbol))
        names: dict[Symbol, str] = {}
        taken: set[str] = set()
        hidden = [name for name, module in self.model.named_modules() if getattr(module, "keeps_names", False)]
        sides = {symbol: self._sides(symbol, found) for symbol, found in slices.items()}
        # Growable widths choose first, so that `features.3` means the channels it makes, not those it receives.
        for symbol in sorted(slices, key=lambda symbol: symbol.reason is not None):
            incoming, _ = sides[symbol]
            known = [(piece.parameter, piece.axis) for piece in (*incoming, *slices[symbol])]
            names[symbol] = free_name(known, taken, hidden)
            taken.add(names[symbol])
        for symbol, (incoming, outgoing) in sides.items():
            yield Width(
                name=names[symbol],
                incoming=incoming,
                outgoing=outgoing,
                symbol=symbol,
            )

    def _slices(self, name: str, position: int, axis: Axis, symbol: Symbol) -> Iterator[Slice]:
        routes: dict[int, list[Route]] = {}
        for place, route in self.roles.places(axis):
            if place is symbol:
                routes.setdefault(self.roles.of(axis, symbol, route).shares, []).append(route)
        for alike in routes.values():
            yield Slice(name, position, axis, symbol, frozenset(alike))

    def _sides(self, symbol: Symbol, found: list[Slice]) -> tuple[tuple[Slice, ...], tuple[Slice, ...]]:
        shares = [self.roles.of(piece._axis, symbol, next(iter(piece._routes))).shares for piece in found]
        incoming = tuple(piece for piece, share in zip(found, shares, strict=True) if not share)
        outgoing = tuple(piece for piece, share in zip(found, shares, strict=True) if share)
        return incoming, outgoing


def trace(model: nn.Module, *args: Any, **kwargs: Any) -> Structure:
    """Find the widths of a model by running it.

    The model is left exactly as it was: mode, buffers, gradients and the global random state.

    Args:
        model: any module whose forward pass runs eagerly.
        args: example inputs, as the model takes them; a batch of two is enough (a batch of one cannot be told
            from an axis that is broadcast).
        kwargs: example keyword inputs (instead of positional ones, or beside them).

    Returns:
        The structure.

    Raises:
        StructureError: the forward pass failed.

    Cost: one forward pass in evaluation mode plus some microseconds an operation; no activations are kept. A model that
    asks about values or sizes of its data runs once more for each such question, at most 32 times; one that asks for
    its mode, or that has parameters which the example does not reach, once more in training mode.
    """
    return trace_example(model, joined(model, args, kwargs))


def trace_example(model: nn.Module, example: Example, plugins: Plugins | None = None) -> Structure:
    """Do what `trace` does, with the inputs as one value: a tuple of positional or a dict of keyword inputs.

    Args:
        model: see `trace`.
        example: the inputs.
        plugins: whose rules to use beside those of growkit; the installed ones if None.
    """
    plugins = plugins or installed()
    tracer = trace_model(model, example, plugins.rules())
    tracer.log.decides |= leaves_choices(model, example)
    samples = next((tensor.shape[0] for tensor in tensors_in(example) if tensor.dim()), 1)
    return Structure(model, tracer, max(samples, 1), plugins)
