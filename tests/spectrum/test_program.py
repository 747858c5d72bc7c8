from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from quantspectrum.spectrum.program import Infeasible, Option, solve

Menu = list[list[Option]]


def option(value: float | Fraction, cost: float | Fraction) -> Option:
    return Option(value=Fraction(value), cost=Fraction(cost))


@st.composite
def menus(draw: st.DrawFn) -> tuple[Menu, Fraction]:
    """Up to six groups of up to four options, and a limit from nothing to everything."""
    values = st.one_of(st.integers(0, 20), st.floats(0, 1e6), st.floats(1e-9, 1e-3))
    costs = st.one_of(st.integers(0, 12), st.floats(0, 1e8))
    menu = draw(
        st.lists(
            st.lists(st.builds(option, values, costs), min_size=1, max_size=4),
            min_size=1,
            max_size=6,
        )
    )
    low = sum(min(o.cost for o in options) for options in menu)
    high = sum(max(o.cost for o in options) for options in menu)
    share = Fraction(draw(st.integers(0, 100)), 100)
    return menu, low + share * (high - low)


def best(menu: Menu, limit: Fraction) -> Fraction:
    """By trying every assignment."""
    return min(
        sum((o.value for o in chosen), Fraction(0))
        for chosen in itertools.product(*menu)
        if sum(o.cost for o in chosen) <= limit
    )


@settings(max_examples=150, deadline=None)
@given(menus())
def test_no_assignment_within_the_budget_is_better(case: tuple[Menu, Fraction]) -> None:
    menu, limit = case
    found = solve(menu, limit)
    chosen = [options[pick] for options, pick in zip(menu, found.picks, strict=True)]
    assert found.value == sum((o.value for o in chosen), Fraction(0))
    assert found.cost == sum((o.cost for o in chosen), Fraction(0))
    assert found.cost <= limit, "unrounded"
    assert found.proved
    true = best(menu, limit)
    # HiGHS stops at a millionth of a thousandth of the gap that the relaxation leaves.
    slack = float(found.value - found.bound) * 1e-8
    assert true <= found.value <= true + Fraction(slack)
    assert found.bound <= true


@settings(max_examples=60, deadline=None)
@given(menus())
def test_the_bound_is_that_of_the_linear_relaxation(case: tuple[Menu, Fraction]) -> None:
    menu, limit = case
    columns = [(g, o) for g, options in enumerate(menu) for o in options]
    largest = max([float(o.cost) for _, o in columns] + [float(limit)]) or 1.0
    scale = max(float(o.value) for _, o in columns) or 1.0
    done = linprog(
        [float(o.value) / scale for _, o in columns],
        A_ub=[[float(o.cost) / largest for _, o in columns]],
        b_ub=[float(limit) / largest],
        A_eq=[[float(g == row) for g, _ in columns] for row in range(len(menu))],
        b_eq=np.ones(len(menu)),
    )
    assert float(solve(menu, limit).bound) / scale == pytest.approx(done.fun, rel=1e-5, abs=1e-5)


def test_greedy_loses_where_sizes_differ() -> None:
    # By value saved per cost the first comes first (3.0 against 2.9) and leaves no room.
    menu = [
        [option(12, 0), option(0, 4)],
        [option(14.5, 0), option(0, 5)],
        [option(14.5, 0), option(0, 5)],
    ]
    found = solve(menu, Fraction(10))
    assert found.picks == (0, 1, 1)
    assert found.value == 12
    assert found.bound < 12


def test_a_budget_missed_by_one_unit_in_a_billion_is_missed() -> None:
    costs = [400_000_001, 600_000_000]
    menu = [[option(1, 0), option(0, cost)] for cost in costs]
    assert solve(menu, Fraction(10**9)).cost == 600_000_000 or (
        solve(menu, Fraction(10**9)).cost == 400_000_001
    )
    assert solve(menu, Fraction(10**9 + 1)).picks == (1, 1)


def test_what_costs_more_than_there_is_says_how_much_is_needed() -> None:
    with pytest.raises(Infeasible) as refused:
        solve([[option(1, 3), option(0, 5)], [option(0, 4)]], Fraction(6))
    assert refused.value.least == 7


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    for _ in range(5):
        menu = [
            [option(float(np.exp(draw.normal(0, 3))), 0), option(0, int(draw.integers(1, 10**7)))]
            for _ in range(60)
        ]
        total = sum(options[1].cost for options in menu)
        assert solve(menu, total * Fraction(2, 5)).proved
    assert capfd.readouterr().out == ""
