"""Random programs of everyday layers, and the modules that run them.

A `Gene` is a few small numbers that stand for one layer. `grow` reads a list of genes as a program: each gene takes the
nearest values that its layer can work on, and is skipped if there are none. So every list of genes is a program, and
every shorter list is a simpler one, which is what shrinking needs. A program prints as the code it runs.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Shape = tuple[int, ...]  # of a value, without the batch: (C,), (T, C) or (C, H, W)
MOST = 160  # entries of a value


class Gene(NamedTuple):
    """One layer: its kind, how far back its inputs are, two sizes, and three choices among spellings."""

    kind: str
    a: int = 0
    b: int = 0
    n: int = 2
    m: int = 2
    s: int = 0
    t: int = 0
    u: int = 0


class Layer:
    """What a gene means for inputs of known shapes.

    Attributes:
        code: the body of `forward`, of inputs `a` and `b`; the last line is what it returns.
        shape: of the result.
        parts: attributes of the module, as expressions.
    """

    def __init__(self, code: str, *shape: int, **parts: Any) -> None:
        self.code, self.shape, self.parts = code, shape, {key: str(value) for key, value in parts.items()}


@dataclass(frozen=True)
class Node:
    """A layer of some kind at its place in a program, with the names and shapes of its inputs."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    takes: tuple[Shape, ...]
    layer: Layer

    def __str__(self) -> str:
        parts = "".join(f"\n        self.{key} = {value}" for key, value in self.layer.parts.items())
        body = self.layer.code.replace("\n", "\n        ")
        return f"    {self.name}({', '.join(self.inputs)}) -> {self.layer.shape}{parts}\n        {body}"


class Program:
    """A network as text: the shape of a sample, how many tokens there are if it consists of tokens, and the layers."""

    def __init__(self, shape: Shape, vocabulary: int, nodes: Sequence[Node]) -> None:
        self.shape, self.vocabulary, self.nodes = shape, vocabulary, nodes

    def __str__(self) -> str:
        kind = f"tokens < {self.vocabulary}" if self.vocabulary else "reals"
        return "\n".join([f"\n    x: {self.shape} of {kind}", *map(str, self.nodes)])

    __repr__ = __str__

    def build(self) -> Network:
        """The network in float64 and evaluation mode, every tensor away from its trivial start."""
        torch.manual_seed(0)
        model = Network(self).double().eval()
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif tensor.is_floating_point():
                    tensor.add_(0.2 * torch.randn_like(tensor))
        return model

    def inputs(self, batch: int, *, longer: int = 0) -> Tensor:
        """Random samples; `longer` ones have more tokens, or are higher."""
        generator = torch.Generator().manual_seed(batch)
        if self.vocabulary:
            return torch.randint(self.vocabulary, (batch, self.shape[0] + longer), generator=generator)
        place = max(len(self.shape) - 2, 0)
        shape = [n + longer * (axis == place) for axis, n in enumerate(self.shape)]
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)


# ------------------------------------------------------------------ running a program

NAMES = {"torch": torch, "nn": nn, "F": F, "math": math, "weight_norm": weight_norm}


@functools.cache
def compiled(code: str, inputs: int) -> Callable[..., Tensor]:
    """The function with a body whose last line is an expression."""
    *lines, last = code.split("\n")
    body = "\n    ".join([*lines, f"return {last}"])
    scope: dict[str, Any] = dict(NAMES)
    exec(f"def run({', '.join(['self', *'ab'[:inputs]])}):\n    {body}", scope)
    return scope["run"]


def param(*shape: int) -> str:
    """A bare parameter, as an expression."""
    return f"nn.Parameter(torch.randn({', '.join(map(str, shape))}))"


class Step(nn.Module):
    """One layer of a program."""

    def __init__(self, node: Node, earlier: dict[str, nn.Module]) -> None:
        super().__init__()
        for key, expression in node.layer.parts.items():
            part = eval(expression, {**NAMES, **earlier})
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(key, part)
            else:
                setattr(self, key, part)
        self.run = compiled(node.layer.code, len(node.inputs))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(self, *inputs)


