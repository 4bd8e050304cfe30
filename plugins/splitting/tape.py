"""What happens to the units of some widths, from the layers that make them to the sums that share them out.

Splitting a unit shares out what is summed over units, so its curvature is that of everything between its weights and
that sum. The tape notes these functions while the model runs, so that they can be run again for one width, with the
outputs of its layers as the only inputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import growkit
from growkit_plugins.splitting.calls import Call, call_of
from growkit_plugins.splitting.functions import ENTRYWISE, IN_PLACE, LINEAR, PRODUCTS

__all__ = ["End", "Norm", "Route", "Source", "Step", "Tape", "Value"]


@dataclass(frozen=True, eq=False)
class Source:
    """Where the units of one width in a tensor come from.

    Attributes:
        maker: the call or the step that made the tensor.
        place: which of the tensors that a step returned.
        entries: the call of which each entry is a function of the same entry alone; None if it is more than that.
    """

    maker: Call | Step
    place: int = 0
    entries: Call | None = None


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that holds units.

    Attributes:
        tensor: as it was, cut off from the autograd graph.
        sources: of the units, by width.
    """

    tensor: Tensor
    sources: Mapping[str, Source]


@dataclass(eq=False)
class Step:
    """A function of units, between a layer and a sum.

    Attributes:
        function: that ran.
        arguments: positional and keyword ones, with values in place of the tensors that hold units.
        entrywise: the widths for which what it returned still depends on single entries of one call.
        in_place: whether it wrote into one of its arguments.
    """

    function: Any
    arguments: tuple[Any, Any]
    entrywise: frozenset[str]
    in_place: bool


