"""Which positions of which parameters belong together, found by carrying integer labels through one run of a model.

Every position along every axis of every parameter and buffer gets a number of its own, its label. The model then runs
once in eval mode under a `TorchDispatchMode`, and every tensor on the way has, for each of its axes, either a vector
of labels (0 where a position has none) or None, for data. Three kinds of operation matter:

* Operations that only move elements (view, permute, expand, slice, pad, roll, pixel shuffle ...) are applied, as they
  are, to full integer tensors: the labels of one axis written into a tensor of the operand's shape. What comes out is
  read back. Labels that vary along one axis of the result belong to that axis. If those of two old axes arrive on one
  new axis (a merge), a position there gets a composite label, which stands for a tuple of labels. Labels that vary
  along several axes of the result have been split: each of these axes gets fresh labels, one for each different slice,
  and each old label is noted as being the tuple of fresh labels that it was found at.
* Operations under which positions meet (pointwise, contractions, norms, cat along the other axes) note the pairs of
  labels that met: these are one.
* Operations that make one axis out of data (reductions, lookups, sorting) drop the labels of that axis.

At the end `connected_components` over all pairs gives classes of labels. Where composites are in one class and there
is a one-to-one relation between a part of the one and a part of the other over all classes in which the two kinds of
tuple meet, these parts are one as well (two splits of one axis into heads x head width); where a part determines
another (an axis split as 4 x 8 and as 8 x 4), it is split further; both until nothing changes. A position then belongs
to the components of all parts of its label: a row of a projection to heads x head width to one component that is its
head, and to another one that is its place in the head. Grouped convolution and group normalisation cut channels into
groups x rest, just as a view does. Factors of size one are left out: they would join everything.

Limits: sizes are seen in this one run only, so a size that was written down as a number twice (a state made with
zeros) is no relation; what data alone relates (two layers that read the same input) is none either; axes of size one
lose their labels in a reshape that merges them; a lookup by an index that depends on the inputs, or that has several
dimensions, or picks some positions more often than others, drops the labels of the axis that it looks into.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oracle.rules import RULES, Call, Rule, pointwise
from oracle.table import Axes, Table

Axis = tuple[str, int]  # a parameter or buffer by name, and an axis of it


class Tracer(TorchDispatchMode):
    """Runs every operation and finds the labels of its results."""

    def __init__(self, table: Table, inputs: Any):
        super().__init__()
        self.table = table
        self.unknown: set[str] = set()
        self.known: dict[int, tuple[Tensor, Axes]] = {}  # holds the tensors, so that ids stay theirs
        self.states: dict[tuple[Any, ...], tuple[str, Axes]] = {}
        self.memory: dict[int, list[Tensor]] = defaultdict(list)
        self.data = {id(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)}

    def add_state(self, tensor: Tensor, name: str) -> str:
        """Label the axes of a parameter or buffer; the name that it goes by."""
        key = _place(tensor)
        if key not in self.states:
            self.states[key] = name, [self.table.fresh(size) for size in tensor.shape]
            self.set(tensor, self.states[key][1])
        return self.states[key][0]

    def axes(self, tensor: Tensor | None) -> Axes:
        if tensor is None:
            return []
        if id(tensor) in self.known:
            return self.known[id(tensor)][1]
        key = _place(tensor)  # `parameter.data` is another tensor
        return self.states[key][1] if key in self.states else [None] * tensor.dim()

    def set(self, tensor: Tensor, axes: Axes) -> None:
        if id(tensor) not in self.known:
            self.memory[tensor.untyped_storage().data_ptr()].append(tensor)
        axes = [None if vector is None or not vector.any() else vector for vector in axes]
        assert [len(v) for v in axes if v is not None] == [
            n for n, v in zip(tensor.shape, axes, strict=True) if v is not None
        ]
        self.known[id(tensor)] = (tensor, axes)

    def labelled(self, tensor: Tensor) -> bool:
        return any(vector is not None for vector in self.axes(tensor))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        call = Call(func, args, kwargs or {})
        rule = RULES.get(call.name)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = pointwise
        if rule is None and any(map(self.labelled, call.operands)):
            with self:
                result = _decomposed(func, args, kwargs or {})
            if result is not NotImplemented:
                return result
        before = [self.axes(tensor) for tensor in call.operands]
        result = func(*args, **(kwargs or {}))
        call.results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.record(call, rule, before)
        return result

    def record(self, call: Call, rule: Rule | None, before: list[Axes]) -> None:
        tainted = any(id(tensor) in self.data for tensor in call.operands)
        found: list[Axes] = []
        if any(map(self.labelled, call.operands)):
            if rule is None and call.results:
                self.unknown.add(str(call.func))
            found = rule(self, call) if rule else []
        for number, tensor in enumerate(call.results):
            axes = found[number] if number < len(found) else [None] * tensor.dim()
            old = [axes for operand, axes in zip(call.operands, before, strict=True) if operand is tensor]
            self.set(tensor, axes)
            if tainted:
                self.data.add(id(tensor))
            if old and any(now is not then for now, then in zip(axes, old[0], strict=True)):
                self.spread(tensor)

    def spread(self, written: Tensor) -> None:
        """After a write into a view, label every other view of the same memory."""
        storage = written.untyped_storage()
        for other in list(self.memory[storage.data_ptr()]):
            if other is written or other.dtype != written.dtype:
                continue
            memory = torch.zeros(storage.nbytes() // written.element_size(), dtype=torch.int64)

            def through(full: Tensor, memory: Tensor = memory, other: Tensor = other) -> Tensor:
                geometry = written.shape, written.stride(), written.storage_offset()
                memory.zero_().as_strided(*geometry).copy_(full)
                return memory.as_strided(other.shape, other.stride(), other.storage_offset())

            moved = self.table.move(self.axes(written), written.shape, through)
            for new in moved:
                self.set(other, [self.table.combine(*pair) for pair in zip(self.axes(other), new, strict=True)])


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride()


def _decomposed(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    result = func.decompose(*args, **kwargs)
    if result is NotImplemented and func in torch._decomp.decomposition_table:
        result = torch._decomp.decomposition_table[func](*args, **kwargs)
    return result


class Solution:
    """What is one with what: classes of labels, and the parts that each class consists of."""

    def __init__(self, table: Table):
        self.table = table
        self._classify()
        while self._refine():
            self._classify()

    def _classify(self) -> None:
        count = len(self.table.parts)
        one, other = np.concatenate([np.zeros((2, 0), dtype=np.int64), *self.table.met], axis=1)
        graph = coo_matrix((np.ones(len(one)), (one, other)), shape=(count, count))
        self.classes = connected_components(graph, directed=False)[1].tolist()
        self.tuples: dict[int, list[int]] = defaultdict(list)  # the composites of a class
        self.plain: dict[int, int] = {}  # one label of a class that is no composite
        for label, parts in enumerate(self.table.parts):
            if len(parts) > 1:
                self.tuples[self.classes[label]].append(label)
            else:
                self.plain.setdefault(self.classes[label], label)

    def _spell(self, label: int, above: tuple[int, ...]) -> tuple[int, ...]:
        """The classes that a composite consists of, all the way down."""
        spelled: list[int] = []
        for part in self.table.parts[label]:
            inner = self.classes[part]
            if inner in self.tuples and inner not in above:
                spelled.extend(self._spell(self.tuples[inner][0], (*above, inner)))
            else:
                spelled.append(inner)
        return tuple(dict.fromkeys(spelled))

    def _refine(self) -> bool:
        """Compare the tuples that stand for one position; True if that told something new."""
        meetings: dict[Any, list[tuple[tuple[int, ...], tuple[int, ...]]]] = defaultdict(list)
        for inner, labels in self.tuples.items():
            spelled = {self._spell(label, (inner,)): label for label in reversed(labels)}
            ordered = sorted(spelled.items(), key=lambda item: item[1])
            pairs = combinations(ordered, 2) if len(ordered) <= MANY else ((ordered[0], item) for item in ordered[1:])
            for (one, first), (other, second) in pairs:
                families = [tuple(self.table.family[p] for p in self.table.parts[label]) for label in (first, second)]
                meetings[(*families, len(one), len(other))].append((one, other))
        tables = [tuple(map(np.array, zip(*rows, strict=True))) for rows in meetings.values()]
        joined = [self._join(one, other) for one, other in tables]
        return any(joined) or any(self._split(one, other) or self._split(other, one) for one, other in tables)

    def _join(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Make parts one that determine each other, if that pairs all parts but the constant ones."""
        xs, ys = ([column for column in side.T if len(np.unique(column)) > 1] for side in (one, other))
        order = sorted(product(range(len(xs)), range(len(ys))), key=lambda at: ((xs[at[0]] != ys[at[1]]).any(), at))
        pairs: list[tuple[int, int]] = []
        for n, m in order:
            free = all(n != x and m != y for x, y in pairs)
            if free and _determines(xs[n], ys[m]) and _determines(ys[m], xs[n]):
                pairs.append((n, m))
        if not len(pairs) == len(xs) == len(ys):
            return False
        joined = [(xs[n], ys[m]) for n, m in pairs if (xs[n] != ys[m]).any()]
        for x, y in joined:
            self.table.unite(self._labels(x), self._labels(y))
        return bool(joined)

    def _split(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Write a part that determines another as that one and a rest."""
        for n in range(one.shape[1]):
            for m in range(other.shape[1]):
                whole, part = one[:, n], other[:, m]
                if _determines(whole, part) and not _determines(part, whole):
                    pairs = np.unique(np.stack([part, whole], axis=1), axis=0)
                    counts = np.unique(pairs[:, 0], return_counts=True)[1]
                    if (counts == counts[0]).all() and not any(part in self.tuples for part in pairs.flat):
                        rest = self.table.fresh(int(counts[0])).repeat(len(counts))
                        tuples = self.table.compose(torch.stack([self._labels(pairs[:, 0]), rest], dim=1))
                        self.table.unite(self._labels(pairs[:, 1]), tuples)
                        return True
        return False

    def _labels(self, classes: np.ndarray) -> Tensor:
        return torch.tensor([self.plain[inner] for inner in classes.tolist()])

    def components(self, label: int) -> frozenset[int]:
        """The classes that a label comes down to."""
        seen, ahead, found = set(), [self.classes[label]], set()
        while ahead:
            inner = ahead.pop()
            if inner in seen:
                continue
            seen.add(inner)
            if inner not in self.tuples:
                found.add(inner)
            for composite in self.tuples.get(inner, ()):
                ahead.extend(self.classes[part] for part in self.table.parts[composite])
        return frozenset(found or {self.classes[label]})


MANY = 12  # composites of one class that are compared each with each


def _determines(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether a column of at least two values tells the value in another one, which also has at least two."""
    values, pairs = len(np.unique(one)), len(np.unique(np.stack([one, other]), axis=1).T)
    return values == pairs and min(values, len(np.unique(other))) > 1


class Labelling:
    """What belongs to what in a model.

    A tensor with several names goes by the first one; to ask, each will do.

    Attributes:
        unknown: operations that were given labels and have no rule: what lies behind them is not connected.
    """

    def __init__(self, table: Table, states: dict[str, Axes], first: dict[str, str], unknown: set[str]):
        self.unknown = unknown
        self._first = first
        solution = Solution(table)
        found: dict[int, frozenset[int]] = {}
        self._components: dict[Axis, list[frozenset[int]]] = {}
        self._members: dict[int, dict[Axis, set[int]]] = defaultdict(lambda: defaultdict(set))
        for name, axes in states.items():
            for axis, vector in enumerate(axes):
                labels = vector.tolist()
                found.update((label, solution.components(label)) for label in labels if label not in found)
                self._components[name, axis] = [found[label] for label in labels]
                for position, label in enumerate(labels):
                    for component in found[label]:
                        self._members[component][name, axis].add(position)

    def axes(self) -> list[Axis]:
        """Every axis of every parameter and buffer."""
        return list(self._components)

    def components(self, name: str, axis: int) -> list[frozenset[int]]:
        """For each position along an axis the components that it belongs to."""
        return self._components[self._first.get(name, name), axis]

    def members(self, component: int) -> dict[Axis, list[int]]:
        """Every position that belongs to a component."""
        return {axis: sorted(positions) for axis, positions in self._members[component].items()}

    def partners(self, name: str, axis: int) -> set[Axis]:
        """Every axis, this one included, that shares a component with an axis."""
        components = frozenset().union(*self.components(name, axis))
        return {partner for component in components for partner in self._members[component]}

    def unit_groups(self, name: str, axis: int, position: int) -> dict[Axis, list[int]]:
        """Every position that shares a component with one position."""
        group: dict[Axis, set[int]] = defaultdict(set)
        for component in self.components(name, axis)[position]:
            for partner, positions in self._members[component].items():
                group[partner] |= positions
        return {partner: sorted(positions) for partner, positions in group.items()}


def labels(model: nn.Module, *args: Any, **kwargs: Any) -> Labelling:
    """Run a model once on example inputs, in eval mode, and find what belongs together in it."""
    tracer = Tracer(Table(), (args, kwargs))
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    first = {name: tracer.add_state(tensor, name) for name, tensor in named}
    modes = {module: module.training for module in model.modules()}
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # so that attention and recurrent layers come as their parts
    torch._C._set_mkldnn_enabled(False)
    try:
        with torch.no_grad(), tracer:
            model.eval()(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)
        for module, mode in modes.items():
            module.training = mode
    return Labelling(tracer.table, dict(tracer.states.values()), first, tracer.unknown)
