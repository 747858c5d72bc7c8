"""Predicted against measured damage along a ranking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import models_tiny
from quantspectrum.artifacts import Additivity, AdditivityPoint, Interval
from quantspectrum.spectrum.additivity import (
    additivity_of,
    counts_of,
    fit_of,
    metric_of,
    prefix_ops,
)
from quantspectrum.spectrum.quality import ranked_groups
from spectrum.measured_cases import SELECTION, Case, case_of


def points(*pairs: tuple[float, float]) -> list[AdditivityPoint]:
    return [
        AdditivityPoint(groups=n, share=0.1, predicted=p, measured=Interval(n=4, value=m))
        for n, (p, m) in enumerate(pairs, start=1)
    ]


def along(case: Case, metric: str, counts: list[int]) -> Additivity:
    groups = ranked_groups(case.report, case.spectrum)
    meter = case.meter(
        SELECTION, metrics=("kl", "nll", metric) if metric == "mse_v2" else ("kl", "nll")
    )
    ops = [prefix_ops(groups, count, case.report.format.name) for count in counts]
    return additivity_of(case.report, groups, counts, meter.measure(ops), meter.baseline)


@given(st.integers(1, 400))
def test_points_end_at_everything_and_close_in_on_it(groups: int) -> None:
    counts = counts_of(groups)
    assert counts == sorted(set(counts))
    assert counts[-1] == groups
    assert counts[0] >= 1
    assert len(counts) <= 17
    if groups >= 3:
        assert {groups - 1, groups - 2} <= set(counts)


@pytest.mark.parametrize("fmt", ["w8a8", "w8a8-static", "inc"])
@pytest.mark.parametrize("metric", ["mse_v2", "kl", "nll"])
def test_one_op_alone_is_its_own_score(llama: nn.Module, metric: str, fmt: str) -> None:
    """On the report's own samples the first point is the very quantity that was predicted."""
    case = case_of(llama, fmt, metric)
    groups = ranked_groups(case.report, case.spectrum)
    first = next(n for n, group in enumerate(groups) if len(group.ops) == 1)
    alone = [groups[first]]
    meter = case.meter(SELECTION, metrics=(metric,))
    readings = meter.measure([prefix_ops(alone, 1, fmt)])
    made = additivity_of(case.report, alone, [1], readings, meter.baseline)
    (point,) = made.points
    assert made.same_unit
    assert point.predicted == alone[0].ops[0].score
    largest = max(abs(op.score) for op in case.report.ops)
    assert point.measured.value == pytest.approx(point.predicted, rel=1e-3, abs=1e-5 * largest)
    assert point.measured.stderr == pytest.approx(alone[0].ops[0].stderr, rel=1e-2)


@pytest.mark.parametrize("metric", ["mse_v2", "visibility"])
def test_along_a_whole_ranking(metric: str) -> None:
    case = case_of(models_tiny.causal_lm("qwen2"), metric=metric)
    counts = counts_of(len(case.spectrum.damages))
    made = along(case, metric, counts)
    assert made.metric == ("kl" if metric == "visibility" else metric)
    assert [point.groups for point in made.points] == counts
    assert made.points[-1].share == 1.0
    assert made.points[-1].predicted == pytest.approx(sum(op.score for op in case.report.ops))
    assert made.fit.spearman is not None
    assert made.fit.spearman > 0.8
    assert made.fit.slope is not None
    assert 0.3 < made.fit.slope < 3


def test_a_power_law_is_found() -> None:
    fit = fit_of(points(*((x, 3 * x**1.5) for x in (0.01, 0.1, 1.0, 10.0))), same_unit=True)
    assert fit.slope == pytest.approx(1.5)
    assert fit.factor == pytest.approx(3.0)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.spearman == pytest.approx(1.0)


def test_errors_are_relative_to_what_was_measured() -> None:
    fit = fit_of(points((1, 2), (2, 2), (3, 2), (4, 2), (10, 2)), same_unit=True)
    assert fit.relative_error_median == pytest.approx(0.5)
    assert fit.relative_error_90 == pytest.approx(1 + 0.6 * 3)
    assert fit.r2 is None


def test_other_units_have_no_relative_error() -> None:
    fit = fit_of(points((1, 2), (2, 4), (3, 6)), same_unit=False)
    assert fit.relative_error_median is None
    assert fit.slope == pytest.approx(1.0)


def test_points_without_positive_damage_are_left_out() -> None:
    assert fit_of(points((0, 1), (1, -1)), same_unit=True).points == 0
    few = fit_of(points((-1, 1), (1, 1), (2, 2)), same_unit=True)
    assert (few.points, few.slope) == (2, None)


@pytest.mark.parametrize(
    ("lens", "metric", "same"),
    [
        ("native:nll", "nll", True),
        ("native:visibility", "kl", True),
        ("native:sqnr", "kl", False),
        ("inc:mse_v2", "kl", False),
    ],
)
def test_what_is_measured_for_each_lens(
    llama: nn.Module, lens: str, metric: str, same: bool
) -> None:
    report = case_of(llama).report.model_copy(update={"lens": lens})
    assert metric_of(report) == (metric, same)