class Network(nn.Module):
    """Runs a program; every layer is a module of its own."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.wiring = tuple((node.name, node.inputs) for node in program.nodes)
        for node in program.nodes:
            self.add_module(node.name, Step(node, dict(self.named_children())))

    def forward(self, x: Tensor) -> Tensor:
        values = {"x": x}
        for name, inputs in self.wiring:
            values[name] = getattr(self, name)(*(values[key] for key in inputs))
        return values[self.wiring[-1][0]]


# ------------------------------------------------------------------ from genes to a program

Rule = Callable[..., "Layer | None"]


def grow(shape: Shape, vocabulary: int, genes: Sequence[Gene], head: Gene) -> Program:
    """Read genes as a program, whose output is the sum of a linear head for each value that nothing else takes."""
    nodes: list[Node] = []
    shapes = {"x": shape}
    if vocabulary:
        embedding = Layer("self.table(a)", *shape, head.m, table=f"nn.Embedding({vocabulary}, {head.m})")
        nodes.append(Node("embed", "embed", ("x",), (shape,), embedding))
        shapes = {"embed": embedding.shape}
    for gene in genes:
        node = _node(gene, nodes, shapes)
        if node is not None:
            nodes.append(node)
            shapes[node.name] = node.layer.shape
    taken = {name for node in nodes for name in node.inputs}
    ends = [name for name in shapes if name not in taken]
    for number, name in enumerate(reversed(ends)):
        layer = KINDS["head"][1](head if number == 0 else head._replace(s=head.s % 2), shapes[name])
        nodes.append(Node(f"head{number}", "head", (name,), (shapes[name],), layer))
    for number in range(1, len(ends)):
        total, code = nodes[-1] if number > 1 else nodes[-len(ends)], "a + b"
        if len(total.layer.shape) == 2:
            code = "a + b[:, None]"
        inputs = (total.name, f"head{number}")
        layer = Layer(code, *total.layer.shape)
        nodes.append(Node(f"sum{number}", "sum", inputs, (total.layer.shape, (head.n,)), layer))
    return Program(shape, vocabulary, nodes)


def _node(gene: Gene, nodes: list[Node], shapes: dict[str, Shape]) -> Node | None:
    """The layer of a gene at the nearest values that it can work on, none if there are none."""
    count, rule = KINDS[gene.kind]
    names = list(reversed(shapes))
    first = names[gene.a % len(names) :] + names[: gene.a % len(names)]
    second = names[gene.b % len(names) :] + names[: gene.b % len(names)]
    for inputs in itertools.product(first, second) if count == 2 else ((name,) for name in first):
        takes = tuple(shapes[name] for name in inputs)
        layer = rule(gene, *takes, *([nodes] if gene.kind in {"again", "tied"} else []))
        if layer is not None and min(layer.shape) > 0 and math.prod(layer.shape) <= MOST:
            return Node(f"{gene.kind}{len(nodes)}", gene.kind, inputs, takes, layer)
    return None


# ------------------------------------------------------------------ layers for values of any shape

KINDS: dict[str, tuple[int, Rule]] = {}  # by name: number of inputs, and what it means for their shapes


def kind(rule: Rule) -> Rule:
    KINDS[rule.__name__.rstrip("_")] = (2 if "b" in rule.__code__.co_varnames[: rule.__code__.co_argcount] else 1, rule)
    return rule


def one(options: Any, choice: int) -> Any:
    options = list(options)
    return options[choice % len(options)]


ACTS = ["{}.relu()", "F.gelu({})", "{}.tanh()", "F.silu({})", "F.softplus({})", "F.leaky_relu({}, 0.1)"]


def act(value: str, choice: int) -> str:
    return one(ACTS, choice).format(value)


@kind
def pointwise(g: Gene, a: Shape) -> Layer:
    more = ["a * a.sigmoid()", "a.abs()", "1 - a", "a / 2", "a.clamp(-1, 1)", "F.elu(a)", "a * (a > 0)", "a.square()"]
    return Layer(one([*(text.format("a") for text in ACTS), *more], g.s), *a)


COMBINED = [
    *("a + b", "a * b", "a * b.sigmoid()", "a - b", "torch.maximum(a, b)", "(a + b) / 2", "a + 0.5 * b.tanh()"),
    *("torch.where(a > b, a, b)", "torch.lerp(a, b, 0.3)", "torch.stack([a, b]).sum(0)"),
    *("torch.stack([a, b], -1).mean(-1)", "torch.stack([a, b], 1).amax(1)"),
]


@kind
def combine(g: Gene, a: Shape, b: Shape) -> Layer | None:
    if len(a) == 2 and b == a[1:]:
        return Layer(one(["a + b[:, None]", "a * b.unsqueeze(1).sigmoid()", "a + b[:, None].expand_as(a)"], g.s), *a)
    if len(a) == 3 and b == a[:1]:
        return Layer(one(["a * b[:, :, None, None].sigmoid()", "a + b.view(*b.shape, 1, 1)"], g.s), *a)
    return Layer(one(COMBINED, g.s), *a) if a == b else None


@kind
def cat(g: Gene, a: Shape, b: Shape) -> Layer | None:
    if len(a) != len(b) or (len(a) == 3 and a[1:] != b[1:]):
        return None
    if len(a) == 3:
        return Layer("torch.cat([a, b], 1)", a[0] + b[0], *a[1:])
    if a[1:] == b[1:] and len(a) == 2 and g.s % 4 == 3:
        return Layer("torch.cat([a, b], 1)", a[0] + b[0], a[1])
    if a[:-1] != b[:-1]:
        return None
    c = a[-1] + b[-1]
    if g.s % 4 == 0:
        return Layer("self.linear(torch.cat([a, b], -1))", *a[:-1], g.n, linear=f"nn.Linear({c}, {g.n})")
    return Layer("torch.cat([a, b], -1)", *a[:-1], c)


@kind
def halves(g: Gene, a: Shape) -> Layer | None:
    axis = 1 if len(a) == 3 else -1
    c = a[0] if len(a) == 3 else a[-1]
    if c % 2:
        return None
    first, cut = f"u, v = a.chunk(2, {axis})\n", ("a[:, {}]" if len(a) == 3 else "a[..., {}]")
    codes = [
        f"{first}torch.cat([v, u], {axis})",
        f"{first}torch.cat([-v, u.relu()], {axis})",
        f"u, v = a.split(a.shape[{axis}] // 2, {axis})\ntorch.cat([u, v.tanh()], {axis})",
        f"u, v = {cut.format(f':{c // 2}')}, {cut.format(f'{c // 2}:')}\ntorch.cat([v, u], {axis})",
        f"u, v = {cut.format('::2')}, {cut.format('1::2')}\ntorch.cat([u, v], {axis})",
        f"u, v = {cut.format('::2')}, {cut.format('1::2')}\ntorch.stack([-v, u], {axis if axis < 0 else 2}).flatten"
        + ("(-2)" if axis < 0 else "(1, 2)"),
    ]
    if g.s % 8 < 6:
        return Layer(codes[g.s % 8], *a)
    return Layer(f"{first}u * v", *([c // 2, *a[1:]] if len(a) == 3 else [*a[:-1], c // 2]))


@kind
def cut(g: Gene, a: Shape) -> Layer | None:
    axis, place = (1, 0) if len(a) == 3 else (-1, len(a) - 1)
    c = a[place]
    k = min(g.n, c - 1)
    at = "a[:, {}]" if len(a) == 3 else "a[..., {}]"
    codes = [
        (at.format(f":{k}"), k),
        (at.format(f"{k}:"), c - k),
        (f"a.narrow({axis}, 1, {k})" if k + 1 <= c else "a", k),
        (f"a.split([{k}, {c - k}], {axis})[1]", c - k),
        (at.format(":self.keep"), k),
        (at.format(f": a.shape[{axis}] // 2"), c // 2),
        (at.format("-self.keep :"), k),
        (at.format("::2"), (c + 1) // 2),
        (at.format("1:"), c - 1),
    ]
    code, size = one(codes, g.s)
    return Layer(code, *a[:place], size, *a[place + 1 :], keep=k) if k >= 1 and size >= 1 else None


@kind
def flatten(g: Gene, a: Shape) -> Layer | None:
    if len(a) < 2:
        return None
    total = a[0] * a[1] * (a[2] if len(a) == 3 else 1)
    codes = [
        *("a.flatten(1)", "a.reshape(a.shape[0], -1)", "a.reshape(len(a), a[0].numel())"),
        *("a.transpose(1, 2).flatten(1)", f"a.reshape(-1, {total})", f"a.reshape(a.shape[0], {total})"),
        "a.reshape(-1, " + " * ".join(f"a.shape[{axis + 1}]" for axis in range(len(a))) + ")",
    ]
    return Layer(one(codes, g.s), total)


@kind
def gain(g: Gene, a: Shape) -> Layer | None:
    """Bare parameters and tables."""
    if len(a) == 3:
        return one(
            [Layer("self.act(a)", *a, act=f"nn.PReLU({a[0]})"), Layer("a * self.g", *a, g=param(a[0], 1, 1))], g.s
        )
    c = a[-1]
    layers = [
        Layer("a * self.gain", *a, gain=param(c)),
        Layer("a + self.bias", *a, bias=param(c)),
        Layer("a * self.scale", *a, scale=param(1)),
        Layer("self.gate * a + (1 - self.gate) * a.tanh()", *a, gate=param(c)),
        Layer("a + self.gain.sigmoid() * a.tanh()", *a, gain=param(c)),
        Layer("a * self.gain + self.bias", *a, gain=param(c), bias=param(c)),
        Layer("a + self.place", *a, place=f"torch.randn({c})"),
    ]
    if len(a) == 2:
        layers += [
            Layer("a + self.place", *a, place=param(*a)),
            Layer("a + self.place(torch.arange(a.shape[1]))", *a, place=f"nn.Embedding({a[0]}, {c})"),
            Layer("torch.cat([self.token.expand(a.shape[0], -1, -1), a], 1)", a[0] + 1, c, token=param(1, 1, c)),
            Layer("a + self.place[:, : a.shape[1]]", *a, place=param(1, a[0] + 2, c)),
        ]
    return one(layers, g.s)


@kind
def head(g: Gene, a: Shape) -> Layer:
    """The last layer: of the means, of everything side by side, or of each token."""
    c, total = (a[0] if len(a) == 3 else a[-1]), math.prod(a)
    means = {1: "a", 2: "a.mean(1)", 3: "a.mean((2, 3))"}[len(a)]
    codes = [(means, c), ("a.flatten(1)", total), ("a", c) if len(a) < 3 else ("a.amax((2, 3))", c)]
    code, size = one(codes, g.s)
    front = a[:1] if code == "a" and len(a) == 2 else ()
    return Layer(f"self.head({code})", *front, g.n, head=f"nn.Linear({size}, {g.n})")


# ------------------------------------------------------------------ layers used again


def _earlier(nodes: list[Node], fits: Any, choice: int) -> Node | None:
    found = [node for node in reversed(nodes) if fits(node)]
    return found[choice % len(found)] if found else None


@kind
def again(g: Gene, a: Shape, nodes: list[Node]) -> Layer | None:
    """A whole layer with the weights of an earlier one."""
    node = _earlier(
        nodes, lambda n: n.kind not in {"again", "tied", "embed"} and n.takes == (a,) and n.layer.parts, g.s
    )
    return None if node is None else Layer("self.again(a)", *node.layer.shape, again=node.name)


@kind
def tied(g: Gene, a: Shape, nodes: list[Node]) -> Layer | None:
    """The weight of an earlier linear layer or embedding, turned around."""
    if len(a) > 2:
        return None
    node = _earlier(nodes, lambda n: n.kind in {"linear", "embed", "mlp"} and n.layer.shape[-1] == a[-1], g.s)
    if node is None:
        return None
    key, part = list(node.layer.parts.items())[-1]
    sizes = [int(size) for size in re.findall(r"\d+", part)[:2]]
    bare = not part.startswith("nn.") or part.startswith("nn.Parameter")
    if part.startswith("weight_norm"):
        return None
    weight = "self.tied" if bare else "self.tied.weight"
    rows, columns = sizes[::-1] if part.startswith("nn.Linear") else sizes
    if columns == a[-1] and g.t % 2:
        return Layer(f"F.linear(a, {weight})", *a[:-1], rows, tied=f"{node.name}.{key}")
    if rows == a[-1]:
        return Layer(f"a @ {weight}", *a[:-1], columns, tied=f"{node.name}.{key}")
    return None
