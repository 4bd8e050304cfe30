"""Which positions of which parameters belong together, found by carrying integer labels through one run of a model.

Every position along every axis of every parameter and buffer gets a number of its own, its label. The model then runs
once in eval mode under a `TorchDispatchMode`, and every tensor on the way has, for each of its axes, either a vector
of labels (0 where a position has none) or None, for data. Three kinds of operation matter:

* Operations that only move elements (view, permute, expand, slice, pad, roll, pixel shuffle ...) are applied, as they
  are, to full integer tensors: the labels of one axis written into a tensor of the operand's shape. What comes out is
  read back. Labels that vary along one axis of the result belong to that axis. If those of two old axes arrive on one
  new axis (a merge), a position there gets a composite label, which stands for a tuple of labels. Labels that vary
  along several axes of the result have been split: each of these axes gets fresh labels, one for each different slice,
  and each old label is noted as being the tuple of fresh labels that it was found at. So that tuples can be compared,
  data that is merged with labels (the places of a flattened image) is numbered for the time being, and so are copies
  (the query heads of one key head), which count as a size of the model.
* Operations under which positions meet (pointwise, contractions, norms, cat along the other axes) note the pairs of
  labels that met: these are one.
* Operations that make one axis out of data (reductions, lookups, sorting) drop the labels of that axis.

At the end `connected_components` over all pairs gives classes of labels. Composites of one class are tuples that are
equal; composites of one kind and of the same parts are one. Where two kinds of tuple meet, over all classes in which
they do: if they differ in one place only, the parts there are one; if there is a one-to-one relation between the parts
of the one kind and those of the other, these are one (two splits of one axis into heads x head width); if a part
determines another (an axis split as 4 x 8 and as 8 x 4), it is split further. All this until nothing changes. A
position then belongs to the components of all parts of its label that are not data: a row of a projection to heads x
head width to one component that is its head, and to another one that is its place in the head. Grouped convolution and
group normalisation cut channels into groups x rest, just as a view does. Factors of size one are left out: they would
join everything.

Limits: sizes are seen in this one run only, so a size that was written down as a number twice (a state made with
zeros) is no relation; what data or constants relate (two layers that read the same input, an identity matrix, sine
waves over the features) is none either; axes of size one lose their labels in a reshape that merges them; a lookup by
an index that depends on the inputs, or has several dimensions, or picks some positions more often than others, drops
the labels of the axis that it looks into.
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

Kind = tuple[int, ...]
Spelling = tuple[int, ...]
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
        if id(tensor) not in self.known and tensor.layout == torch.strided:
            self.memory[tensor.untyped_storage().data_ptr()].append(tensor)
        axes = [None if vector is None or not vector.any() else vector for vector in axes]
        assert all(vector is None or len(vector) == n for n, vector in zip(tensor.shape, axes, strict=True)), axes
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
    if tensor.layout != torch.strided:
        return (id(tensor),)
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
        real, data = set(), set()
        for label, parts in enumerate(self.table.parts):
            inner, is_data = self.classes[label], self.table.is_data[label]
            if len(parts) <= 1:
                self.plain.setdefault(inner, label)
                (data if is_data else real if is_data is False else set()).add(inner)
            elif all(self.classes[part] != inner for part in parts):
                self.tuples[inner].append(label)
        self.data: set[int] = data - real

    def _spell(self, label: int, above: tuple[int, ...]) -> tuple[int, ...]:
        """The classes that a composite consists of, all the way down."""
        spelled: list[int] = []
        for part in self.table.parts[label]:
            inner = self.classes[part]
            if inner in self.tuples and inner not in above:
                spelled.extend(self._spell(self.tuples[inner][0], (*above, inner)))
            else:
                spelled.append(inner)
        return tuple(spelled)

    def _kind(self, label: int) -> Kind:
        """The families of the parts of a composite: composites of one kind have the same meaning in the same place."""
        return tuple(self.table.family[part] for part in self.table.parts[label])

    def _refine(self) -> bool:
        """Compare the tuples that stand for one position; True if that told something new."""
        if self._unite_equal():
            return True
        tables = [sides for sides in map(_columns, self._meetings().values()) if sides]
        if any([self._join(*sides) for sides in tables]):
            return True
        return any(self._split(one, other) or self._split(other, one) for one, other in tables)

    def _unite_equal(self) -> bool:
        """Make composites of one kind one that consist of the same."""
        first: dict[tuple[Kind, Spelling], int] = {}
        told = False
        for inner, labels in self.tuples.items():
            for label in labels:
                other = first.setdefault((self._kind(label), self._spell(label, (inner,))), label)
                if self.classes[other] != inner:
                    self.table.unite(torch.tensor([other]), torch.tensor([label]))
                    told = True
        return told

    def _meetings(self) -> dict[tuple[Kind, Kind], list[tuple[Spelling, Spelling]]]:
        """For every two kinds of composites that are in a class together: the tuples, for all these classes."""
        meetings = defaultdict(list)
        for inner, labels in self.tuples.items():
            different = {(self._kind(label), self._spell(label, (inner,))): label for label in reversed(labels)}
            ordered = sorted(different, key=different.__getitem__)
            pairs = combinations(ordered, 2) if len(ordered) <= MANY else ((ordered[0], o) for o in ordered[1:])
            for (kind, one), (other_kind, other) in pairs:
                meetings[kind, other_kind].append((one, other))
        return meetings

    def _join(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Make one the only parts in which equal tuples differ, or else parts that determine each other."""
        xs, ys = list(one.T), list(other.T)
        for n, x in reversed(list(enumerate(xs))):
            same = [m for m, y in enumerate(ys) if (x == y).all()]
            if same:
                del xs[n], ys[n if n in same else same[0]]
        if len(xs) == len(ys) == 1:
            self.table.unite(self._labels(xs[0]), self._labels(ys[0]))
            return True
        constant = [sum(len(np.unique(column)) == 1 for column in side) for side in (xs, ys)]
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        for x in xs:
            fits = [
                y for y in ys if _determines(x, y) and _determines(y, x) and all(y is not taken for _, taken in pairs)
            ]
            pairs.extend((x, y) for y in fits[:1])
        if constant[0] != constant[1] or not len(pairs) + constant[0] == len(xs) == len(ys):
            return False
        for x, y in pairs:
            self.table.unite(self._labels(x), self._labels(y))
        return bool(pairs)

    def _split(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Write a part that determines another as that one and a rest."""
        for whole, part in product(one.T, other.T):
            if not _determines(whole, part) or _determines(part, whole) or not self._is_family(whole):
                continue
            pairs = np.unique(np.stack([part, whole], axis=1), axis=0)
            counts = np.unique(pairs[:, 0], return_counts=True)[1]
            if (counts == counts[0]).all() and not any(inner in self.tuples for inner in pairs.flat):
                rest = self.table.fresh(int(counts[0]), data=None).repeat(len(counts))
                tuples = self.table.compose(torch.stack([self._labels(pairs[:, 0]), rest], dim=1))
                self.table.unite(self._labels(pairs[:, 1]), tuples)
                return True
        return False

    def _is_family(self, column: np.ndarray) -> bool:
        """Whether the classes in a column are those of all labels of some axis."""
        inner = set(column.tolist())
        families = {self.table.family[label] for label, found in enumerate(self.classes) if found in inner} - {0}
        return any({self.classes[label] for label in self.table.members(family)} == inner for family in families)

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
        return frozenset(found - self.data or {self.classes[label]})


def _columns(rows: list[tuple[Spelling, Spelling]]) -> tuple[np.ndarray, np.ndarray] | None:
    """Two tables of classes, if all tuples of a kind have the same length."""
    if len({(len(one), len(other)) for one, other in rows}) > 1:
        return None
    return np.array([one for one, _ in rows]), np.array([other for _, other in rows])


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

    def own(self, axis: Axis) -> Axis | None:
        """An axis by the name that its tensor goes by, or None if that is neither a parameter nor a buffer."""
        axis = self._first.get(axis[0], axis[0]), axis[1]
        return axis if axis in self._components else None

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
