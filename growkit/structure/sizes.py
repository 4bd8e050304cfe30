"""Sizes that remember what they are the size of.

While a model is traced, the numbers that its `forward` reads from tensor shapes and from attributes (`self.heads`)
are integers that carry a dimension expression through arithmetic. So a view shows not only which sizes it makes, but
also where each of them comes from: from another dimension, from an attribute, which then has to follow an edit, or
from a number written in the code, which cannot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from typing import Any

import torch

from growkit.structure.dimensions import Concat, Expr, Product, Symbol, concat, is_data, leaves, product, resolve
from growkit.structure.refine import chop
from growkit.structure.turns import Place, Turns, compares, place_of_question
from growkit.structure.unify import unify

__all__ = ["Count", "Log", "Real", "Seen", "Size", "expression", "operands", "plain", "same_size", "sizes_in"]

# How a size was made: an expression, or an arithmetic operation on two operands.
Form = Expr | tuple[str, Any, Any]


class _Remembering:
    """A number that remembers something. Copies and pickles are plain numbers."""

    _kind: type[Any]

    @property
    def plain(self) -> Any:
        """The number alone."""
        return self._kind.__pos__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._kind, (self.plain,)

    def __copy__(self) -> Any:
        return self.plain

    def __deepcopy__(self, memo: Any) -> Any:
        return self.plain


class Size(_Remembering, int):
    """An integer that knows which dimension it is the size of."""

    _kind = int

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

    @property
    def has_units(self) -> bool:
        """Whether units of the network take part in it."""
        return self._parts[0]

    @property
    def has_data(self) -> bool:
        """Whether sizes of data do."""
        return self._parts[1]

    @cached_property
    def _parts(self) -> tuple[bool, bool]:
        if isinstance(self.form, tuple):
            sizes = [operand for operand in self.form[1:] if isinstance(operand, Size)]
            return any(size.has_units for size in sizes), any(size.has_data for size in sizes)
        symbols = leaves(self.form)
        return any(not s.extent for s in symbols), any(s.extent and not s.number for s in symbols)

    def _value(self, operation: str, other: Any) -> Any:
        number = float(int.__int__(self)) if isinstance(other, float) else int.__int__(self)
        return getattr(number, operation)(other)

    def _combine(self, operation: str, left: Any, right: Any, value: Any) -> Any:
        if isinstance(value, int):
            adds_nothing = value == int.__int__(self) and operation in {"sum", "difference"}
            return self if adds_nothing else Size(value, (operation, left, right), self.log)
        if isinstance(left, float) or isinstance(right, float):
            self.log.note_read(self)
        return self.log.number(self, value)

    def __abs__(self) -> Any:
        return self.log.number(self, super().__abs__())

    def __and__(self, other: Any) -> Any:
        return self.log.number(self, super().__and__(other))

    def __neg__(self) -> Any:
        return Size(-int.__int__(self), ("negative", self, 0), self.log)

    def __mul__(self, other: Any) -> Any:
        return self._combine("product", self, other, self._value("__mul__", other))

    def __rmul__(self, other: Any) -> Any:
        return self._combine("product", other, self, self._value("__rmul__", other))

    def __add__(self, other: Any) -> Any:
        return self._combine("sum", self, other, self._value("__add__", other))

    def __radd__(self, other: Any) -> Any:
        return self._combine("sum", other, self, self._value("__radd__", other))

    def __sub__(self, other: Any) -> Any:
        return self._combine("difference", self, other, self._value("__sub__", other))

    def __rsub__(self, other: Any) -> Any:
        return self._combine("difference", other, self, self._value("__rsub__", other))

    def __floordiv__(self, other: Any) -> Any:
        self.log.note_escape(self)
        return self._combine("quotient", self, other, super().__floordiv__(other))

    def __rfloordiv__(self, other: Any) -> Any:
        return self._combine("quotient", other, self, super().__rfloordiv__(other))

    def __rshift__(self, other: Any) -> Any:
        return self // (1 << other) if type(other) is int else super().__rshift__(other)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __mod__(self, other: Any) -> Any:
        return self.log.remainder(self, other, super().__mod__(other))

    def __rmod__(self, other: Any) -> Any:
        return self.log.remainder(self, other, super().__rmod__(other))

    def __bool__(self) -> bool:
        given = int.__int__(self) != 0
        return given if self.has_units else self.log.answer(given)

    def __lt__(self, other: Any) -> Any:
        return self.log.compare(self, other, super().__lt__(other))

    def __le__(self, other: Any) -> Any:
        return self.log.compare(self, other, super().__le__(other))

    def __gt__(self, other: Any) -> Any:
        return self.log.compare(self, other, super().__gt__(other))

    def __ge__(self, other: Any) -> Any:
        return self.log.compare(self, other, super().__ge__(other))

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other) is True  # type: ignore[operator]
        if equal and isinstance(other, Size):
            self.log.equal.append((self, other))
        asks = self.has_data or (isinstance(other, Size) and other.has_data)
        return self.log.answer(equal, equation=True) if asks else equal

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__

    def __float__(self) -> float:
        self.log.note_read(self, rooted=True)
        self.log.note_escape(self)
        return float(int.__int__(self))

    def __int__(self) -> int:
        self.log.note_escape(self)
        return int.__int__(self)

    def __truediv__(self, other: Any) -> Any:
        for size in (self, other) if isinstance(other, Size) else (self,):
            self.log.note_read(size, rooted=True)
        return self.log.number(self, self._value("__truediv__", other))

    def __rtruediv__(self, other: Any) -> Any:
        self.log.note_read(self)
        return self.log.number(self, self._value("__rtruediv__", other))

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        self.log.note_read(self, rooted=other in {0.5, -0.5})
        return self.log.number(self, self._value("__pow__", other))


class Real(_Remembering, float):
    """A floating point attribute of a module that knows whose it is."""

    _kind = float
    origin: tuple[object, str]

    def __new__(cls, value: float, origin: tuple[object, str]) -> Real:
        """Return a number that is the attribute `origin[1]` of the object `origin[0]`."""
        self = super().__new__(cls, value)
        self.origin = origin
        return self


class _Asking(_Remembering):
    """A number that data decide: to compare it, or to take it for true or false, is a question."""

    log: Log

    def __bool__(self) -> bool:
        return self.log.answer(self.plain != 0)

    def __lt__(self, other: Any) -> Any:
        return self._answer("__lt__", other)

    def __le__(self, other: Any) -> Any:
        return self._answer("__le__", other)

    def __gt__(self, other: Any) -> Any:
        return self._answer("__gt__", other)

    def __ge__(self, other: Any) -> Any:
        return self._answer("__ge__", other)

    def __eq__(self, other: object) -> Any:
        return self._answer("__eq__", other, equation=True)

    def __ne__(self, other: object) -> Any:
        return self._answer("__ne__", other, equation=True)

    def _answer(self, comparison: str, other: object, *, equation: bool = False) -> Any:
        given = getattr(self._kind, comparison)(self, other)
        return given if given is NotImplemented else self.log.answer(given, equation=equation)


class Seen(_Asking, float):
    """A number that was taken out of a tensor (`h.amax().item()`), and what is computed from it."""

    _kind = float
    __hash__ = float.__hash__

    def __new__(cls, value: float, log: Log) -> Seen:
        """Return a number that was taken out of a tensor during the pass of a log."""
        self = super().__new__(cls, value)
        self.log = log
        return self

    def _with(self, operation: str, *operands: Any) -> Any:
        value = getattr(float, operation)(self, *operands)
        return Seen(value, self.log) if type(value) is float else value

    def __neg__(self) -> Any:
        return self._with("__neg__")

    def __abs__(self) -> Any:
        return self._with("__abs__")

    def __round__(self, digits: Any = None) -> Any:
        return self._with("__round__") if digits is None else self._with("__round__", digits)

    def __add__(self, other: Any) -> Any:
        return self._with("__add__", other)

    def __radd__(self, other: Any) -> Any:
        return self._with("__radd__", other)

    def __sub__(self, other: Any) -> Any:
        return self._with("__sub__", other)

    def __rsub__(self, other: Any) -> Any:
        return self._with("__rsub__", other)

    def __mul__(self, other: Any) -> Any:
        return self._with("__mul__", other)

    def __rmul__(self, other: Any) -> Any:
        return self._with("__rmul__", other)

    def __truediv__(self, other: Any) -> Any:
        return self._with("__truediv__", other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with("__rtruediv__", other)


class Count(_Asking, int):
    """A whole number that data decide and that is no size, such as a remainder."""

    _kind = int
    __hash__ = int.__hash__

    def __new__(cls, value: int, log: Log) -> Count:
        """Return a number that data decided during the pass of a log."""
        self = super().__new__(cls, value)
        self.log = log
        return self


class Log:
    """What a pass did with sizes beyond making tensors of them.

    Attributes:
        equal: pairs of sizes that were compared and found equal.
        reads: sizes whose value was used as a number, each with the module under way, and whether that number may be
            one that a root is taken of.
        reals: attributes that multiplied or divided a tensor, each with the module under way.
        turns: what was asked about values, and about sizes of data.
        decides: whether the pass looked at values or sizes of data, so that other data may lead elsewhere.
        stack: the modules under way, the innermost last.

    Args:
        lost: questions that are not to be turned.
    """

    def __init__(self, lost: Collection[Place] = ()) -> None:
        self.equal: list[tuple[Size, Size]] = []
        self.reads: list[tuple[Size, object, bool]] = []
        self.reals: list[tuple[Real, object]] = []
        self.turns = Turns(lost)
        self.decides = False
        self.stack: list[object] = []

    def module(self) -> object:
        """Return the module under way, or None."""
        return self.stack[-1] if self.stack else None

    def note_read(self, size: Size, *, rooted: bool = False) -> None:
        """Note that the value of a size went into the computation, perhaps for a root to be taken of it."""
        self.reads.append((size, self.module(), rooted))

    def answer(self, given: bool, *, equation: bool = False) -> bool:
        """Return the answer to a question about values or sizes of data, which is the one given but where it is turned.

        Args:
            given: the answer.
            equation: whether two numbers are equal; that is only turned where the code compares them.
        """
        place = place_of_question()
        if place is None:
            return given
        self.decides = True
        turnable = not equation or compares(place)
        return self.turns.answer(place, id(self.module()), given) if turnable else given

    def compare(self, size: Size, other: Any, given: Any) -> Any:
        """Return the outcome of a comparison; with data in it, it is a question, and units in it are a number."""
        sizes = [each for each in (size, other) if isinstance(each, Size)]
        asks = given is not NotImplemented and any(each.has_data for each in sizes)
        if not asks or place_of_question() is None:
            return given
        self._note_units(sizes)
        return self.answer(given)

    def remainder(self, size: Size, other: Any, value: Any) -> Any:
        """Return what is left of a division; with data in it, other data may lead elsewhere."""
        sizes = [each for each in (size, other) if isinstance(each, Size)]
        if type(value) is not int or not any(each.has_data for each in sizes):
            return value
        self._note_units(sizes)
        self.decides = True
        return Count(value, self)

    def number(self, size: Size, value: Any) -> Any:
        """Return what was computed from a size and is none; if that is one of data, other data may lead elsewhere."""
        if size.has_units or not isinstance(value, (int, float)):
            return value
        self.note_escape(size)
        return Count(value, self) if isinstance(value, int) else Seen(value, self)

    def note_escape(self, size: Size) -> None:
        """Note that a size leads to a number or a place; if it is one of data, other data may lead elsewhere."""
        self.decides |= not size.has_units and place_of_question() is not None

    def _note_units(self, sizes: Iterable[Size]) -> None:
        for size in sizes:
            if size.has_units:
                self.note_read(size)


def sizes_in(value: Any) -> Iterator[int]:
    """Yield the integers inside nested arguments, slices and tuples, in order."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, (tuple, list)):
        for child in value:
            yield from sizes_in(child)
    elif isinstance(value, slice):
        yield from sizes_in((value.start, value.stop, value.step))
    elif isinstance(value, dict):
        yield from sizes_in(tuple(value.values()))


