"""Sizes that remember what they are the size of.

While a model is traced, the numbers that its `forward` reads from tensor shapes and from attributes (`self.heads`)
are integers that carry a dimension expression through arithmetic. So a view shows not only which sizes it makes, but
also where each of them comes from: from another dimension, from an attribute, which then has to follow an edit, or
from a number written in the code, which cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from growkit.structure.dimensions import Concat, Expr, Product, Symbol, concat, is_data, product, resolve
from growkit.structure.refine import chop
from growkit.structure.turns import Turns, place_of_question
from growkit.structure.unify import unify

__all__ = ["Log", "Number", "Real", "Seen", "Size", "expression", "operands", "plain", "same_size", "sizes_in"]

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
        if isinstance(left, float) or isinstance(right, float):
            self.log.note_read(self)
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

    def __rshift__(self, other: Any) -> Any:
        return self // (1 << other) if type(other) is int else super().__rshift__(other)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __mod__(self, other: Any) -> Any:
        self.log.note_remainder(self, other)
        return super().__mod__(other)

    def __rmod__(self, other: Any) -> Any:
        self.log.note_remainder(self, other)
        return super().__rmod__(other)

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
        of_data = _is_of_data(self) and (not isinstance(other, Size) or _is_of_data(other))
        return self.log.answer(equal) if of_data else equal

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


class Number(float):
    """A floating point number that remembers something. Copies and pickles are plain numbers."""

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (float.__float__(self),)

    def __copy__(self) -> float:
        return float.__float__(self)

    def __deepcopy__(self, memo: Any) -> float:
        return float.__float__(self)


class Real(Number):
    """A floating point attribute of a module that knows whose it is."""

    origin: tuple[object, str]

    def __new__(cls, value: float, origin: tuple[object, str]) -> Real:
        """Return a number that is the attribute `origin[1]` of the object `origin[0]`."""
        self = super().__new__(cls, value)
        self.origin = origin
        return self


class Seen(Number):
    """A number that was taken out of a tensor (`h.amax().item()`); comparing it is a question about values."""

    log: Log

    def __new__(cls, value: float, log: Log) -> Seen:
        """Return a number that was taken out of a tensor during the pass of a log."""
        self = super().__new__(cls, value)
        self.log = log
        return self

    def _answer(self, given: Any) -> Any:
        return given if given is NotImplemented else self.log.answer(given)

    def __bool__(self) -> bool:
        return self.log.answer(float.__float__(self) != 0)

    def __lt__(self, other: Any) -> Any:
        return self._answer(super().__lt__(other))

    def __le__(self, other: Any) -> Any:
        return self._answer(super().__le__(other))

    def __gt__(self, other: Any) -> Any:
        return self._answer(super().__gt__(other))

    def __ge__(self, other: Any) -> Any:
        return self._answer(super().__ge__(other))

    __hash__ = Number.__hash__

    def __eq__(self, other: object) -> Any:
        return self._answer(super().__eq__(other))

    def __ne__(self, other: object) -> Any:
        return self._answer(super().__ne__(other))


class Log:
    """What a pass did with sizes beyond making tensors of them.

    Attributes:
        equal: pairs of sizes that were compared and found equal.
        reads: sizes whose value was used as a number, each with the module under way.
        reals: attributes that multiplied or divided a tensor, each with the module under way.
        turns: what was asked about values, and about sizes of data.
        decides: whether anything was, so that other data may lead elsewhere.

    Args:
        stack: the modules under way, the innermost last.
    """

    def __init__(self, stack: Sequence[object] = ()) -> None:
        self.equal: list[tuple[Size, Size]] = []
        self.reads: list[tuple[Size, object]] = []
        self.reals: list[tuple[Real, object]] = []
        self.turns = Turns()
        self.decides = False
        self._stack = stack

    def module(self) -> object:
        """Return the module under way, or None."""
        return self._stack[-1] if self._stack else None

    def note_read(self, size: Size) -> None:
        """Note that the value of a size went into the computation."""
        self.reads.append((size, self.module()))

    def answer(self, given: bool) -> bool:
        """Return the answer to a question about values or sizes of data, which is the one given but where it is turned.

        Libraries ask nothing that leads elsewhere.
        """
        place = place_of_question()
        if place is None:
            return given
        self.decides = True
        return self.turns.answer(place, id(self.module()), given)

    def compare(self, size: Size, other: Any, given: Any) -> Any:
        """Return the outcome of a comparison; with data in it, it is a question."""
        ours = given is NotImplemented or place_of_question() is None
        return given if ours or not self._meets_data(size, other) else self.answer(given)

    def note_remainder(self, size: Size, other: Any) -> None:
        """Note that a size was taken modulo another one; with data in it, other data may lead elsewhere."""
        self.decides |= self._meets_data(size, other)

    def _meets_data(self, size: Size, other: Any) -> bool:
        """Say whether one of two numbers is a size of data; units beside it count as a number from now on."""
        sizes = [each for each in (size, other) if isinstance(each, Size)]
        of_data = [_is_of_data(each) for each in sizes]
        if any(of_data):
            self.reads.extend((each, self.module()) for each, data in zip(sizes, of_data, strict=True) if not data)
        return any(of_data)


def _is_of_data(size: Size) -> bool:
    return not isinstance(size.form, tuple) and is_data(size.form)


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
    """Return a value with every number in it that remembers something turned into a plain one; itself if none does."""
    if isinstance(value, Size):
        return int.__int__(value)
    if isinstance(value, Number):
        return float.__float__(value)
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


def operands(size: Size) -> Iterator[Expr]:
    """Yield the dimensions that a number was computed from, however that was."""
    if not isinstance(size.form, tuple):
        yield resolve(size.form)
        return
    for operand in size.form[1:]:
        if isinstance(operand, Size):
            yield from operands(operand)


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
