"""Which ops are measured first, and scores for those that are not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantspectrum.artifacts import Op
from quantspectrum.sensitivity.anytime import estimates, measuring_order


def op(name: str, group: str | None = None) -> Op:
    return Op(
        name=name, type="Linear", component="language", block=0, group=group or name,
        shape=(2, 2), params=4,
    )  # fmt: skip


def names(ops: list[Op]) -> list[str]:
    return [op.name for op in ops]


TEN = [op(f"op{i}") for i in range(10)]
RISING = {f"op{i}": float(i + 1) for i in range(10)}


def test_those_next_to_a_cut_come_first() -> None:
    """At a share of 0.3 the cut lies between the third and the fourth of ten."""
    found = names(measuring_order(TEN, RISING, [0.3]))
    assert set(found[:2]) == {"op2", "op3"}
    assert set(found[2:4]) == {"op1", "op4"}
    assert found[-1] == "op9"


def test_of_two_as_near_the_more_sensitive_comes_first() -> None:
    assert names(measuring_order(TEN, RISING, [0.3]))[:4] == ["op3", "op2", "op4", "op1"]


def test_several_cuts_are_served_in_turn() -> None:
    found = names(measuring_order(TEN, RISING, [0.2, 0.8]))
    assert set(found[:4]) == {"op1", "op2", "op7", "op8"}
    assert set(found[-2:]) == {"op4", "op5"}


@pytest.mark.parametrize("cuts", [[], [0.0, 1.0]])
def test_without_a_cut_the_most_sensitive_come_first(cuts: list[float]) -> None:
    assert names(measuring_order(TEN, RISING, cuts)) == names(TEN)[::-1]


def test_ops_without_a_cheap_score_come_last() -> None:
    """The estimator reaches what the data reaches, so that to measure them would be lost time."""
    cheap = {name: score for name, score in RISING.items() if name not in ("op0", "op9")}
    assert set(names(measuring_order(TEN, cheap, [0.9]))[-2:]) == {"op0", "op9"}


def test_groups_stay_together_and_count_as_their_sum() -> None:
    ops = [op("q", "qkv"), op("a"), op("k", "qkv"), op("b"), op("v", "qkv"), op("c"), op("d")]
    cheap = {"q": 1.0, "k": 1.0, "v": 1.0, "a": 0.5, "b": 2.0, "c": 4.0, "d": 8.0}
    # Groups by score: a 0.5, b 2, qkv 3, c 4, d 8; a half lies in the middle of qkv.
    found = names(measuring_order(ops, cheap, [0.5]))
    assert found[:3] == ["q", "k", "v"]
    assert set(found[3:5]) == {"b", "c"}
    missing = {name: score for name, score in cheap.items() if name != "k"}
    assert names(measuring_order(ops, missing, [0.9]))[-3:] == ["q", "k", "v"]


@given(
    scores=st.lists(st.floats(0, 1e3), min_size=1, max_size=12),
    cuts=st.lists(st.floats(0, 1), max_size=4),
    groups=st.integers(1, 4),
)
def test_every_op_comes_once_and_no_group_is_torn(
    scores: list[float], cuts: list[float], groups: int
) -> None:
    ops = [op(f"op{i}", f"group{i % groups}") for i in range(len(scores))]
    cheap = {op.name: score for op, score in zip(ops, scores, strict=True)}
    found = measuring_order(ops, cheap, cuts)
    assert sorted(names(found)) == sorted(names(ops))
    runs = [a.group for a, b in zip(found, [*found[1:], None], strict=True) if b is None or a.group != b.group]  # fmt: skip
    assert len(set(runs)) == len(runs)


def test_a_power_law_is_found_again() -> None:
    cheap = {f"op{i}": 10.0 ** (i - 4) for i in range(8)}
    truth = {name: 3.0 * score**0.7 for name, score in cheap.items()}
    measured = {name: truth[name] for name in ("op1", "op4", "op6")}
    found = estimates(["op0", "op3", "op7"], cheap, measured)
    assert found == pytest.approx({name: truth[name] for name in ("op0", "op3", "op7")})


def test_the_line_is_that_of_least_squares() -> None:
    cheap = dict(zip("abcde", [1.0, 2.0, 5.0, 9.0, 4.0], strict=True))
    measured = dict(zip("abcd", [3.0, 1.0, 8.0, 20.0], strict=True))
    x, y = ([math.log(v[k]) for k in "abcd"] for v in (cheap, measured))
    mx, my = sum(x) / 4, sum(y) / 4
    slope = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum(
        (a - mx) ** 2 for a in x
    )
    expected = math.exp(my + slope * (math.log(4.0) - mx))
    assert estimates(["e"], cheap, measured) == {"e": pytest.approx(expected)}


def test_with_fewer_than_three_only_the_scale_is_fitted() -> None:
    cheap = {"a": 1.0, "b": 4.0, "c": 10.0}
    found = estimates(["c"], cheap, {"a": 5.0, "b": 5.0})
    assert found == {"c": pytest.approx(10.0 * 5.0 / 2.0)}
    assert estimates(["c"], cheap, {"a": 7.0}) == {"c": pytest.approx(70.0)}
    assert estimates(["a", "c"], cheap, {}) == {
        "a": pytest.approx(1.0),
        "c": pytest.approx(10.0),
    }


def test_an_order_that_runs_the_other_way_does_not_turn_estimates_around() -> None:
    cheap = {"a": 1.0, "b": 2.0, "c": 3.0, "low": 0.5, "high": 9.0}
    found = estimates(["low", "high"], cheap, {"a": 30.0, "b": 20.0, "c": 10.0})
    assert found["low"] == pytest.approx(found["high"])


def test_scores_of_zero_or_below_do_not_count_and_zero_stays_zero() -> None:
    cheap = {"a": 1.0, "b": 2.0, "harmless": 3.0, "none": 0.0, "x": 4.0}
    found = estimates(["x", "none"], cheap, {"a": 2.0, "b": 4.0, "harmless": -1.0})
    assert found == {"x": pytest.approx(8.0), "none": 0.0}


def test_only_ops_with_a_cheap_score_and_no_measured_one_are_estimated() -> None:
    assert set(estimates(["a", "b", "c"], {"a": 1.0, "b": 1.0}, {"a": 2.0})) == {"b"}
