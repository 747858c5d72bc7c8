"""How far sums of single-op damages predict the damage of many ops together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from quantspectrum.artifacts import (
    Additivity,
    AdditivityFit,
    AdditivityPoint,
    Interval,
    SensitivityReport,
)
from quantspectrum.sensitivity import MEASURED, measured_metric
from quantspectrum.spectrum.groups import Group
from quantspectrum.spectrum.meter import Ops, Reading
from quantspectrum.statistics import spearman, t_quantile

__all__ = ["additivity_of", "counts_of", "fit_of", "metric_of", "prefix_ops"]

EVEN = 12
"""Numbers of groups, evenly spaced."""

HALVINGS = 5
"""Further ones near the end, each half as far from it as the one before."""


def counts_of(groups: int) -> list[int]:
    """Numbers of groups to measure at: evenly spaced, and closing in on all of them.

    The last groups hold most of the damage, so that even steps alone would step over it: added are
    all but one, all but two, all but four and so on.
    """
    spaced = {math.floor(groups * number / EVEN + 0.5) for number in range(1, EVEN + 1)}
    near = {groups - 2**number for number in range(HALVINGS)}
    return sorted(count for count in spaced | near if count > 0)


def metric_of(report: SensitivityReport) -> tuple[str, bool]:
    """Metric to measure profiles by, and whether the report's scores are in its unit.

    Scores of the native measured metrics are that metric's own; those of ``visibility`` estimate
    ``kl``. Others are in a unit of their own, and ``kl`` is measured.
    """
    lens, _, metric = report.lens.partition(":")
    if lens != "native":
        return "kl", False
    if metric in MEASURED:
        return metric, True
    return "kl", metric == "visibility"


def prefix_ops(groups: Sequence[Group], count: int, fmt: str) -> Ops:
    """Ops of the first ``count`` groups in a format."""
    return {op.name: fmt for group in groups[:count] for op in group.ops}


def additivity_of(
    report: SensitivityReport,
    groups: Sequence[Group],
    counts: Sequence[int],
    readings: Sequence[Reading],
    baseline: Reading,
) -> Additivity:
    """Predicted against measured damage of the ranking's prefixes.

    Predicted is the sum of the groups' scores. Measured is the same metric's own summary of the
    prefix: the mean over samples that a score is, so that both are one quantity.

    Args:
        report: Where the scores are from.
        groups: Its groups, least sensitive first.
        counts: Numbers of groups, as of :func:`counts_of`.
        readings: What was measured of each.
        baseline: The unquantized model.
    """
    name, same_unit = metric_of(report)
    metric = measured_metric(name)
    points = []
    for count, reading in zip(counts, readings, strict=True):
        made = metric.summarize(reading.values, None, baseline.values)
        points.append(
            AdditivityPoint(
                groups=count,
                share=count / len(groups),
                predicted=math.fsum(group.score for group in groups[:count]),
                measured=_interval(made.score, made.stderr, len(made.values)),
            )
        )
    return Additivity(
        metric=name,
        same_unit=same_unit,
        estimated=sum(op.kind == "estimated" for op in report.ops),
        points=tuple(points),
        fit=fit_of(points, same_unit=same_unit),
    )


def _interval(value: float, stderr: float | None, n: int) -> Interval:
    if stderr is None:
        return Interval(n=n, value=value)
    reach = t_quantile(n - 1) * stderr
    return Interval(n=n, value=value, stderr=stderr, low=value - reach, high=value + reach)


def fit_of(points: Sequence[AdditivityPoint], *, same_unit: bool) -> AdditivityFit:
    r"""Least-squares line of :math:`\log` measured on :math:`\log` predicted, and relative errors.

    Quantiles interpolate between neighbours. Points with a prediction or measurement that is not
    above zero are left out.
    """
    used = [p for p in points if p.predicted > 0 and p.measured.value > 0]
    if not used:
        return AdditivityFit(points=0)
    predicted = np.array([p.predicted for p in used])
    measured = np.array([p.measured.value for p in used])
    errors = np.abs(predicted - measured) / measured
    slope, factor, r2 = _line(np.log(predicted), np.log(measured))
    return AdditivityFit(
        points=len(used),
        slope=slope,
        factor=factor,
        r2=r2,
        relative_error_median=float(np.quantile(errors, 0.5)) if same_unit else None,
        relative_error_90=float(np.quantile(errors, 0.9)) if same_unit else None,
        spearman=spearman(predicted.tolist(), measured.tolist()),
    )


def _line(
    x: np.ndarray[tuple[int], np.dtype[np.float64]], y: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[float | None, float | None, float | None]:
    dx, dy = x - x.mean(), y - y.mean()
    spread = float(dx @ dx)
    if len(x) < 3 or spread <= 1e-12 * len(x):
        return None, None, None
    slope = float(dx @ dy) / spread
    rest = dy - slope * dx
    whole = float(dy @ dy)
    factor = math.exp(float(y.mean() - slope * x.mean()))
    return slope, factor, 1 - float(rest @ rest) / whole if whole > 0 else None
