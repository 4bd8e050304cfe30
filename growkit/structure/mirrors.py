"""Mirrors: attributes that repeat a size, such as `out_features`, and have to follow when it changes.

Two sources tell which they are. For layers of torch, whose forward passes do not read them, the rules and the table
here do; an attribute counts only if it repeats the size before the edit. For everything else the trace itself does: an
attribute is a mirror if the forward pass used its value as a size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from growkit.structure.dimensions import Expr, Product, Symbol, is_data, leaves, product, resolve
from growkit.structure.positions import evaluate
from growkit.structure.roles import Axis
from growkit.structure.sizes import Log, Real, Size, expression, operands, plain, same_size
from growkit.structure.tensors import INTERNAL

__all__ = ["MIRRORING", "Attributes", "Mirror", "agrees", "held", "output_mirrors", "parameter_mirrors"]


class Mirror(NamedTuple):
    """An attribute that repeats sizes.

    Attributes:
        owner: the module, or its configuration object or dictionary.
        attribute: its name.
        sizes: what the attribute is the size of: one expression, or one for each entry of a tuple, None for entries
            that repeat nothing.
        several: the attribute is a tuple or list of sizes rather than a single one.
        power: the attribute is the size to this power.
    """

    owner: Any
    attribute: str
    sizes: Sequence[Expr | None]
    several: bool = False
    power: float = 1.0

    @property
    def symbols(self) -> set[Symbol]:
        """The symbols whose sizes it depends on."""
        return {symbol for expr in self.sizes if expr is not None for symbol in leaves(expr)}

    @property
    def value(self) -> Any:
        """The value that the attribute has, or should have."""
        now = held(self.owner)[self.attribute]
        if self.several:
            return type(now)(n if e is None else evaluate(e, {}) for e, n in zip(self.sizes, now, strict=True))
        assert self.sizes[0] is not None
        size = evaluate(self.sizes[0], {})
        return size if self.power == 1.0 else size**self.power


def held(owner: Any) -> dict[str, Any]:
    """Return where an owner keeps its attributes: a dictionary is its own place."""
    return owner if isinstance(owner, dict) else vars(owner)


# Modules whose attributes the rules of convolutions, norms and lookups may set.
MIRRORING = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.Embedding,
    nn.EmbeddingBag,
)

# Attributes that repeat an axis of a parameter of their own module.
_OF_PARAMETERS: dict[type[nn.Module], dict[str, tuple[str, int]]] = {
    nn.Linear: {"in_features": ("weight", 1), "out_features": ("weight", 0)},
    nn.Bilinear: {"in1_features": ("weight", 1), "in2_features": ("weight", 2), "out_features": ("weight", 0)},
    nn.PReLU: {"num_parameters": ("weight", 0)},
    nn.modules.batchnorm._NormBase: {"num_features": ("weight", 0)},
    nn.GroupNorm: {"num_channels": ("weight", 0)},
    nn.EmbeddingBag: {"embedding_dim": ("weight", 1), "num_embeddings": ("weight", 0)},
    nn.Embedding: {"embedding_dim": ("weight", 1), "num_embeddings": ("weight", 0)},
    nn.RNNBase: {"input_size": ("weight_ih_l0", 1), "proj_size": ("weight_hr_l0", 0)},
    nn.RNNCellBase: {"input_size": ("weight_ih", 1), "hidden_size": ("weight_hh", 1)},
    nn.MultiheadAttention: {"kdim": ("k_proj_weight", 1), "vdim": ("v_proj_weight", 1)},
}


def parameter_mirrors(module: nn.Module) -> Iterator[tuple[str, Tensor, int]]:
    """Yield the attributes of a module that repeat an axis of one of its parameters: (attribute, parameter, axis)."""
    for kind, attributes in _OF_PARAMETERS.items():
        if isinstance(module, kind):
            for attribute, (key, axis) in attributes.items():
                parameter = module._parameters.get(key)
                if parameter is not None:
                    yield attribute, parameter, axis
    if isinstance(module, nn.modules.conv._ConvNd):
        yield from _channels(module)
    if isinstance(module, nn.RNNBase) and module.proj_size == 0:
        yield "hidden_size", module._parameters["weight_hh_l0"], 1  # type: ignore[misc]
    if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        yield "kdim", module.in_proj_weight, 1
        yield "vdim", module.in_proj_weight, 1


def _channels(module: nn.modules.conv._ConvNd) -> Iterator[tuple[str, Tensor, int]]:
    """Yield what repeats an axis of a kernel, for models that use it without calling its convolution."""
    sides = ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
    yield sides[0], module.weight, 0
    if module.groups == 1:
        yield sides[1], module.weight, 1
    elif module.groups == len(module.weight) and module.weight.shape[1] == 1:
        yield sides[1], module.weight, 0
        yield "groups", module.weight, 0


def output_mirrors(module: nn.Module, axes: Sequence[Axis]) -> Iterator[tuple[str, tuple[Axis, ...], bool]]:
    """Yield the attributes of a norm that repeat axes of its output, for norms that run as several operations."""
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        yield "normalized_shape", tuple(axes[len(axes) - len(module.normalized_shape) :]), True
    for dimensions, kind in ((1, nn.InstanceNorm1d), (2, nn.InstanceNorm2d), (3, nn.InstanceNorm3d)):
        if isinstance(module, kind):
            yield "num_features", (axes[-1 - dimensions],), False


def agrees(module: nn.Module, attribute: str, axes: Sequence[Axis], *, several: bool) -> bool:
    """Say whether an attribute is there and repeats the sizes of the axes."""
    value: Any = plain(vars(module).get(attribute))
    sizes = [axis.expr.size for axis in axes]
    return list(value) == sizes if several and isinstance(value, (tuple, list)) else [value] == sizes


# ------------------------------------------------------------------ attributes that the forward pass reads

_MOST_SIZES = 16
_SIZES = {key for attributes in _OF_PARAMETERS.values() for key in attributes} | {"in_channels", "out_channels"}
# Modules of torch whose forward pass reads sizes from attributes; the others are in the tables above.
_READING = (nn.MultiheadAttention, nn.Transformer, nn.RNNBase, nn.RNNCellBase, nn.Unflatten, nn.ChannelShuffle)


class Attributes:
    """Integer and real attributes of modules and of their configuration objects, tagged while a model is traced.

    Args:
        model: whose attributes to tag.
        log: of the pass.
        axis_of: returns an axis of a parameter.
        words: in the code of the model. Layers of torch do not read their sizes; they are tagged if the model does.
    """

    def __init__(self, model: nn.Module, log: Log, axis_of: Callable[[Tensor, int], Axis], words: Set[str]) -> None:
        self._log = log
        self._axis_of = axis_of
        self._read = _SIZES & words
        self._owners = list(_owners(model, layers=bool(self._read)))
        self._explained: set[int] = set()
        self._tagged: list[tuple[Any, str, Any, Any]] = []

    def __enter__(self) -> Attributes:
        for owner in self._owners:
            for key, tag in list(self._tags_of_layer(owner) if _is_layer(owner) else self._tags(owner)):
                self._tagged.append((owner, key, held(owner)[key], tag))
                held(owner)[key] = tag
        return self

    def __exit__(self, *_: object) -> None:
        for owner, key, value, tag in self._tagged:
            if held(owner).get(key) is tag:
                held(owner)[key] = value
        for owner in self._owners:
            for key, value in held(owner).items():
                if (untagged := plain(value)) is not value:
                    held(owner)[key] = untagged

    def _tags_of_layer(self, layer: nn.Module) -> Iterator[tuple[str, Size]]:
        """Yield the attributes of a layer that repeat its parameters, and that the model reads."""
        for attribute, parameter, position in parameter_mirrors(layer):
            axis = self._axis_of(parameter, position)
            if attribute in self._read and agrees(layer, attribute, (axis,), several=False):
                yield attribute, Size(axis.expr.size, axis.expr, self._log)

    def _tags(self, owner: Any) -> Iterator[tuple[str, Any]]:
        for key, value in held(owner).items():
            if (tag := self._tag(owner, key, value)) is not None:
                yield key, tag

    def _tag(self, owner: Any, key: str, value: Any) -> Any:
        if type(value) is int and value > 1:
            return Size(value, Symbol(value), self._log)
        if type(value) is float and value > 0:
            return Real(value, (owner, key))
        counts = (
            type(value) in (tuple, list, torch.Size)
            and 0 < len(value) <= _MOST_SIZES
            and all(type(n) is int for n in value)
        )
        if counts and max(value) > 1:
            return type(value)(Size(n, Symbol(n), self._log) if n > 1 else n for n in value)
        return None

    def mirrors(self, known: set[Symbol]) -> Iterator[Mirror]:
        """Yield the attributes that the pass used as sizes of something that can change.

        Args:
            known: the symbols of all parameters and buffers.
        """
        self._settle_comparisons(known)
        for owner, key, _, tag in self._tagged:
            if isinstance(tag, Real):
                continue
            several = not isinstance(tag, Size)
            forms = [_repeated(n, known) for n in (tag if several else (tag,))]
            if any(form is not None for form in forms):
                yield Mirror(owner, key, forms, several)
        yield from self._head_sizes(known)

    def _head_sizes(self, known: set[Symbol]) -> Iterator[Mirror]:
        """Yield the one attribute of torch's attention that nothing reads and that its fast path needs."""
        tags = {(id(owner), key): tag for owner, key, _, tag in self._tagged}
        for owner in self._owners:
            if isinstance(owner, nn.MultiheadAttention):
                width, heads = tags.get((id(owner), "embed_dim")), tags.get((id(owner), "num_heads"), 1)
                expr = expression(width // heads, "the head size") if width is not None else None
                if expr is not None and known.intersection(leaves(expr)):
                    yield Mirror(owner, "head_dim", (expr,))

    def _settle_comparisons(self, known: set[Symbol]) -> None:
        """Let an attribute that was only compared with a size (`assert x.shape[-1] == self.dim`) follow that size."""
        for pair in self._log.equal:
            for one, other in (pair, pair[::-1]):
                if isinstance(one.form, tuple) or isinstance(other.form, tuple):
                    continue
                symbol, expr = resolve(one.form), resolve(other.form)
                if isinstance(symbol, Symbol) and symbol not in known and known.intersection(leaves(expr)):
                    symbol.bound = expr

    def unread(self, sizes: Sequence[tuple[nn.Module, Expr]], known: set[Symbol]) -> Iterator[Mirror]:
        """Yield attributes that the pass did not use, but that have a certain size in all modules of their class.

        Args:
            sizes: modules, each with the size.
            known: the symbols of all parameters and buffers.
        """
        tags = {(id(owner), key): tag for owner, key, _, tag in self._tagged if isinstance(tag, Size)}
        for module, expr in sizes:
            alike = [(other, size) for other, size in sizes if type(other) is type(module)]
            for key in vars(module) if known.intersection(leaves(expr)) else ():
                tag = tags.get((id(module), key))
                unread = tag is not None and _repeated(tag, known) is None
                if unread and all(tags.get((id(other), key)) == int(size.size) for other, size in alike):
                    yield Mirror(module, key, (expr,))

    def unexplained(self) -> Iterator[tuple[Expr, str]]:
        """Yield sizes whose value went into the computation as a number, other than to scale scores, and where."""
        for size, under_way, _ in self._log.reads:
            if id(size) not in self._explained:
                expr = expression(size, "arithmetic")
                for each in operands(size) if expr is None else [expr]:
                    yield each, type(under_way).__name__

    def root_of(self, expr: Expr, module: object) -> tuple[bool, Mirror | None, Expr | None]:
        """Say whether a module divides by the square root of a size.

        Returns:
            Whether it does; the attribute that holds that number, if one does; and what else the size is a multiple
            of, as where scores of one head are divided by the root of the size of all heads.
        """
        for real, under_way in self._log.reals:
            for power in (-0.5, 0.5):
                if under_way is module and math.isclose(real, expr.size**power, rel_tol=1e-6):
                    return True, Mirror(*real.origin, (expr,), power=power), None
        # Each of several scores may have a root of its own; or all of them share one.
        for size, under_way, rooted in sorted(self._log.reads, key=lambda read: id(read[0]) in self._explained):
            read = expression(size, "a square root") if rooted and under_way is module else None
            if read is None:
                continue
            same, others = same_size(read, expr), _others(read, expr)
            if same or others is not None:
                self._explained.add(id(size))
                return True, None, None if same or others is None or is_data(others) else others
        return False, None, None


def _repeated(number: int, known: set[Symbol]) -> Expr | None:
    """Return what a tag stands for, if that can change."""
    if not isinstance(number, Size) or isinstance(number.form, tuple):
        return None
    return number.form if known.intersection(leaves(number.form)) else None


def _others(whole: Expr, part: Expr) -> Expr | None:
    """Return the product of the factors that are not in `part`, if all of that are in `whole`."""
    factors: list[Expr] = list(whole.factors) if isinstance(whole, Product) else [whole]
    for factor in part.factors if isinstance(part, Product) else (resolve(part),):
        if factor not in factors:
            return None
        factors.remove(factor)
    return product(factors) if factors else None


def _is_layer(owner: Any) -> bool:
    """Say whether something is a layer of torch whose forward pass reads no sizes from attributes."""
    return type(owner).__module__.startswith("torch.nn.") and not isinstance(owner, _READING)


def _owners(model: nn.Module, *, layers: bool) -> Iterator[Any]:
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        layer = _is_layer(module)
        if layers or not layer:
            yield module
        for key, value in vars(module).items() if not layer else ():
            own = type(value) is dict and key not in INTERNAL
            if (own or _is_configuration(value)) and id(value) not in seen:
                seen.add(id(value))
                yield value


def _is_configuration(value: Any) -> bool:
    kind = type(value)
    return (
        kind.__module__.partition(".")[0] not in {"builtins", "torch", "collections", "functools", "typing"}
        and isinstance(getattr(value, "__dict__", None), dict)
        and not isinstance(value, (Tensor, nn.Module, type))
        and not callable(value)
    )