def plain(value: Any) -> Any:
    """Return a value with every number in it that remembers something turned into a plain one; itself if none does."""
    if isinstance(value, _Remembering):
        return value.plain
    if type(value) in (tuple, list, torch.Size):
        children = [plain(child) for child in value]
        changed = any(new is not old for new, old in zip(children, value, strict=True))
        return type(value)(children) if changed else value
    if type(value) is dict:
        items = {key: plain(child) for key, child in value.items()}
        return items if any(items[key] is not child for key, child in value.items()) else value
    return value


# ------------------------------------------------------------------ what a size is the size of


def expression(size: Any, where: str) -> Expr | None:
    """Return the dimension that a number is the size of, or None if growkit cannot follow how it was made.

    Args:
        size: a `Size`, or a plain number, which is a dimension of its own.
        where: the operation that asks, for the reason given if symbols must be reconciled for it.
    """
    if not isinstance(size, Size):
        return (
            Symbol(int(size), extent=True, frozen=f"is the number {size} in the code", number=True)
            if size > 0
            else None
        )
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


def operands(size: Size) -> list[Expr]:
    """Return the dimensions that a number was computed from, however that was."""
    found: dict[int, Expr] = {}
    waiting, seen = [size], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each.form, tuple):
            waiting += [operand for operand in each.form[1:] if isinstance(operand, Size)]
        else:
            found.setdefault(id(each.form), resolve(each.form))
    return list(found.values())


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
    remaining: list[Expr] = list(a.factors) if isinstance(a, Product) else [a]
    for factor in b.factors if isinstance(b, Product) else (b,):
        match = next((f for f in remaining if f is factor), None)
        match = match or next((f for f in remaining if f.size == factor.size and not is_data(f)), None)
        if match is not None:
            unify(match, factor, where)
            remaining.remove(match)
        elif len(remaining) == 1 and isinstance(remaining[0], Symbol) and remaining[0].size % factor.size == 0:
            rest: Expr = Symbol(remaining[0].size // factor.size)
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
        result: dict[tuple[int, ...], int] = {(): 1}
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
