"""The role solver: who copies a unit, who shares it out, and when nobody can."""

from __future__ import annotations

import itertools

import pytest

from growkit.structure.dimensions import Symbol, concat, product
from growkit.structure.roles import COPIES, SHARES, Axis, Constraint, Roles


def axes(symbol: Symbol, count: int) -> list[Axis]:
    return [Axis(symbol) for _ in range(count)]


def demand(kind: str, *on: Axis) -> Constraint:
    return Constraint(kind, on, "aten.test in 'module' (Test)")


def test_an_axis_that_nothing_decides_copies():
    (a,) = axes(symbol := Symbol(3), 1)
    assert Roles([]).of(a, symbol).shares == COPIES


def test_opposite_axes_take_opposite_roles():
    a, b = axes(symbol := Symbol(3), 2)
    roles = Roles([demand("opposite", a, b)])
    assert roles.of(a, symbol).shares != roles.of(b, symbol).shares


def test_the_first_axis_asked_copies_and_the_others_follow():
    a, b = axes(symbol := Symbol(3), 2)
    roles = Roles([demand("opposite", a, b)])
    assert roles.of(b, symbol).shares == COPIES
    assert roles.of(a, symbol).shares == SHARES
    assert roles.of(b, symbol).shares == COPIES


def test_a_chain_of_demands_is_followed_through():
    a, b, c, d = axes(symbol := Symbol(3), 4)
    roles = Roles([demand("opposite", a, b), demand("same", b, c), demand("opposite", c, d), demand("copies", d)])
    assert [roles.of(axis, symbol).shares for axis in (a, b, c, d)] == [COPIES, SHARES, SHARES, COPIES]
    assert symbol.inexact is None


def test_every_symbol_of_an_axis_has_a_role_of_its_own():
    outer, inner = Symbol(2), Symbol(3)
    flat, first, second = Axis(product([outer, inner])), Axis(outer), Axis(inner)
    roles = Roles([demand("opposite", flat, first), demand("same", flat, second), demand("copies", flat)])
    assert roles.of(flat, outer).shares == roles.of(flat, inner).shares == COPIES
    assert roles.of(first, outer).shares == SHARES
    assert roles.of(second, inner).shares == COPIES


def test_demands_between_axes_touch_their_common_symbols_only():
    a, b = Symbol(2), Symbol(3)
    joined, left = Axis(concat([a, b])), Axis(a)
    roles = Roles([demand("piece", left, joined), demand("shares", joined), demand("copies", Axis(b))])
    assert roles.of(left, a).shares == SHARES
    assert (a.inexact, b.inexact) == (None, None)


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        (("same", "opposite"), "sums over its units where neither factor can share them out"),
        (("opposite", "same"), "joins tensors of which one copies its units and the other shares them out"),
    ],
)
def test_a_contradiction_between_two_axes_freezes_with_the_operation_as_reason(kinds, says):
    a, b = axes(symbol := Symbol(3), 2)
    Roles([demand(kind, a, b) for kind in kinds])
    assert symbol.inexact == f"aten.test in 'module' (Test) {says}"


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        (("copies", "shares"), "sums over its units with no weight that could share them out"),
        (("shares", "copies"), "needs its units whole where an earlier operation has to share them out"),
    ],
)
def test_a_contradiction_on_one_axis_freezes_with_the_operation_as_reason(kinds, says):
    (a,) = axes(symbol := Symbol(3), 1)
    Roles([demand(kind, a) for kind in kinds])
    assert symbol.inexact == f"aten.test in 'module' (Test) {says}"


def test_a_contradiction_at_the_end_of_a_long_way_is_found():
    chain = axes(symbol := Symbol(3), 20)
    links = [demand("opposite", a, b) for a, b in itertools.pairwise(chain)]
    Roles([*links, demand("same", chain[0], chain[19])])  # 19 turns: they must differ
    assert symbol.inexact
    other = axes(healthy := Symbol(3), 20)
    Roles([*(demand("opposite", a, b) for a, b in itertools.pairwise(other)), demand("same", other[0], other[18])])
    assert healthy.inexact is None


def test_a_sum_over_the_square_of_an_axis_is_a_contradiction():
    (a,) = axes(symbol := Symbol(3), 1)
    Roles([demand("opposite", a, a)])
    assert "sums over its units" in symbol.inexact


