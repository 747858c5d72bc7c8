"""Measuring how much each op matters: capture and replay, one file a metric, the journal.

A new metric is one file, ``NAME.py`` (see :mod:`quantspectrum.sensitivity.metric`), and its name
here. Metrics are imported when they are asked for, so that listing them costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from quantspectrum.errors import UserError

if TYPE_CHECKING:
    from quantspectrum.sensitivity.metric import MeasuredMetric, PassMetric

__all__ = ["MEASURED", "METRICS", "PASSES", "check_metrics", "measured_metric", "pass_metric"]

MEASURED = ("mse_v2", "kl", "nll")
"""Metrics of the difference between outputs; every op is replayed."""

PASSES = ("visibility", "sqnr", "hawq_v2")
"""Metrics that get all ops' values from a few passes."""

METRICS = (*MEASURED, *PASSES)


def measured_metric(name: str) -> MeasuredMetric:
    """The metric of that name, one of :data:`MEASURED`."""
    assert name in MEASURED
    return cast("MeasuredMetric", importlib.import_module(f"{__name__}.{name}"))


def pass_metric(name: str) -> PassMetric:
    """The metric of that name, one of :data:`PASSES`."""
    assert name in PASSES
    return cast("PassMetric", importlib.import_module(f"{__name__}.{name}"))


def check_metrics(names: tuple[str, ...], base: str) -> None:
    """Refuse metrics that are unknown or know no such base.

    Raises:
        UserError: Naming the metric and what to ask instead.
    """
    for name in names:
        if name not in METRICS:
            raise UserError(f"unknown metric {name!r}; the metrics are: {', '.join(METRICS)}")
        if name in PASSES and base != "isolate":
            raise UserError(f"metric {name} looks at each op by itself; use --base isolate")
