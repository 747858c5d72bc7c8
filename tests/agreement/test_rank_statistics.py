"""Rank statistics against brute force, and intervals that behave."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantspectrum.agreement.rank_statistics import (
    kendall,
    kendall_interval,
    spearman_interval,
    top_interval,
    top_k,
)

VALUES = st.lists(st.integers(0, 6), min_size=2, max_size=12)


@given(VALUES, st.randoms(use_true_random=False))
def test_kendall_is_that_of_the_pairs(a: list[int], random: random.Random) -> None:
    b = [random.randint(0, 6) for _ in a]
    agree = ties_a = ties_b = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        x, y = (a[i] > a[j]) - (a[i] < a[j]), (b[i] > b[j]) - (b[i] < b[j])
        agree += x * y
        ties_a += x == 0
        ties_b += y == 0
    pairs = math.comb(len(a), 2)
    norm = math.sqrt((pairs - ties_a) * (pairs - ties_b))
    found = kendall(a, b)
    if norm == 0:
        assert found is None
    else:
        assert found == pytest.approx(agree / norm)


def test_known_values() -> None:
    assert kendall([1, 2, 3], [3, 2, 1]) == -1
    assert top_k([5, 4, 3, 2], [5, 1, 4, 2], 2) == 0.5


def test_intervals_hold_the_value_and_shrink_with_items() -> None:
    generator = random.Random(0)
    widths = []
    for n in (20, 320):
        a = [generator.gauss(0, 1) for _ in range(n)]
        b = [x + generator.gauss(0, 1) for x in a]
        for interval in (spearman_interval(a, b, seed=1), kendall_interval(a, b, seed=1)):
            assert interval.value is not None
            assert interval.low is not None
            assert interval.high is not None
            assert interval.low < interval.value < interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 2


def test_equal_rankings_are_certain_and_constant_ones_undefined() -> None:
    a = [float(i) for i in range(12)]
    assert spearman_interval(a, a, seed=0).low == pytest.approx(1)
    assert top_interval(a, a, 5, seed=0).low == 1
    constant = spearman_interval(a, [1.0] * 12, seed=0)
    assert (constant.value, constant.low) == (None, None)
    assert kendall_interval([1.0, 2.0], [2.0, 3.0], seed=0).low is None
