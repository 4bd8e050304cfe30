"""The algebra of dimension expressions."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from growkit.structure.dimensions import (
    Concat,
    Product,
    Symbol,
    concat,
    freeze,
    leaves,
    occurrences,
    product,
    require_copies,
    require_uniform,
    resolve,
    squared,
)
from growkit.structure.positions import evaluate, expand, unit_positions
from growkit.structure.unify import split, unify


def ints(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def by_symbol(terms):
    """Terms that are the same wherever a symbol stands."""
    return lambda symbol, route: terms.get(symbol)


# ------------------------------------------------------------------ building


def test_products_and_concatenations_are_flat():
    a, b, c = Symbol(2), Symbol(3), Symbol(4)
    merged = product([product([a, b]), c])
    joined = concat([a, concat([b, c])])
    assert merged.factors == (a, b, c)
    assert joined.parts == (a, b, c)
    assert (merged.size, joined.size) == (24, 9)


def test_data_axes_of_one_entry_are_left_out_of_products_but_widths_of_one_unit_stay():
    one, unit, three = Symbol(1, extent=True), Symbol(1), Symbol(3)
    assert product([one, three]) is three
    assert product([unit, three]).factors == (unit, three)
    assert product([one, one]).size == 1


def test_empty_parts_are_left_out_of_concatenations():
    a = Symbol(3)
    assert concat([Symbol(0, extent=True), a]) is a
    assert concat([]).size == 0


def test_leaves_are_distinct_and_in_order():
    a, b, c = Symbol(2), Symbol(2), Symbol(2)
    assert leaves(product([b, concat([a, c, b])])) == [b, a, c]


def test_squared_finds_pairs_only():
    a, b = Symbol(2), Symbol(3)
    assert squared(product([a, b, a])) == [a]
    assert squared(concat([a, b, a])) == []
    assert squared(product([concat([a, b]), b])) == [b]
    assert squared(a) == []


# ------------------------------------------------------------------ unification


def test_two_symbols_become_one_with_the_demands_of_both():
    a, b = Symbol(3), Symbol(3)
    freeze(b, "is wanted so")
    require_uniform(a, "averages")
    require_copies(b, "takes an extreme")
    unify(a, b, "op")
    assert resolve(a) is resolve(b)
    one = resolve(a)
    assert (one.frozen, one.uniform, one.copies_only) == ("is wanted so", "averages", "takes an extreme")


def test_a_width_that_meets_data_stays_a_width_and_is_frozen_by_it():
    width, data = Symbol(3), Symbol(3, extent=True, frozen="is the batch")
    unify(data, width, "op")
    assert resolve(data) is width
    assert width.frozen == "is the batch"


def test_the_first_reason_is_kept():
    a = Symbol(3)
    freeze(a, "first")
    freeze(a, "second")
    assert a.frozen == "first"


def test_a_symbol_takes_the_form_it_meets_and_hands_on_its_demands():
    flat, c, x = Symbol(12), Symbol(3), Symbol(4)
    freeze(flat, "cannot")
    unify(flat, product([c, x]), "op")
    assert resolve(flat).factors == (c, x)
    assert c.frozen == x.frozen == "cannot"


def test_uniform_copies_of_a_product_are_uniform_copies_of_its_factors():
    flat, a, b = Symbol(6), Symbol(2), Symbol(3)
    unify(flat, product([a, b]), "op")
    require_uniform(flat, "averages")
    assert (a.uniform, b.uniform, a.frozen) == ("averages", "averages", None)


def test_uniform_copies_of_one_part_of_a_concatenation_are_not_uniform():
    a, b = Symbol(2), Symbol(3)
    require_uniform(concat([a, b]), "averages")
    assert a.inexact == b.inexact == "averages together with other units"
    assert (a.frozen, b.frozen) == (None, None)


def test_uniform_copies_of_a_symbol_that_makes_up_every_part_are_uniform():
    a, b = Symbol(2), Symbol(3)
    require_uniform(concat([a, product([b, a])]), "averages")
    assert (a.uniform, a.inexact) == ("averages", None)
    assert b.inexact == "averages together with other units"


def test_products_are_refined_until_their_factors_match():
    channels, image = Symbol(8), Symbol(9)
    groups, members, same_image = Symbol(2), Symbol(4), Symbol(9)
    unify(product([channels, image]), product([groups, members, same_image]), "op")
    assert resolve(channels).factors == (groups, members)
    assert resolve(image) is resolve(same_image)


def test_products_with_crossing_factors_meet_in_a_common_refinement():
    four, six, two, twelve = Symbol(4), Symbol(6), Symbol(2), Symbol(12)
    unify(product([four, six]), product([two, twelve]), "op")
    assert [leaf.size for leaf in leaves(four)] == [2, 2]
    assert leaves(twelve) == [leaves(four)[1], resolve(six)]
    assert not any(leaf.frozen for leaf in leaves(product([four, six])))


def test_concatenations_with_crossing_parts_meet_in_a_common_refinement():
    four, six, three, seven = Symbol(4), Symbol(6), Symbol(3), Symbol(7)
    unify(concat([four, six]), concat([three, seven]), "op")
    assert [leaf.size for leaf in leaves(four)] == [3, 1]
    assert leaves(seven) == [leaves(four)[1], resolve(six)]


def test_factors_without_a_common_refinement_are_frozen_with_the_operation_as_reason():
    four, three, six, two = Symbol(4), Symbol(3), Symbol(6), Symbol(2)
    unify(product([four, three]), product([six, two]), "aten.add in 'sum'")
    for symbol in (four, three, six, two):
        for leaf in leaves(symbol):
            assert "aten.add in 'sum' joins sizes that growkit cannot reconcile" in leaf.frozen


def test_a_product_meets_a_concatenation_whose_parts_are_stretches_of_its_slowest_factor():
    slow, fast, left, right = Symbol(5), Symbol(3), Symbol(6), Symbol(9)
    unify(product([slow, fast]), concat([left, right]), "op")
    first, second = leaves(slow)
    assert (first.size, second.size) == (2, 3)
    assert resolve(left).factors == (first, fast)
    assert resolve(right).factors == (second, fast)


def test_a_product_and_a_concatenation_whose_parts_cut_its_units_cannot_be_reconciled():
    a, b, c, d = Symbol(2), Symbol(3), Symbol(2), Symbol(4)
    unify(product([a, b]), concat([c, d]), "op")
    assert all("cannot reconcile" in symbol.frozen for symbol in (a, b, c, d))


def test_a_number_of_alike_parts_meets_a_product_of_data_and_units():
    many, unit, part = Symbol(3, extent=True), Symbol(4), Symbol(4)
    unify(product([many, unit]), concat([part, part, part]), "op")
    assert resolve(part) is resolve(unit)
    assert resolve(part).frozen is None


def test_parts_that_are_refined_while_they_are_matched_are_unfolded():
    part, a, b = Symbol(5), Symbol(2), Symbol(3)
    unify(concat([part, part]), concat([a, b, concat([a, b])]), "op")
    assert resolve(part).parts == (a, b)


def test_a_product_with_a_concatenation_as_slowest_factor_is_a_concatenation():
    a, b, c = Symbol(2), Symbol(3), Symbol(4)
    flat = product([concat([a, b]), c])
    assert [part.factors for part in flat.parts] == [(a, c), (b, c)]
    assert product([c, concat([a, b])]).factors[0] is c


def test_occurrences_tell_places_of_one_symbol_apart():
    a, b = Symbol(2), Symbol(3)
    fused = concat([product([a, b]), product([a, b]), b])
    assert occurrences(fused) == [(a, (0,)), (b, (0,)), (a, (1,)), (b, (1,)), (b, (2,))]


def test_a_symbol_cannot_contain_itself():
    a, one = Symbol(2), Symbol(1)
    unify(a, Product((a, one)), "op")
    assert "cannot reconcile" in a.frozen


def test_unification_is_transitive():
    symbols = [Symbol(4) for _ in range(5)]
    for left, right in ((0, 1), (2, 3), (3, 4), (1, 4)):
        unify(symbols[left], symbols[right], "op")
    assert len({resolve(symbol) for symbol in symbols}) == 1


# ------------------------------------------------------------------ splitting


def test_split_into_factors_wants_a_divisor():
    assert split(Symbol(6), 4, product) is None
    assert split(Symbol(6), 1, product) is None
    outer, inner = split(Symbol(6), 2, product)
    assert (outer.size, inner.size) == (2, 3)


def test_split_into_parts_wants_a_part():
    assert split(Symbol(6), 0, concat) is None
    first, rest = split(Symbol(6), 4, concat)
    assert (first.size, rest.size) == (4, 2)


@pytest.mark.parametrize("join", [product, concat])
def test_only_symbols_can_be_split_and_their_demands_are_handed_on(join):
    whole = Symbol(6, extent=True, frozen="is data")
    require_copies(whole, "takes an extreme")
    for half in split(whole, 2, join):
        assert (half.extent, half.frozen, half.copies_only) == (True, "is data", "takes an extreme")
    assert split(resolve(whole), 2, join) is None


# ------------------------------------------------------------------ positions


def positions(expr, sources):
    """Where each new position comes from, when every new unit comes from one old unit or from none."""
    whole = {symbol: [(source, torch.ones(len(source), dtype=torch.float64))] for symbol, source in sources.items()}
    ((source, _),) = expand(expr, by_symbol(whole))
    return source


def scales(expr, factors):
    """The weight of each new position, when the units of some symbols have weights."""
    ((_, scale),) = expand(expr, by_symbol({symbol: [(torch.arange(len(f)), f)] for symbol, f in factors.items()}))
    return scale


def test_a_position_sums_over_the_terms_of_its_units():
    a, b = Symbol(3), Symbol(2)
    terms = {a: [(ints(0, 1), torch.ones(2).double()), (ints(2, -1), torch.ones(2).double())]}
    (first, one), (second, other) = expand(concat([a, b]), by_symbol(terms))
    assert first.tolist() == [0, 1, 3, 4]
    assert one.tolist() == [1, 1, 1, 1]
    assert second.tolist() == [2, -1, -1, -1], "the other part is not added twice"
    assert other[0] == 1
    assert [source.tolist() for source, _ in expand(product([a, b]), by_symbol(terms))] == [
        [0, 1, 2, 3],
        [4, 5, -1, -1],
    ]


def test_terms_of_two_factors_give_every_combination():
    a, b = Symbol(2), Symbol(2)
    fold = [(ints(0), torch.tensor([1.0]).double()), (ints(1), torch.tensor([0.5]).double())]
    found = [
        (source.item(), weight.item()) for source, weight in expand(product([a, b]), by_symbol({a: fold, b: fold}))
    ]
    assert found == [(0, 1.0), (1, 0.5), (2, 0.5), (3, 0.25)]


def test_positions_of_a_product_are_row_major():
    outer, inner = Symbol(2), Symbol(3)
    assert positions(product([outer, inner]), {outer: ints(0, 1, 0)}).tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert positions(product([outer, inner]), {inner: ints(2, 0)}).tolist() == [2, 0, 5, 3]


def test_positions_of_a_concatenation_are_shifted():
    a, b = Symbol(2), Symbol(3)
    assert positions(concat([a, b]), {a: ints(0, 1, 1)}).tolist() == [0, 1, 1, 2, 3, 4]
    assert positions(concat([a, b, a]), {a: ints(1)}).tolist() == [1, 2, 3, 4, 6]


def test_positions_of_new_units_are_new_wherever_they_take_part():
    a, b = Symbol(2), Symbol(2)
    new = {a: ints(0, 1, -1)}
    assert positions(product([a, b]), new).tolist() == [0, 1, 2, 3, -1, -1]
    assert positions(product([b, a]), new).tolist() == [0, 1, -1, 2, 3, -1]
    assert positions(concat([b, a]), new).tolist() == [0, 1, 2, 3, -1]


def test_two_symbols_change_at_once():
    a, b = Symbol(2), Symbol(2)
    both = {a: ints(1, 0, 1), b: ints(0)}
    assert positions(product([a, b]), both).tolist() == [2, 0, 2]


def test_scales_multiply_across_factors_and_stand_alone_across_parts():
    a, b = Symbol(2), Symbol(2)
    half = {a: torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)}
    assert scales(product([a, b]), half).tolist() == [0.5, 0.5, 1, 1, 0.5, 0.5]
    assert scales(concat([b, a]), half).tolist() == [1, 1, 0.5, 1, 0.5]
    third = {**half, b: torch.tensor([3.0, 1.0], dtype=torch.float64)}
    assert scales(product([a, b]), third).tolist() == [1.5, 0.5, 3, 1, 1.5, 0.5]


def test_unit_positions_name_every_place_of_a_unit():
    a, b = Symbol(2), Symbol(3)
    assert unit_positions(product([a, b]), a).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert unit_positions(product([a, b]), b).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert unit_positions(concat([b, a]), a).tolist() == [[3], [4]]
    assert unit_positions(concat([a, b, a]), a).tolist() == [[0, 5], [1, 6]]
    assert unit_positions(product([b, concat([a, b])]), a).tolist() == [[0, 5, 10], [1, 6, 11]]


def test_evaluate_gives_hypothetical_sizes_and_leaves_the_real_ones():
    a, b = Symbol(2), Symbol(3)
    expr = concat([product([a, b]), a])
    assert evaluate(expr, {a: 5}) == 5 * 3 + 5
    assert (evaluate(expr, {}), expr.size) == (8, 8)


# ------------------------------------------------------------------ laws


@st.composite
def expressions(draw: st.DrawFn) -> tuple[Product | Concat | Symbol, list[Symbol]]:
    """An expression of two levels over three symbols, each of which may occur several times."""
    symbols = [Symbol(draw(st.integers(1, 3))) for _ in range(3)]
    pick = st.sampled_from(symbols)
    inner = st.lists(pick, min_size=1, max_size=2)
    joins = draw(st.sampled_from([(product, concat), (concat, product)]))
    outer = [joins[1](draw(inner)) for _ in range(draw(st.integers(1, 3)))]
    return joins[0](outer), symbols


@settings(max_examples=40)
@given(expressions(), st.data())
def test_positions_agree_with_coordinates(drawn, data):
    """Gathering along an axis is gathering each coordinate: unit `i` of the new axis is unit `source[i]` of the old."""
    expr, symbols = drawn
    symbol = data.draw(st.sampled_from(symbols))
    source = data.draw(st.lists(st.integers(0, symbol.size - 1), min_size=1, max_size=4))
    moved = positions(expr, {symbol: ints(*source)})
    assert len(moved) == evaluate(expr, {symbol: len(source)})
    if symbol in squared(expr) or symbol not in leaves(expr):
        return
    before = unit_positions(expr, symbol)
    symbol.size = len(source)
    after = unit_positions(expr, symbol)
    assert torch.equal(moved[after], before[source])


@settings(max_examples=40)
@given(expressions(), st.data())
def test_going_there_and_back_is_the_identity(drawn, data):
    expr, symbols = drawn
    symbol = data.draw(st.sampled_from(symbols))
    order = data.draw(st.permutations(range(symbol.size)))
    there = positions(expr, {symbol: ints(*order)})
    back = positions(expr, {symbol: ints(*order).argsort()})
    assert there[back].tolist() == list(range(expr.size))


@settings(max_examples=40)
@given(st.lists(st.integers(2, 4), min_size=1, max_size=4), st.data())
def test_unified_products_lay_their_units_out_alike(sizes, data):
    """However two axes are cut into factors, what is not given up has the same units at the same places."""
    total = torch.tensor(sizes).prod().item()
    divisors = [n for n in range(2, total + 1) if total % n == 0]
    first = data.draw(st.sampled_from(divisors))
    left = product([Symbol(size) for size in sizes])
    right = product([Symbol(first), *([Symbol(total // first)] if total > first else [])])
    unify(left, right, "op")
    assert left.size == right.size == total
    for leaf in {*leaves(left), *leaves(right)}:
        assert leaf.frozen or torch.equal(unit_positions(left, leaf), unit_positions(right, leaf))


@settings(max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_unified_concatenations_lay_their_units_out_alike(sizes, data):
    total = sum(sizes)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(total - 1, 1)), max_size=3)) & set(range(1, total)))
    left = concat([Symbol(size) for size in sizes])
    right = concat([Symbol(b - a) for a, b in itertools.pairwise([0, *cuts, total])])
    unify(left, right, "op")
    assert leaves(left) == leaves(right)
    for leaf in leaves(left):
        assert leaf.frozen is None
        assert torch.equal(unit_positions(left, leaf), unit_positions(right, leaf))


def test_a_size_that_would_consist_of_itself_is_given_up():
    units, rest, other = Symbol(4), Symbol(2), Symbol(4)
    unify(product((units, rest)), concat((units, other)), "here")
    assert "cannot reconcile (4 x 2 and 4 + 4)" in units.frozen
    assert units.size == 4
