"""Torch functions as the code calls them: which one is under way, and which sizes it was asked for."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from growkit.structure.dimensions import Symbol, freeze, is_data, product
from growkit.structure.sizes import Count, Log, Real, Seen, Size, sizes_in

__all__ = ["Call", "SizeMode"]


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
        if self.name != "unflatten" and self.name not in _SHAPING:
            return None
        numbers = [self.own(number) for number in sizes_in((self.args, self.kwargs))]
        if self.name == "unflatten" and numbers:
            axis, *sizes = numbers
            front = axis % (dimensions - len(sizes) + 1)
            return [None] * front + sizes + [None] * (dimensions - front - len(sizes))
        return numbers if len(numbers) == dimensions else None

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
    *(
        "scaled_dot_product_attention",
        "baddbmm",
        "masked_fill",
        "clamp",
        "clamp_min",
        "clamp_max",
        "clamp_",
        "hardtanh",
    ),
    *("remainder", "fmod", "floor_divide", "__mod__", "__rmod__", "__floordiv__", "__rfloordiv__", "threshold"),
    *("gt", "ge", "lt", "le", "eq", "ne", "__gt__", "__ge__", "__lt__", "__le__", "__eq__", "__ne__", "where"),
    *("topk", "kthvalue", "tril", "triu", "roll", "fill_", "lerp", "addcmul", "addcdiv"),
    *(f"{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)),
}
# Those of them that make a tensor of it, of which a root may be taken.
_MAKING = {"tensor", "full", "full_like", "as_tensor"}
# Functions that take entries out of torch, and others through which Python sees them.
_LEAVING = {"numpy", "__array__", "tolist", "__dlpack__"}
_SHOWING = {"data_ptr", "storage", "untyped_storage", "_typed_storage", "__repr__", "__format__", "tensor_split"}
_TAKEN = {"__bool__", "item", "equal", "allclose", "is_nonzero"}
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
        if name == "__len__":
            return self._length(args[0], func(*args))
        if name in _LEAVING or name in _SHOWING:
            self._shows(args, name)
        if func is not self._opened and (opened := _opened(func)) is not None:
            outer_function, self._opened = self._opened, func
            try:
                with self:
                    return opened(*args, **kwargs)
            finally:
                self._opened = outer_function
        if name in _ARITHMETIC:
            self._note_operands(args, kwargs, rooted=name in _MAKING)
        outer, tracer.call = tracer.call, Call(func, args, kwargs, tracer.log)
        try:
            out = tracer.through(func, args, kwargs)
        finally:
            tracer.call = outer
        return self._taken(out) if name in _TAKEN else out

    def _taken(self, value: Any) -> Any:
        """Return the truth of a tensor as the pass wants it; a number that is taken out of one asks when compared."""
        log = self._tracer.log
        if type(value) is bool:
            return log.answer(value)
        if type(value) is int and value > 0:
            return Size(value, Symbol(value, extent=True, frozen="is a value of the data"), log)
        if type(value) is int:
            return Count(value, log)
        return Seen(value, log) if type(value) is float else value

    def _shows(self, args: tuple[Any, ...], name: str) -> None:
        """Note that Python sees entries of a tensor, after which other values may lead elsewhere."""
        self._tracer.runner.look(args[1:] if name == "tensor_split" else args[0])
        self._tracer.log.decides = True
        for axis in (self._tracer.axes_of(args[0]) or ()) if name in _LEAVING else ():
            if not is_data(axis.expr):
                freeze(axis.expr, f"{name} in {self._tracer.place} takes its entries out of torch")

    def _shape(self, tensor: Tensor, shape: torch.Size) -> torch.Size:
        axes = self._tracer.axes_of(tensor)
        if axes is None:
            return shape
        return torch.Size([Size(n, axis.expr, self._tracer.log) for n, axis in zip(shape, axes, strict=True)])

    def _size(self, tensor: Tensor, dim: int | None = None) -> Any:
        shape = self._shape(tensor, Tensor.size(tensor))
        return shape if dim is None else shape[dim]

    def _length(self, tensor: Tensor, length: int) -> int:
        """Note that Python makes a plain number of a length, so that nobody sees what becomes of it."""
        axes = self._tracer.axes_of(tensor)
        if axes is not None:
            size = Size(length, axes[0].expr, self._tracer.log)
            size.log.note_read(size)
            size.log.note_escape(size)
        return length

    def _note_operands(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, rooted: bool) -> None:
        log = self._tracer.log
        for operand in (*args, *kwargs.values()):
            if isinstance(operand, Size):
                log.note_read(operand, rooted=rooted)
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
