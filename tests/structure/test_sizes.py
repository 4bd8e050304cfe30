"""Sizes that remember what they are the size of, and what becomes of attributes that hold them."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import growkit
from growkit.structure import trace
from growkit.structure.calls import Call
from growkit.structure.dimensions import Concat, Product, Symbol, concat, product, resolve
from growkit.structure.sizes import Log, Size, expression, plain, same_size, sizes_in

LOG = Log()


def size(form) -> Size:
    return Size(form.size, form, LOG)


# ------------------------------------------------------------------ arithmetic


def test_a_size_is_an_integer():
    five = size(Symbol(5))
    assert (five, five + 1, 2 * five, five // 2, five % 2, -five, five**2) == (5, 6, 10, 2, 1, -5, 25)
    assert list(range(five)) == [0, 1, 2, 3, 4]
    assert {5: "found"}[five] == "found"
    assert [0] * five == [0] * 5
    assert isinstance(five, int)


def test_products_and_sums_of_sizes_are_products_and_concatenations():
    a, b = Symbol(2), Symbol(3)
    assert resolve(expression(size(a) * size(b), "op")).factors == (a, b)
    assert resolve(expression(size(a) + size(b), "op")).parts == (a, b)


def test_a_number_times_a_size_lays_equal_parts_end_to_end():
    unit = Symbol(4)
    for three in (3 * size(unit), size(unit) * 3):
        assert same_size(expression(three, "op"), concat([unit, unit, unit]))


def test_a_quotient_takes_a_factor_out():
    heads, head = Symbol(2), Symbol(5)
    assert resolve(expression(size(product([heads, head])) // size(heads), "op")) is head


def test_a_quotient_of_a_symbol_shows_what_it_consists_of():
    stream, heads = Symbol(10), Symbol(2)
    head = resolve(expression(size(stream) // size(heads), "op"))
    assert resolve(stream).factors == (heads, head)


def test_a_size_divided_by_a_number_consists_of_equal_parts():
    whole = Symbol(6)
    half = resolve(expression(size(whole) // 2, "op"))
    assert resolve(whole).parts == (half, half)


def test_a_difference_leaves_the_rest_of_a_concatenation():
    a, b, c = Symbol(2), Symbol(3), Symbol(4)
    whole = size(concat([a, b, c]))
    assert resolve(expression(whole - size(a), "op")).parts == (b, c)
    assert resolve(expression(whole - size(concat([b, c])), "op")) is a


@pytest.mark.parametrize("made", [lambda n: n % 4 + 0 * n, lambda n: n * n - n])
def test_arithmetic_that_cannot_be_followed_says_so(made):
    assert expression(made(size(Symbol(6))), "op") is None


def test_sizes_are_the_same_if_they_always_are():
    a, b = Symbol(2), Symbol(2)
    assert same_size(product([a, b]), product([b, a]))
    assert same_size(concat([a, a]), product([Symbol(2, extent=True), a]))
    assert not same_size(a, b)


def test_copies_and_pickles_are_plain_numbers():
    five = size(Symbol(5))
    for number in (copy.copy(five), copy.deepcopy(five), pickle.loads(pickle.dumps(five)), plain(five)):
        assert (type(number), number) == (int, 5)
    assert [type(n) for n in plain((five, [five], 2))[1]] == [int]


def test_numbers_that_are_read_are_noted():
    log = Log()
    log.stack.append("here")
    five = Size(5, Symbol(5), log)
    math.sqrt(five), five**-0.5, 1 / five, five / 2, 0.5 * five
    assert [(int(n), where) for n, where, _ in log.reads][:4] == [(5, "here")] * 4
    assert [rooted for *_, rooted in log.reads] == [True, True, False, True]


def test_sizes_of_another_pass_are_plain_numbers():
    stale, fresh = size(Symbol(5)), Log()
    call = Call(torch.Tensor.view, (None, stale, 2), {}, fresh)
    assert [type(n) for n in call.asked(2)] == [int, int]
    assert type(call.origin(5)) is int


def test_integers_are_found_in_nested_arguments():
    assert list(sizes_in((1, [2, (3,)], slice(None, 4), {"k": 5}, "6", True, 7.0))) == [1, 2, 3, 4, 5]


# ------------------------------------------------------------------ attributes that follow


@dataclass
class Config:
    heads: int
    size: int


class Attention(nn.Module):
    """Self-attention whose sizes come from wherever `read` takes them."""

    def __init__(self, read, heads: int = 3, size: int = 2, scale=None) -> None:
        super().__init__()
        self.heads, self.size, self.shape = heads, size, (heads, size)
        self.config, self.scale, self._read = Config(heads, size), scale, read
        self.options = {"heads": heads, "size": size, "name": "attention"}
        self.query, self.key, self.value = (nn.Linear(5, heads * size) for _ in range(3))
        self.out = nn.Linear(heads * size, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(*self._read(self, x)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = q @ k.transpose(2, 3)
        scores = scores / math.sqrt(q.shape[-1]) if self.scale is None else scores * self.scale
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


READS = {
    "attributes": lambda m, x: (*x.shape[:2], m.heads, m.size),
    "the number of heads": lambda m, x: (*x.shape[:-1], m.heads, -1),
    "the size of a head": lambda m, x: (*x.shape[:-1], -1, m.size),
    "a tuple": lambda m, x: (*x.shape[:2], *m.shape),
    "a configuration": lambda m, x: (*x.shape[:2], m.config.heads, m.config.size),
    "a dictionary": lambda m, x: (*x.shape[:2], m.options["heads"], m.options["size"]),
    "a weight": lambda m, x: (*x.shape[:2], m.heads, m.query.weight.shape[0] // m.heads),
    "a layer of torch": lambda m, x: (*x.shape[:2], m.heads, m.query.out_features // m.heads),
}
X = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("grown", ["heads", "size"])
@pytest.mark.parametrize("scale", [None, 0.3, 2**-0.5])
def test_heads_and_head_sizes_grow_wherever_they_are_read_from(how, grown, scale):
    torch.manual_seed(0)
    model = Attention(READS[how], scale=scale).double()
    before = model(X)
    structure = trace(model, X)
    # Where the size of a head is left open, queries and keys have one of their own, and values another.
    width = next(w for w in structure.growable if w.size == {"heads": 3, "size": 2}[grown])
    growkit.apply(model, growkit.Widen(width.name, (0, 0)), example=(X,))
    assert (model(X) - before).abs().max() <= 1e-12
    fields = {"heads": model.heads, "size": model.size, "scale": model.scale}
    for field, value in fields.items():
        assert type(value) in (int, float, type(None)), field
    if grown == "size" and scale == 2**-0.5:
        assert model.scale == 4**-0.5
    elif scale is not None:
        assert model.scale == scale


def test_numbers_in_the_code_freeze_with_a_reason_that_helps():
    structure = trace(Attention(lambda m, x: (*x.shape[:2], 3, 2)).double(), X)
    reasons = [w.frozen for w in structure.widths.values() if any(p.parameter == "query.weight" for p in w.incoming)]
    assert any("gives its size as the number 2" in r for r in reasons)
    stuck = [w for w in structure.widths.values() if "as the number 2" in (w.frozen or "")]
    assert {w.advice for w in stuck} == {"take the number from a shape, or make it an attribute of the module"}
    assert {w.advice for w in structure.growable} <= {None}


def test_trace_leaves_attributes_as_they_were():
    model = Attention(READS["attributes"], scale=0.5).double()
    model.counters = [3, 4]
    before = {key: (type(value), value) for key, value in vars(model).items() if not key.startswith("_")}
    trace(model, X)
    assert {key: (type(value), value) for key, value in vars(model).items() if not key.startswith("_")} == before
    assert [type(n) for n in (*model.shape, *model.counters, model.config.heads)] == [int] * 5
    assert type(model.options["heads"]) is int


def test_what_the_forward_pass_keeps_is_gone_afterwards():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.seen, self.calls, self.log = nn.Linear(5, 3), None, 2, [1]

        def forward(self, x):
            self.seen, self.last = x.shape, x.shape[0]
            self.calls += 1
            self.log.append(x.shape[0])
            return self.layer(x)

    model = Keeps()
    trace(model, torch.randn(2, 5))
    assert (model.seen, model.calls, model.log) == (None, 2, [1])
    assert not hasattr(model, "last")


def test_code_that_takes_nothing_but_plain_integers_is_traced_without_memory():
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head, self.units = nn.Linear(5, 4), nn.Linear(4, 2), 4

        def forward(self, x):
            if type(self.units) is not int:
                raise TypeError("an int, please")
            return self.head(self.layer(x).relu())

    assert [w.name for w in trace(Strict(), torch.randn(2, 5)).growable] == ["layer"]


def test_scores_of_several_widths_together_are_refused():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(5, n) for n in (2, 3, 2, 3))
            self.out = nn.Linear(5, 4)

        def forward(self, x):
            q, k = torch.cat([self.a(x), self.b(x)], -1), torch.cat([self.c(x), self.d(x)], -1)
            return self.out(F.scaled_dot_product_attention(q[:, None], k[:, None], x[:, None])[:, 0])

    structure = trace(Joined().double(), X)
    assert all("square root of a sum of sizes" in structure[name].frozen for name in ("a", "b"))


def test_expressions_of_a_fused_projection():
    part = product([Symbol(2), Symbol(3)])
    fused = concat([part, part, part])
    assert isinstance(fused, Concat)
    assert all(isinstance(p, Product) for p in fused.parts)
