"""Figures of what was measured without a checkpoint: additivity, and the ground truth."""

from __future__ import annotations

from typing import Any

from quantspectrum.artifacts import Additivity, Interval, Truth
from quantspectrum.report.quality import UNITS
from quantspectrum.report.theme import (
    COMPONENTS,
    NAMED,
    Figure,
    axis,
    error_bars,
    figure,
    label,
)

__all__ = ["additivity_figure", "truth_figure"]

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")


def additivity_figure(additivity: Additivity) -> Figure | None:
    """Predicted and measured damage by groups quantized, on a logarithmic axis."""
    points = [p for p in additivity.points if p.predicted > 0 or p.measured.value > 0]
    if not points:
        return None
    groups = [p.groups for p in points]
    measured = [p.measured for p in points]
    data = [
        _line("predicted", groups, [p.predicted for p in points], 0),
        _line("measured", groups, [m.value for m in measured], 1) | {"error_y": _errors(measured)},
    ]
    return _logarithmic(data, "Groups quantized, least sensitive first", UNITS[additivity.metric])


def truth_figure(truth: Truth) -> Figure | None:
    """KL by share of bytes, a line for each order."""
    data = []
    for number, order in enumerate(truth.orders):
        points = [point for point in order.curve if point.kl.value > 0]
        if points:
            line = _line(
                order.label, [100 * p.share for p in points], [p.kl.value for p in points], number
            )
            data.append(line | {"error_y": _errors([p.kl for p in points])})
    if not data:
        return None
    return _logarithmic(data, "Share of bytes quantized (%), by each order", UNITS["kl"])


def _line(name: str, x: list[Any], y: list[float], number: int) -> dict[str, Any]:
    """A line told from others by colour, dashes and marks alike."""
    color = COMPONENTS[number % len(COMPONENTS)]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(name, 40),
        "x": x,
        "y": [value if value > 0 else None for value in y],
        "line": {"color": color, "width": 2, "dash": _DASHES[number % len(_DASHES)]},
        "marker": {"color": color, "size": 8, "symbol": _SYMBOLS[number % len(_SYMBOLS)]},
        "hovertemplate": "%{x}: %{y:.3g}",
    }


def _errors(found: list[Interval]) -> dict[str, Any]:
    values = [one.value for one in found]
    lows = [
        # A bar that reaches 0 or below has no end on a logarithmic axis: it stays above.
        max(one.value if one.low is None else one.low, one.value - 0.95 * abs(one.value))
        for one in found
    ]
    highs = [one.value if one.high is None else one.high for one in found]
    return error_bars(values, lows, highs, thickness=1, width=4)


def _logarithmic(data: list[dict[str, Any]], across: str, up: str) -> Figure:
    return figure(
        data,
        **NAMED,
        xaxis=axis(across, rangemode="tozero"),
        yaxis=axis(up, type="log", exponentformat="power"),
    )
