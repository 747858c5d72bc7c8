"""Rank correlation; differences of ratios and quantiles are tested with the report."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantspectrum.statistics import spearman


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        # 1 - 6 * sum(d^2) / (n (n^2 - 1)), without ties.
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 1 - 6 * 4 / 120),
        ([1, 2, 3, 4, 5], [5, 1, 2, 3, 4], 1 - 6 * 20 / 120),
        # IQ against hours of television, the example of many textbooks: -29/165.
        (
            [106, 100, 86, 101, 99, 103, 97, 113, 112, 110],
            [7, 27, 2, 50, 28, 29, 20, 12, 6, 17],
            -29 / 165,
        ),
        # Ties share the mean of their ranks: (1, 2.5, 2.5, 4) against (1, 2, 3, 4).
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),
        ([1, 1, 2, 2], [1, 2, 1, 2], 0.0),
        ([0, 0, 0, 1], [5, 5, 5, 9], 1.0),
    ],
)
def test_known_values(a: list[float], b: list[float], expected: float) -> None:
    assert spearman(a, b) == pytest.approx(expected)
    assert spearman(b, a) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("a", "b"), [([], []), ([1], [2]), ([1, 1, 1], [1, 2, 3]), ([2, 2], [3, 3])]
)
def test_where_it_is_undefined(a: list[float], b: list[float]) -> None:
    assert spearman(a, b) is None
    assert spearman(b, a) is None


values = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=12, unique=True)


@given(a=values, seed=st.randoms(use_true_random=False))
def test_only_the_order_counts(a: list[float], seed) -> None:  # type: ignore[no-untyped-def]
    b = list(a)
    seed.shuffle(b)
    found = spearman(a, b)
    assert found is not None
    assert -1 - 1e-12 <= found <= 1 + 1e-12
    ranks = {value: float(place) for place, value in enumerate(sorted(b))}
    assert spearman(a, [ranks[value] for value in b]) == pytest.approx(found)
    assert spearman(a, [-value for value in b]) == pytest.approx(-found)


def test_of_all_orders_the_mean_is_zero() -> None:
    found = [spearman(range(5), order) for order in itertools.permutations(range(5))]
    assert math.fsum(value for value in found if value is not None) == pytest.approx(0, abs=1e-9)
    assert max(v for v in found if v is not None) == pytest.approx(1.0)