@dataclass(frozen=True, eq=False)
class End:
    """Units as they go into a sum that shares them out.

    Attributes:
        value: the units.
        tensor: the same, as this sum alone uses them; part of the autograd graph.
    """

    value: Value
    tensor: Tensor


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm right behind a layer that makes units.

    Attributes:
        call: of the layer.
        mean: name of the buffer with the running mean.
        var: name of the one with the running variance.
        value: of the running variance.
    """

    call: Call
    mean: str
    var: str
    value: Tensor


@dataclass
class Route:
    """What was seen of one width.

    Attributes:
        calls: of the layers that make its units.
        steps: between these and the sums.
        ends: where its units are summed.
        turns: where single entries go into functions of several, or into the sums.
        norms: right behind the layers.
        diagonal: whether every entry that is summed is a linear function of curved functions of single entries.
        trouble: why its units are no neurons, or "".
    """

    calls: list[Call] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    turns: list[End] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    diagonal: bool = True
    trouble: str = ""


class Tape(TorchFunctionMode):
    """Notes the way of the units of some widths while it is active.

    Args:
        model: whose parameters make and share out the units.
        widths: whose units.

    Attributes:
        routes: what was seen, by width.
    """

    def __init__(self, model: nn.Module, widths: Iterable[growkit.Width]) -> None:
        super().__init__()
        widths = list(widths)
        self.routes = {width.name: Route() for width in widths}
        self._buffers = {id(buffer): name for name, buffer in model.named_buffers()}
        # Tensors by identity. They are kept, so that it stays theirs.
        self._values: dict[int, tuple[Tensor, Value]] = {}
        self._makes: dict[int, tuple[str, dict[str, int]]] = {}
        self._shares: dict[int, tuple[Tensor, frozenset[str]]] = {}
        makes: dict[str, dict[str, int]] = defaultdict(dict)
        shares: dict[str, set[str]] = defaultdict(set)
        for width in widths:
            for piece in width.incoming:
                makes[piece.parameter][width.name] = piece.axis
            for piece in width.outgoing:
                shares[piece.parameter].add(width.name)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name in makes:
                self._makes[id(tensor)] = name, makes[name]
            if name in shares:
                self._shares[id(tensor)] = tensor, frozenset(shares[name])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; note what it means for the units."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = (self._values, self._makes, self._shares)
        if not any(id(tensor) in table for tensor in tensors for table in known):
            return func(*args, **kwargs)
        values = [self._values[id(tensor)][1] for tensor in tensors if id(tensor) in self._values]
        held = frozenset(width for value in values for width in value.sources)
        shared = frozenset(w for tensor in tensors if id(tensor) in self._shares for w in self._shares[id(tensor)][1])
        made = {id(tensor): self._makes[id(tensor)] for tensor in tensors if id(tensor) in self._makes}
        summed = held & shared
        going = held - summed
        begun = frozenset(width for _, axes in made.values() for width in axes) - going
        entries = {width: self._entries(func, values, width) for width in going}
        leaving = {width for width, source in entries.items() if source is None and func not in IN_PLACE}
        if summed or leaving:
            args, kwargs = tree_map(partial(self._own, summed, leaving | summed), (args, kwargs))
        noted = tree_map(self._note, (args, kwargs))
        out = func(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if not results:
            return out  # a look at the shape, say
        for tensor in results:
            self._values.pop(id(tensor), None)  # written over
            if passed := shared - held - begun:  # to the transpose of a weight, or the keys of attention
                self._shares[id(tensor)] = tensor, passed
        if going:
            self._go(func, noted, entries, tensors, results)
        if begun:
            self._begin(func, (args, kwargs), made, begun, results)
        return out

    def _own(self, summed: Set[str], leaving: Set[str], leaf: Any) -> Any:
        """Give a function that sums units, or that single entries leave, a tensor of its own, to see its gradient."""
        if not isinstance(leaf, Tensor) or id(leaf) not in self._values:
            return leaf
        value = self._values[id(leaf)][1]
        turning = {width for width in leaving & value.sources.keys() if value.sources[width].entries is not None}
        ending = summed & value.sources.keys()
        if not turning | ending:
            return leaf
        own = leaf.view_as(leaf)
        self._values[id(own)] = own, value
        for width in ending:
            self.routes[width].ends.append(End(value, own))
        for width in turning:
            self.routes[width].turns.append(End(value, own))
        return own

    def _note(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return self._values[id(leaf)][1] if id(leaf) in self._values else leaf.detach()

    def _go(
        self, func: Any, noted: Any, entries: Mapping[str, Call | None], tensors: list[Tensor], results: list[Tensor]
    ) -> None:
        """Note a step, and of which entries what it returned is a function."""
        values = [leaf for leaf in tree_leaves(noted) if isinstance(leaf, Value)]
        entrywise = frozenset(width for width, call in entries.items() if call is not None)
        step = Step(func, noted, entrywise, in_place=any(a is b for a in results for b in tensors))
        for place, result in enumerate(results):
            sources = {width: Source(step, place, call) for width, call in entries.items()}
            self._values[id(result)] = result, Value(result.detach(), sources)
        for width in entries:
            several = sum(width in value.sources for value in values) > 1
            linear = func in LINEAR and func not in IN_PLACE and not (func in PRODUCTS and several)
            if width not in entrywise and not linear:
                self.routes[width].diagonal = False
            self.routes[width].steps.append(step)
            if func is F.batch_norm:
                self._through_norm(width, noted, tensors)

    def _through_norm(self, width: str, noted: Any, tensors: list[Tensor]) -> None:
        args, kwargs = noted
        if args[5] if len(args) > 5 else kwargs.get("training", False):
            self.routes[width].trouble = "its units go through batch_norm with the statistics of their batch"
        value = args[0] if args else kwargs["input"]
        maker = value.sources[width].maker if isinstance(value, Value) and width in value.sources else None
        buffers = [tensor for tensor in tensors if id(tensor) in self._buffers]
        if isinstance(maker, Call) and len(buffers) == 2:
            self.routes[width].norms.append(Norm(maker, *(self._buffers[id(buffer)] for buffer in buffers), buffers[1]))

    def _entries(self, func: Any, values: list[Value], width: str) -> Call | None:
        """Return the call on whose single entries those of a result depend, if there is one."""
        found = [value.sources[width].entries for value in values if width in value.sources]
        return found[0] if func in ENTRYWISE and all(each is found[0] for each in found) else None

    def _begin(
        self, func: Any, arguments: Any, made: Mapping[int, Any], widths: frozenset[str], results: list[Tensor]
    ) -> None:
        """Note a call of a layer that makes units."""
        makers = {
            key: (name, axis) for key, (name, axes) in made.items() for width, axis in axes.items() if width in widths
        }
        out = results[0]
        edge = get_gradient_edge(out) if out.requires_grad else None
        call = call_of(func, arguments, makers, out.detach().clone(), edge)  # it may be written over
        for result in results:
            others = self._values[id(result)][1].sources if id(result) in self._values else {}
            sources = {**others, **dict.fromkeys(widths, Source(call, entries=call))}
            self._values[id(result)] = result, Value(result.detach(), sources)
        for width in widths:
            self.routes[width].calls.append(call)
