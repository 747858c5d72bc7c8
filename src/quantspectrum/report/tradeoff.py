"""The figure of the first screen: what each checkpoint saves against what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from quantspectrum.report.comparison import Comparison, ComparisonRow
from quantspectrum.report.inputs import BASELINE
from quantspectrum.report.marks import level, level_text, name_beside
from quantspectrum.report.numbers import between, count, percent, relative, score, signed, size
from quantspectrum.report.pairs import Divergence, LossDifference
from quantspectrum.report.recommendation import TOLERANCE, recommended, within_tolerance
from quantspectrum.report.theme import (
    ACCENT,
    FAINT,
    MUTED,
    POINT,
    Figure,
    axis,
    error_bars,
    figure,
    label,
    log_axis,
)

__all__ = ["shows_divergence", "tradeoff_figure"]


@dataclass(frozen=True, kw_only=True)
class _Point:
    """A variant with its size, its loss difference, and the measure that is drawn."""

    row: ComparisonRow
    paired: LossDifference
    drawn: LossDifference | Divergence
    disk_bytes: int

    @property
    def low(self) -> float:
        return self.drawn.value if self.drawn.low is None else self.drawn.low

    @property
    def high(self) -> float:
        return self.drawn.value if self.drawn.high is None else self.drawn.high


@dataclass(frozen=True, kw_only=True)
class _Quality:
    """The vertical axis.

    Attributes:
        axis: The axis itself.
        floor: Lowest value it can show: minus infinity on a linear one.
        levels: Lines across the plot, and their texts.
    """

    axis: dict[str, Any]
    floor: float = -math.inf
    levels: tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]] = ((), ())

    @property
    def logarithmic(self) -> bool:
        return self.floor > 0

    def at(self, value: float) -> float:
        """Where a value is drawn."""
        return max(value, self.floor)

    def text_at(self, value: float) -> float:
        """Where a text at a value stands: Plotly takes it in powers of ten on such an axis."""
        return math.log10(self.at(value)) if self.logarithmic else value


def shows_divergence(comparison: Comparison) -> bool:
    """Whether the figure draws the KL divergence and not the loss.

    It does where the loss tells no profile apart, as all are within tolerance, and the divergence
    was measured for all and is not 0 everywhere.
    """
    compared = [row for row in comparison.rows if row.paired is not None]
    return all(
        within_tolerance(row.paired) and row.divergence is not None for row in compared
    ) and any(row.divergence and row.divergence.value > 0 for row in compared)


def tradeoff_figure(comparison: Comparison) -> Figure | None:
    """Loss increase or KL divergence (nats per token, 95 % interval) against checkpoint size.

    :func:`shows_divergence` says which of the two. ``None`` where no variant has a loss
    difference and a size.
    """
    points = _points(comparison)
    if not points:
        return None
    floor = _floor(points, divergence=shows_divergence(comparison))
    quality = (
        _divergence_axis(points, floor) if shows_divergence(comparison) else _loss_axis(points)
    )
    whole = comparison.baseline.disk_bytes if comparison.baseline else None
    largest = max([point.disk_bytes for point in points] + ([whole] if whole else []))
    scale, unit = (1e9, "GB") if largest >= 1e9 else (1e6, "MB")
    at = [point.disk_bytes / scale for point in points]
    data = [_variant_points(points, at, quality, recommended(comparison))]
    lines, texts = quality.levels
    if floor:
        lines = (*lines, level(floor, MUTED, "1px,3px"))
        texts = (*texts, level_text(quality.text_at(floor), "noise floor", MUTED, right=True))
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


def _floor(points: list[_Point], *, divergence: bool) -> float | None:
    """The furthest that the baseline is from itself, in the measure drawn; ``None`` if not known."""
    found = [
        abs(figure_.floor)
        for point in points
        if (whole := point.row.over()) is not None
        for figure_ in ((whole.kl_mean if divergence else whole.loss),)
        if figure_.floor is not None
    ]
    return max(found, default=None)


def _points(comparison: Comparison) -> list[_Point]:
    divergence = shows_divergence(comparison)
    found = []
    for row in comparison.rows:
        drawn = row.divergence if divergence else row.paired
        if row.paired is not None and drawn is not None and row.disk_bytes is not None:
            found.append(_Point(row=row, paired=row.paired, drawn=drawn, disk_bytes=row.disk_bytes))
    return found


def _loss_axis(points: list[_Point]) -> _Quality:
    """Linear: every interval, zero and the tolerance, with room around them."""
    limit = TOLERANCE * points[0].paired.baseline
    low = min(0.0, *(point.low for point in points))
    high = max(limit, *(point.high for point in points))
    room = 0.11 * (high - low) or 1.0
    return _Quality(
        axis=axis("Loss increase (nats per token)", range=[low - room, high + room], nticks=7),
        levels=(
            (level(0.0, FAINT), level(limit, ACCENT, "4px,3px")),
            (level_text(limit, f"+{percent(TOLERANCE)}", ACCENT),),
        ),
    )


def _divergence_axis(points: list[_Point], noise: float | None) -> _Quality:
    """Logarithmic, as profiles lie decades apart; what is 0 stands at its foot."""
    positive = [v for p in points for v in (p.low, p.drawn.value, p.high) if v > 0] or [1.0]
    positive += [noise] if noise else []
    # A divergence below this is rounding, and would push all others to the top.
    bottom = max(math.floor(math.log10(min(positive))), -12)
    top = max(math.log10(max(positive)), bottom + 1)
    return _Quality(
        axis=log_axis(
            "KL from the baseline (nats per token)",
            top - bottom,
            # Room for a name above the highest point, and for the baseline's below the foot.
            range=[bottom - 0.13 * (top - bottom), top + 0.15 * (top - bottom) + 0.1],
        ),
        floor=10.0**bottom,
    )


def _variant_points(
    points: list[_Point], at: list[float], quality: _Quality, best: ComparisonRow | None
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


def _hover(point: _Point) -> str:
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


def _baseline_point(at: float, quality: _Quality) -> dict[str, Any]:
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


def _baseline_name(at: float, quality: _Quality) -> dict[str, Any]:
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