def test_a_contradiction_freezes_its_own_symbol_only():
    bad, good = Symbol(2), Symbol(3)
    flat = Axis(product([bad, good]))
    both = Axis(bad)
    roles = Roles([demand("copies", flat), demand("same", flat, both), demand("shares", both)])
    assert bad.inexact
    assert good.inexact is None
    assert roles.of(flat, good).shares == COPIES


def test_frozen_symbols_are_not_judged():
    symbol = Symbol(3, frozen="was so before")
    (a,) = axes(symbol, 1)
    Roles([demand("copies", a), demand("shares", a)])
    assert (symbol.frozen, symbol.inexact) == ("was so before", None)


# ------------------------------------------------------------------ products


def roles_of_product(*demands: str, order: int = 0) -> tuple[Symbol, list[int]]:
    """Solve `left * right = out` with one demand on each axis, "" for none; say who shares."""
    symbol = Symbol(3)
    three = axes(symbol, 3)
    fixed = [demand(kind, axis) for kind, axis in zip(demands, three, strict=True) if kind]
    constraints = [demand("product", *three), *fixed] if order else [*fixed, demand("product", *three)]
    roles = Roles(constraints)
    return symbol, [roles.of(axis, symbol).shares for axis in three]


@pytest.mark.parametrize("order", [0, 1], ids=["product last", "product first"])
@pytest.mark.parametrize(
    ("demands", "expected"),
    [
        (("", "", ""), [COPIES, COPIES, COPIES]),
        (("", "", "copies"), [COPIES, COPIES, COPIES]),
        (("", "", "shares"), [COPIES, SHARES, SHARES]),
        (("shares", "", ""), [SHARES, COPIES, SHARES]),
        (("", "shares", ""), [COPIES, SHARES, SHARES]),
        (("shares", "", "shares"), [SHARES, COPIES, SHARES]),
        (("copies", "", "shares"), [COPIES, SHARES, SHARES]),
        (("", "copies", "shares"), [SHARES, COPIES, SHARES]),
        (("copies", "copies", ""), [COPIES, COPIES, COPIES]),
        (("copies", "shares", "shares"), [COPIES, SHARES, SHARES]),
    ],
)
def test_one_factor_of_a_product_may_share(demands, expected, order):
    symbol, found = roles_of_product(*demands, order=order)
    assert found == expected
    assert symbol.inexact is None


@pytest.mark.parametrize(
    "demands",
    [
        ("shares", "shares", ""),
        ("shares", "shares", "shares"),
        ("copies", "copies", "shares"),
        ("shares", "copies", "copies"),
    ],
)
def test_a_product_that_cannot_be_met_is_reported(demands):
    symbol, _ = roles_of_product(*demands)
    assert symbol.inexact == (
        "aten.test in 'module' (Test) multiplies two tensors that would both have to share its units out"
    )


def test_a_square_cannot_be_summed():
    a, out = axes(symbol := Symbol(3), 2)
    Roles([demand("product", a, a, out), demand("shares", out)])
    assert symbol.inexact


def test_a_square_of_whole_units_is_whole():
    a, out = axes(symbol := Symbol(3), 2)
    roles = Roles([demand("product", a, a, out)])
    assert [roles.of(axis, symbol).shares for axis in (a, out)] == [COPIES, COPIES]


def test_three_factors_that_meet_share_once():
    a, b, c, ab, abc = axes(symbol := Symbol(3), 5)
    roles = Roles([demand("product", a, b, ab), demand("product", ab, c, abc), demand("shares", abc)])
    shares = [roles.of(axis, symbol).shares for axis in (a, b, c)]
    assert sum(shares) == 1
    assert roles.of(ab, symbol).shares == (SHARES if SHARES in shares[:2] else COPIES)


def test_a_factor_that_only_one_side_has_passes_its_role_on():
    left_only, both = Symbol(2), Symbol(3)
    left, right, out = Axis(product([left_only, both])), Axis(both), Axis(product([left_only, both]))
    roles = Roles([demand("product", left, right, out), demand("shares", left), demand("copies", right)])
    assert roles.of(out, left_only).shares == SHARES
    assert roles.of(out, both).shares == SHARES


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_order_of_relations_does_not_matter(order):
    a, b, c, d = axes(symbol := Symbol(3), 4)
    relations = [demand("opposite", a, b), demand("same", b, c), demand("opposite", c, d), demand("shares", b)]
    roles = Roles([relations[index] for index in order])
    assert [roles.of(axis, symbol).shares for axis in (a, b, c, d)] == [COPIES, SHARES, SHARES, COPIES]
