"""The paired statistics against hand-made numbers, printed tables and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantspectrum.statistics import paired_ratio, t_quantile

# Two-sided 95 % points of Student's t, as printed in any table.
TABLE = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    9: 2.262,
    10: 2.228,
    29: 2.045,
    30: 2.042,
    60: 2.000,
    120: 1.980,
}


@pytest.mark.parametrize(("degrees", "expected"), TABLE.items())
def test_t_quantile_is_the_printed_table(degrees: int, expected: float) -> None:
    assert t_quantile(degrees) == pytest.approx(expected, abs=5.1e-4)


def test_t_quantile_tends_to_the_normal() -> None:
    assert t_quantile(50_000) == pytest.approx(1.959964, abs=1e-4)


def test_equal_sizes_by_hand() -> None:
    # d = 1, 3: mean 2, sample variance 2, standard error sqrt(2 / 2) = 1.
    found = paired_ratio([1.0, 3.0], [1, 1])
    assert (found.n, found.value, found.stderr) == (2, 2.0, 1.0)
    assert found.low == pytest.approx(2 - 12.7062, abs=1e-4)
    assert found.high == pytest.approx(2 + 12.7062, abs=1e-4)
    assert not found.differs


def test_unequal_sizes_by_hand() -> None:
    # D = 12 / 4 = 3; residuals -1, 1, 0; se^2 = 3/2 * 2 / 16.
    found = paired_ratio([2.0, 4.0, 6.0], [1, 1, 2])
    assert found.value == 3.0
    assert found.stderr == pytest.approx(math.sqrt(3 / 2 * 2 / 16))
    assert found.high == pytest.approx(3 + 4.302653 * math.sqrt(0.1875), abs=1e-5)
    assert found.differs


def test_the_interval_decides_on_unrounded_numbers() -> None:
    # The lower end is +0.1 % or -0.1 % of the reach: no rounding would show it.
    reach = t_quantile(1)
    assert paired_ratio([reach * 1.001 - 1, reach * 1.001 + 1], [1, 1]).differs
    assert not paired_ratio([reach * 0.999 - 1, reach * 0.999 + 1], [1, 1]).differs


def test_one_sample_has_a_value_and_no_error() -> None:
    found = paired_ratio([0.6], [3])
    assert found.value == pytest.approx(0.2)
    assert (found.stderr, found.low, found.high, found.differs) == (None, None, None, False)


def test_no_variance() -> None:
    same = paired_ratio([0.0, 0.0, 0.0], [3, 5, 9])
    assert (same.value, same.stderr, same.low, same.high, same.differs) == (0, 0, 0, 0, False)
    constant = paired_ratio([3.0, 5.0, 9.0], [3, 5, 9])
    assert (constant.value, constant.stderr, constant.differs) == (1.0, 0.0, True)


def _sample(n: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(3)
    sizes = chance.integers(20, 60, n)
    return sizes * chance.normal(0.05, 0.1, n), sizes


def test_close_to_the_jackknife() -> None:
    differences, sizes = _sample(200)
    without = (differences.sum() - differences) / (sizes.sum() - sizes)
    n = len(sizes)
    jackknife = math.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    assert paired_ratio(differences, sizes).stderr == pytest.approx(jackknife, rel=0.01)


def test_equals_the_jackknife_where_sizes_are_equal() -> None:
    differences, _ = _sample(50)
    without = (differences.sum() - differences) / 49
    jackknife = math.sqrt(49 / 50 * ((without - without.mean()) ** 2).sum())
    assert paired_ratio(differences, [1] * 50).stderr == pytest.approx(jackknife, rel=1e-12)


def test_close_to_the_bootstrap_over_samples() -> None:
    differences, sizes = _sample(200)
    picks = np.random.default_rng(5).integers(0, 200, (4000, 200))
    bootstrap = (differences[picks].sum(1) / sizes[picks].sum(1)).std()
    assert paired_ratio(differences, sizes).stderr == pytest.approx(bootstrap, rel=0.05)


def test_the_interval_covers_as_often_as_it_says() -> None:
    chance = np.random.default_rng(11)
    covered = 0
    for _ in range(2000):
        sizes = chance.integers(10, 40, 12)
        found = paired_ratio(sizes * chance.normal(0.3, 1.0, 12), sizes)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    # Linearising with few, unequal clusters covers a little less than it says.
    assert 0.92 <= covered / 2000 <= 0.965


@given(
    st.lists(st.tuples(st.floats(-50, 50), st.integers(1, 300)), min_size=2, max_size=30),
    st.floats(0.1, 10),
)
def test_scaling_scales_and_order_changes_nothing(
    pairs: list[tuple[float, int]], factor: float
) -> None:
    differences, sizes = zip(*pairs, strict=True)
    one = paired_ratio(differences, sizes)
    scaled = paired_ratio([factor * d for d in differences], sizes)
    turned = paired_ratio(differences[::-1], sizes[::-1])
    assert scaled.value == pytest.approx(factor * one.value, rel=1e-9, abs=1e-12)
    assert scaled.stderr == pytest.approx(factor * one.stderr, rel=1e-6, abs=1e-12)
    assert (turned.value, turned.stderr) == (one.value, one.stderr)
