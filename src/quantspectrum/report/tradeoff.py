"""The figure of the first screen: what each checkpoint saves against what it costs."""

from __future__ import annotations

from typing import Any

from quantspectrum.report.comparison import Comparison, ComparisonRow
from quantspectrum.report.drawn import (
    DrawnPoint,
    Quality,
    points_of,
    quality_of,
    shows_divergence,
)
from quantspectrum.report.inputs import BASELINE
from quantspectrum.report.marks import name_beside
from quantspectrum.report.numbers import between, count, percent, relative, score, signed, size
from quantspectrum.report.recommendation import recommended
from quantspectrum.report.theme import (
    ACCENT,
    MUTED,
    POINT,
    Figure,
    axis,
    error_bars,
    figure,
    label,
)

__all__ = ["tradeoff_figure"]


def tradeoff_figure(comparison: Comparison) -> Figure | None:
    """Loss increase or KL divergence (nats per token, 95 % interval) against checkpoint size.

    :func:`quantspectrum.report.drawn.shows_divergence` says which of the two. ``None`` where no variant has a loss
    difference and a size.
    """
    divergence = shows_divergence(comparison)
    points = points_of(comparison, divergence=divergence)
    if not points:
        return None
    quality = quality_of(points, divergence=divergence)
    whole = comparison.baseline.disk_bytes if comparison.baseline else None
    largest = max([point.disk_bytes for point in points] + ([whole] if whole else []))
    scale, unit = (1e9, "GB") if largest >= 1e9 else (1e6, "MB")
    at = [point.disk_bytes / scale for point in points]
    data = [_variant_points(points, at, quality, recommended(comparison))]
    lines, texts = quality.levels
    names = [
        name_beside(x, quality.text_at(point.drawn.value), point.row.profile)
        for x, point in zip(at, points, strict=True)
    ]
    if whole:
        data.append(_baseline_point(whole / scale, quality))
        names.append(_baseline_name(whole / scale, quality))
        at.append(whole / scale)
    room = 0.18 * (max(at) - min(at)) or 0.1 * max(at) or 1.0
    reach = [min(at) - room, max(at) + room]
    return figure(
        data,
        height=370,
        margin={"l": 56, "r": 16, "t": 16, "b": 48},
        xaxis=axis(f"Checkpoint size ({unit})", range=reach, showgrid=False),
        yaxis=quality.axis,
        shapes=list(lines),
        annotations=[*texts, *names],
    )


def _variant_points(
    points: list[DrawnPoint], at: list[float], quality: Quality, best: ComparisonRow | None
) -> dict[str, Any]:
    heights = [quality.at(point.drawn.value) for point in points]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(at),
        "y": heights,
        "error_y": error_bars(
            heights,
            [quality.at(point.low) for point in points],
            [quality.at(point.high) for point in points],
            thickness=1.5,
            width=5,
        ),
        "cliponaxis": False,
        "marker": {
            "size": 12,
            "color": [ACCENT if point.row == best else POINT for point in points],
            "symbol": ["diamond" if point.row == best else "circle" for point in points],
        },
        "hoverinfo": "text",
        "hovertext": [_hover(point) for point in points],
    }


def _hover(point: DrawnPoint) -> str:
    row, paired = point.row, point.paired
    said = [f"<b>{label(row.profile)}</b>", size(point.disk_bytes)]
    if row.share is not None:
        said.append(f"{percent(row.share)} of the groups")
    change = signed(paired.value, paired.stderr)
    said.append(f"loss {change} nats per token, {relative(paired.value, paired.baseline)}")
    if paired.low is not None and paired.high is not None:
        interval = between(paired, lambda value: signed(value, paired.stderr))
        said.append(f"95 %: {interval}, n = {count(paired.n)}")
    kl = row.divergence
    if kl is not None:
        said.append(f"KL {score(kl.value)} nats per token")
        if kl.low is not None and kl.high is not None:
            said.append(f"95 %: {between(kl, lambda value: score(max(value, 0.0)))}")
    return "<br>".join(said)


def _baseline_point(at: float, quality: Quality) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [at],
        "y": [quality.at(0.0)],
        "cliponaxis": False,
        "marker": {
            "size": 11,
            "color": "rgba(0,0,0,0)",
            "line": {"color": MUTED, "width": 2},
        },
        "hoverinfo": "text",
        "hovertext": [BASELINE],
    }


def _baseline_name(at: float, quality: Quality) -> dict[str, Any]:
    """Name under the baseline's point; the variants' names are above theirs."""
    return {
        "x": at,
        "y": quality.text_at(0.0),
        "text": f"{BASELINE}: 0" if quality.logarithmic else BASELINE,
        "showarrow": False,
        "xanchor": "center",
        "yanchor": "top",
        "yshift": -6,
        "font": {"size": 14, "color": MUTED},
    }
