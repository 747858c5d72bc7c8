"""The figure of the first screen: what each checkpoint saves against what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantspectrum.report.comparison import TOLERANCE, Comparison, ComparisonRow, recommended
from quantspectrum.report.inputs import BASELINE
from quantspectrum.report.numbers import count, percent, relative, signed, size
from quantspectrum.report.pairs import LossDifference
from quantspectrum.report.theme import (
    ACCENT,
    FAINT,
    INK,
    LONGEST,
    MUTED,
    POINT,
    Figure,
    axis,
    figure,
    label,
)

__all__ = ["NAME_TAG", "tradeoff_figure"]

NAME_TAG = "profile"
"""Marks the labels that the page turns where they would run into each other."""


@dataclass(frozen=True, kw_only=True)
class _Point:
    """A variant that has both a size and a loss difference."""

    row: ComparisonRow
    paired: LossDifference
    disk_bytes: int

    @property
    def low(self) -> float:
        return self.paired.value if self.paired.low is None else self.paired.low

    @property
    def high(self) -> float:
        return self.paired.value if self.paired.high is None else self.paired.high


def tradeoff_figure(comparison: Comparison) -> Figure | None:
    """Loss increase (nats per token, 95 % interval) against checkpoint size.

    ``None`` where no variant has both.
    """
    points = [
        _Point(row=row, paired=row.paired, disk_bytes=row.disk_bytes)
        for row in comparison.rows
        if row.paired is not None and row.disk_bytes is not None
    ]
    if not points:
        return None
    whole = comparison.baseline.disk_bytes if comparison.baseline else None
    largest = max([point.disk_bytes for point in points] + ([whole] if whole else []))
    scale, unit = (1e9, "GB") if largest >= 1e9 else (1e6, "MB")
    at = [point.disk_bytes / scale for point in points]
    data = [_variant_points(points, at, recommended(comparison))]
    names = [
        _name(x, point.paired.value, point.row.profile) for x, point in zip(at, points, strict=True)
    ]
    if whole:
        data.append(_baseline_point(whole / scale))
        names.append(_baseline_name(whole / scale))
        at.append(whole / scale)
    limit = TOLERANCE * points[0].paired.baseline
    room = 0.18 * (max(at) - min(at)) or 0.1 * max(at) or 1.0
    reach = [min(at) - room, max(at) + room]
    return figure(
        data,
        height=370,
        margin={"l": 56, "r": 16, "t": 16, "b": 48},
        xaxis=axis(f"Checkpoint size ({unit})", range=reach, showgrid=False),
        yaxis=axis("Loss increase (nats per token)", range=_reach(points, limit), nticks=7),
        shapes=[_level(0.0, FAINT), _level(limit, ACCENT, "4px,3px")],
        annotations=[_level_text(limit), *names],
    )


def _reach(points: list[_Point], limit: float) -> list[float]:
    """Range of the loss axis: every interval, zero and the tolerance, with room around them."""
    low = min(0.0, *(point.low for point in points))
    high = max(limit, *(point.high for point in points))
    room = 0.11 * (high - low) or 1.0
    return [low - room, high + room]


def _variant_points(
    points: list[_Point], at: list[float], best: ComparisonRow | None
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(at),
        "y": [point.paired.value for point in points],
        "error_y": {
            "type": "data",
            "array": [point.high - point.paired.value for point in points],
            "color": MUTED,
            "thickness": 1.5,
            "width": 5,
        },
        "cliponaxis": False,
        "marker": {
            "size": 12,
            "color": [ACCENT if point.row == best else POINT for point in points],
            "symbol": ["diamond" if point.row == best else "circle" for point in points],
        },
        "hoverinfo": "text",
        "hovertext": [_hover(point) for point in points],
    }


def _hover(point: _Point) -> str:
    row, paired = point.row, point.paired
    said = [f"<b>{label(row.profile)}</b>", size(point.disk_bytes)]
    if row.share is not None:
        said.append(f"{percent(row.share)} of the groups")
    change = signed(paired.value, paired.stderr)
    said.append(f"loss {change} nats per token, {relative(paired.value, paired.baseline)}")
    if paired.low is not None and paired.high is not None:
        interval = f"{signed(paired.low, paired.stderr)} to {signed(paired.high, paired.stderr)}"
        said.append(f"95 %: {interval}, n = {count(paired.n)}")
    return "<br>".join(said)


def _baseline_point(at: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [at],
        "y": [0.0],
        "cliponaxis": False,
        "marker": {
            "size": 11,
            "color": "rgba(0,0,0,0)",
            "line": {"color": MUTED, "width": 2},
        },
        "hoverinfo": "text",
        "hovertext": [BASELINE],
    }


def _baseline_name(at: float) -> dict[str, Any]:
    """Name under the baseline's point: the variants' names are above theirs."""
    return {
        "x": at,
        "y": 0.0,
        "text": BASELINE,
        "showarrow": False,
        "yanchor": "top",
        "yshift": -6,
        "font": {"size": 14, "color": MUTED},
    }


def _name(x: float, y: float, text: str) -> dict[str, Any]:
    return {
        "name": NAME_TAG,
        "x": x,
        "y": y,
        "text": label(text, LONGEST),
        "showarrow": False,
        "xanchor": "left",
        "yanchor": "bottom",
        "xshift": 8,
        "yshift": 1,
        "font": {"size": 14, "color": INK},
    }


def _level(y: float, color: str, dash: str = "solid") -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "layer": "between",
        "line": {"color": color, "width": 1.25, "dash": dash},
    }


def _level_text(y: float) -> dict[str, Any]:
    """Text at the left end of the line, where the axis leaves room before the first point."""
    return {
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "yanchor": "bottom",
        "y": y,
        "text": f"+{percent(TOLERANCE)}",
        "showarrow": False,
        "font": {"size": 12, "color": ACCENT},
    }
