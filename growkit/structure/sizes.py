"""Sizes that remember what they are the size of.

While a model is traced, the numbers that its `forward` reads from tensor shapes and from attributes (`self.heads`)
are integers that carry a dimension expression through arithmetic. So a view shows not only which sizes it makes, but
also where each of them comes from: from another dimension, from an attribute, which then has to follow an edit, or
from a number written in the code, which cannot.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from growkit.structure.dimensions import (
    Concat,
    Expr,
    Product,
    Symbol,
    concat,
    is_data,
    product,
    resolve,
    unify,
)
from growkit.structure.refine import chop

__all__ = ["Call", "Real", "Size", "SizeMode", "expression", "plain", "same_size", "sizes_in"]

# How a size was made: an expression, or an arithmetic operation on two operands.
Form = Expr | tuple[str, Any, Any]


class Size(int):
    """An integer that knows which dimension it is the size of. Copies and pickles are plain integers."""

    form: Form
    log: Log

    def __new__(cls, value: int, form: Form, log: Log) -> Size:
        """Return a size.

        Args:
            value: the number.
            form: what it is the size of.
            log: where to note that the number itself was used, beyond sizes.
        """
        self = super().__new__(cls, value)
        self.form, self.log = form, log
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int.__int__(self),)

    def __copy__(self) -> int:
        return int.__int__(self)

    def __deepcopy__(self, memo: Any) -> int:
        return int.__int__(self)

    def _combine(self, operation: str, left: Any, right: Any, value: Any) -> Any:
        if isinstance(value, int):
            adds_nothing = value == int.__int__(self) and operation in {"sum", "difference"}
            return self if adds_nothing else Size(value, (operation, left, right), self.log)
        self.log.note_read(self)  # the other operand is no integer
        return value

    def __neg__(self) -> Any:
        return Size(-int.__int__(self), ("negative", self, 0), self.log)

    def __mul__(self, other: Any) -> Any:
        return self._combine("product", self, other, super().__mul__(other))

    def __rmul__(self, other: Any) -> Any:
        return self._combine("product", other, self, super().__rmul__(other))

    def __add__(self, other: Any) -> Any:
        return self._combine("sum", self, other, super().__add__(other))

    def __radd__(self, other: Any) -> Any:
        return self._combine("sum", other, self, super().__radd__(other))

    def __sub__(self, other: Any) -> Any:
        return self._combine("difference", self, other, super().__sub__(other))

    def __rsub__(self, other: Any) -> Any:
        return self._combine("difference", other, self, super().__rsub__(other))

    def __floordiv__(self, other: Any) -> Any:
        return self._combine("quotient", self, other, super().__floordiv__(other))

    def __rfloordiv__(self, other: Any) -> Any:
        return self._combine("quotient", other, self, super().__rfloordiv__(other))

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other) is True  # type: ignore[operator]
        if equal and isinstance(other, Size):
            self.log.equal.append((self, other))
        return equal

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__

    def __float__(self) -> float:
        self.log.note_read(self)
        return float(int.__int__(self))

    def __truediv__(self, other: Any) -> Any:
        self.log.note_read(self)
        return super().__truediv__(other)

    def __rtruediv__(self, other: Any) -> Any:
        self.log.note_read(self)
        return super().__rtruediv__(other)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        self.log.note_read(self)
        return super().__pow__(other, modulo)


class Real(float):
    """A floating point attribute of a module that knows whose it is. Copies and pickles are plain numbers."""

    origin: tuple[object, str]

    def __new__(cls, value: float, origin: tuple[object, str]) -> Real:
        """Return a number that is the attribute `origin[1]` of the object `origin[0]`."""
        self = super().__new__(cls, value)
        self.origin = origin
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (float.__float__(self),)

    def __copy__(self) -> float:
        return float.__float__(self)

    def __deepcopy__(self, memo: Any) -> float:
        return float.__float__(self)


class Log:
    """What a pass did with sizes beyond making tensors of them.

    Attributes:
        equal: pairs of sizes that were compared and found equal.
        reads: sizes whose value was used as a number, each with the module under way.
        reals: attributes that multiplied or divided a tensor, each with the module under way.
        module: returns the module under way.
    """

    def __init__(self, module: Callable[[], object]) -> None:
        self.equal: list[tuple[Size, Size]] = []
        self.reads: list[tuple[Size, object]] = []
        self.reals: list[tuple[Real, object]] = []
        self.module = module

    def note_read(self, size: Size) -> None:
        """Note that the value of a size went into the computation."""
        self.reads.append((size, self.module()))


# ------------------------------------------------------------------ what a size is the size of


def expression(size: Any, where: str) -> Expr | None:
    """Return the dimension that a number is the size of, or None if growkit cannot follow how it was made.

    Args:
        size: a `Size`, or a plain number, which is a dimension of its own.
        where: the operation that asks, for the reason given if symbols must be reconciled for it.
    """
    if not isinstance(size, Size):
        return Symbol(int(size), extent=True, frozen=f"is the number {size} in the code") if size > 0 else None
    if not isinstance(size.form, tuple):
        return resolve(size.form)
    operation, left, right = size.form
    if operation == "negative":
        return expression(left, where)
    a, b = expression(left, where), expression(right, where)
    if a is None or b is None:
        return None
    if operation == "product" and not isinstance(right, Size):
        a, b = b, a  # a number of equal parts, laid end to end
    made = {"product": _times, "sum": _plus, "difference": _minus, "quotient": _over}[operation](a, b, where)
    return made if made is not None and made.size == int(size) else None


def _times(a: Expr, b: Expr, where: str) -> Expr | None:
    return product((a, b))


def _plus(a: Expr, b: Expr, where: str) -> Expr | None:
    return concat((a, b))


def _minus(a: Expr, b: Expr, where: str) -> Expr | None:
    if is_data(a):
        return Symbol(a.size - b.size, extent=True, frozen="is a difference of sizes") if a.size > b.size else None
    if not isinstance(a, Concat):
        return None
    if same_size(concat(a.parts[1:]), b):
        return a.parts[0]
    for index in range(1, len(a.parts)):
        if same_size(concat(a.parts[:index]), b):
            return concat(a.parts[index:])
    return None


def _over(a: Expr, b: Expr, where: str) -> Expr | None:
    if a.size % b.size or is_data(a):
        return Symbol(a.size // b.size, extent=True, frozen="is a quotient of sizes") if a.size >= b.size else None
    if is_data(b):
        return chop(a, b.size, where)
    remaining = list(a.factors) if isinstance(a, Product) else [a]
    for factor in b.factors if isinstance(b, Product) else (b,):
        match = next((f for f in remaining if f is factor), None)
        match = match or next((f for f in remaining if f.size == factor.size and not is_data(f)), None)
        if match is not None:
            unify(match, factor, where)
            remaining.remove(match)
        elif len(remaining) == 1 and isinstance(remaining[0], Symbol) and remaining[0].size % factor.size == 0:
            rest = Symbol(remaining[0].size // factor.size)
            unify(remaining[0], product((factor, rest)), where)
            remaining = [rest]
        else:
            return None
    return product(remaining)


def same_size(a: Expr, b: Expr) -> bool:
    """Say whether two expressions have the same size whatever the sizes of their symbols."""
    return _polynomial(a) == _polynomial(b)


def _polynomial(expr: Expr) -> dict[tuple[int, ...], int]:
    """Return the size as a sum of products of symbols: by sorted symbols, how often; what cannot change is a number."""
    expr = resolve(expr)
    if isinstance(expr, Symbol):
        return {(): expr.size} if expr.extent or expr.frozen else {(id(expr),): 1}
    if isinstance(expr, Product):
        result = {(): 1}
        for factor in expr.factors:
            terms: dict[tuple[int, ...], int] = {}
            for key, n in _polynomial(factor).items():
                for other, m in result.items():
                    merged = tuple(sorted((*key, *other)))
                    terms[merged] = terms.get(merged, 0) + n * m
            result = terms
        return result
    total: dict[tuple[int, ...], int] = {}
    for part in expr.parts:
        for key, n in _polynomial(part).items():
            total[key] = total.get(key, 0) + n
    return total


# ------------------------------------------------------------------ function calls


class Call(NamedTuple):
    """The torch function under way, as it was called from Python during the pass that a log belongs to."""

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    log: Log

    @property
    def name(self) -> str:
        """Its name, such as "view"."""
        return str(getattr(self.function, "__name__", ""))

    def own(self, number: int) -> int:
        """Return a size of this pass as it is, and one that a cache kept from another pass as a plain number."""
        return number if not isinstance(number, Size) or number.log is self.log else int.__int__(number)

    def asked(self, dimensions: int) -> list[Any] | None:
        """Return the sizes asked for by a view, one a dimension of the result; None if the call names none."""
        numbers = [self.own(number) for number in sizes_in((self.args, self.kwargs))]
        if self.name == "unflatten" and numbers:
            axis, *sizes = numbers
            front = axis % (dimensions - len(sizes) + 1)
            return [None] * front + sizes + [None] * (dimensions - front - len(sizes))
        return numbers if self.name in _SHAPING and len(numbers) == dimensions else None

    def origin(self, value: int) -> Any:
        """Return the argument that has a value: a `Size` before a plain number; None if there is none."""
        found = None
        for number in map(self.own, sizes_in((self.args, self.kwargs))):
            if int(number) == value:
                if isinstance(number, Size):
                    return number
                found = number
        return found


# Functions whose integers are the sizes of their result.
_SHAPING = {
    *("view", "reshape", "expand", "view_copy", "zeros", "ones", "empty", "rand", "randn"),
    *("new_zeros", "new_ones", "new_empty", "new_full"),
}


def sizes_in(value: Any) -> Iterator[int]:
    """Yield the integers inside nested arguments, slices and tuples, in order."""
    if type(value) is int or isinstance(value, Size):
        yield value
    elif isinstance(value, (tuple, list)):
        for child in value:
            yield from sizes_in(child)
    elif isinstance(value, slice):
        yield from sizes_in((value.start, value.stop, value.step))
    elif isinstance(value, dict):
        yield from sizes_in(tuple(value.values()))


def plain(value: Any) -> Any:
    """Return a value with every size and real in it turned into a plain number; itself if there is none."""
    if isinstance(value, Size):
        return int.__int__(value)
    if isinstance(value, Real):
        return float.__float__(value)
    if type(value) in (tuple, list, torch.Size) and any(
        isinstance(child, (Size, Real, tuple, list)) for child in value
    ):
        return type(value)(plain(child) for child in value)
    if type(value) is dict and any(isinstance(child, (Size, Real, tuple, list)) for child in value.values()):
        return {key: plain(child) for key, child in value.items()}
    return value


def forget_cached_shapes() -> None:
    """Empty the cache in which einops keeps shapes by their numbers, which would outlive what they are the size of."""
    reconstruct = getattr(sys.modules.get("einops.einops"), "_reconstruct_from_shape", None)
    if reconstruct is not None:
        reconstruct.cache_clear()


# Functions in which a number is an operand, not a size.
_ARITHMETIC = {
    *("mul", "div", "true_divide", "add", "sub", "rsub", "pow", "multiply", "divide", "float_power"),
    *("__mul__", "__rmul__", "__truediv__", "__rtruediv__", "__add__", "__radd__", "__sub__", "__rsub__", "__pow__"),
    *("mul_", "div_", "add_", "sub_", "__imul__", "__itruediv__", "tensor", "full", "full_like", "as_tensor"),
    *("scaled_dot_product_attention", "baddbmm", "masked_fill", "clamp"),
}
_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]
_OVERRIDES = {"has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"}


class SizeMode(TorchFunctionMode):
    """Lets tensors answer with sizes that remember, and tells a tracer which torch function is under way.

    Args:
        tracer: has `axes_of(tensor)`, `call`, `log` and `through(function, args, kwargs)`.
    """

    def __init__(self, tracer: Any) -> None:
        super().__init__()
        self._tracer = tracer
        # The function written in Python that runs; a builtin of the same name inside it comes in its name.
        self._opened: Any = None

    def __enter__(self) -> SizeMode:
        forget_cached_shapes()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        forget_cached_shapes()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer questions for sizes; run anything else, noting that it is under way."""
        kwargs = kwargs or {}
        tracer = self._tracer
        if func == _SHAPE:
            return self._shape(args[0], func(*args))
        name = getattr(func, "__name__", "")
        if name == "size" and isinstance(args[0], Tensor):
            return self._size(*args, **kwargs)
        if name == "numel" and isinstance(args[0], Tensor):
            axes = tracer.axes_of(args[0])
            total = func(*args)
            return Size(total, product(axis.expr for axis in axes), tracer.log) if axes else total
        if func is not self._opened and (opened := _opened(func)) is not None:
            outer_function, self._opened = self._opened, func
            try:
                with self:
                    return opened(*args, **kwargs)
            finally:
                self._opened = outer_function
        if name in _ARITHMETIC:
            self._note_operands(args, kwargs)
        outer, tracer.call = tracer.call, Call(func, args, kwargs, tracer.log)
        try:
            return tracer.through(func, args, kwargs)
        finally:
            tracer.call = outer

    def _shape(self, tensor: Tensor, shape: torch.Size) -> torch.Size:
        axes = self._tracer.axes_of(tensor)
        if axes is None:
            return shape
        return torch.Size([Size(n, axis.expr, self._tracer.log) for n, axis in zip(shape, axes, strict=True)])

    def _size(self, tensor: Tensor, dim: int | None = None) -> Any:
        shape = self._shape(tensor, Tensor.size(tensor))
        return shape if dim is None else shape[dim]

    def _note_operands(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        log = self._tracer.log
        for operand in (*args, *kwargs.values()):
            if isinstance(operand, Size):
                log.note_read(operand)
            elif isinstance(operand, Real):
                log.reals.append((operand, log.module()))


@functools.cache
def _opened(function: Any) -> Callable[..., Any] | None:
    """Return a torch function that is written in Python so that the calls inside it are seen; None for others.

    Such functions first ask whether somebody overrides them. A mode does, for all; here they must not ask.
    """
    if not isinstance(function, FunctionType) or not _OVERRIDES.intersection(function.__code__.co_names):
        return None
    names = {**function.__globals__, **dict.fromkeys(_OVERRIDES, lambda *_: False)}
    opened = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened
