"""Which quality the figures of checkpoints draw, the loss or the KL divergence, and on what axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantspectrum.report.comparison import Comparison, ComparisonRow
from quantspectrum.report.marks import level, level_text
from quantspectrum.report.numbers import percent
from quantspectrum.report.pairs import Divergence, LossDifference
from quantspectrum.report.recommendation import TOLERANCE, within_tolerance
from quantspectrum.report.theme import ACCENT, FAINT, MUTED, axis, log_axis

__all__ = ["DrawnPoint", "Quality", "points_of", "quality_of", "shows_divergence"]


@dataclass(frozen=True, kw_only=True)
class DrawnPoint:
    """A variant with its size, its loss difference, and the measure that is drawn."""

    row: ComparisonRow
    paired: LossDifference
    drawn: LossDifference | Divergence
    disk_bytes: int

    @property
    def low(self) -> float:
        """Lower end of the interval, or the value without one."""
        return self.drawn.value if self.drawn.low is None else self.drawn.low

    @property
    def high(self) -> float:
        """Upper end of the interval, or the value without one."""
        return self.drawn.value if self.drawn.high is None else self.drawn.high


@dataclass(frozen=True, kw_only=True)
class Quality:
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
        """Whether the axis is one of powers of ten."""
        return self.floor > 0

    def at(self, value: float) -> float:
        """Where a value is drawn."""
        return max(value, self.floor)

    def text_at(self, value: float) -> float:
        """Where a text at a value stands: Plotly takes it in powers of ten on such an axis."""
        return math.log10(self.at(value)) if self.logarithmic else value


def shows_divergence(*comparisons: Comparison) -> bool:
    """Whether the figure of one run or of several draws the KL divergence and not the loss.

    It does where the loss tells no profile apart, as all are within tolerance, and the divergence
    was measured for all and is not 0 everywhere.
    """
    compared = [row for one in comparisons for row in one.rows if row.paired is not None]
    return all(
        within_tolerance(row.paired) and row.divergence is not None for row in compared
    ) and any(row.divergence and row.divergence.value > 0 for row in compared)


def points_of(comparison: Comparison, *, divergence: bool) -> list[DrawnPoint]:
    """The variants of a run that have a size and the measure that is drawn."""
    found = []
    for row in comparison.rows:
        drawn = row.divergence if divergence else row.paired
        if row.paired is not None and drawn is not None and row.disk_bytes is not None:
            found.append(
                DrawnPoint(row=row, paired=row.paired, drawn=drawn, disk_bytes=row.disk_bytes)
            )
    return found


def quality_of(points: Sequence[DrawnPoint], *, divergence: bool) -> Quality:
    """Axis of the measure that is drawn (nats per token), with its levels; of one point at least."""
    floor = _floor(points, divergence=divergence)
    quality = _divergence_axis(points, floor) if divergence else _loss_axis(points)
    if not floor:
        return quality
    lines, texts = quality.levels
    noise = level_text(quality.text_at(floor), "noise floor", MUTED, right=True)
    return Quality(
        axis=quality.axis,
        floor=quality.floor,
        levels=((*lines, level(floor, MUTED, "1px,3px")), (*texts, noise)),
    )


def _floor(points: Sequence[DrawnPoint], *, divergence: bool) -> float | None:
    """The furthest that the baseline is from itself, in the measure drawn; ``None`` if not known."""
    found = [
        abs(figure_.floor)
        for point in points
        if (whole := point.row.over()) is not None
        for figure_ in ((whole.kl_mean if divergence else whole.loss),)
        if figure_.floor is not None
    ]
    return max(found, default=None)


def _loss_axis(points: Sequence[DrawnPoint]) -> Quality:
    """Linear: every interval, zero and the tolerance, with room around them.

    The tolerance has no line where points have it of different baselines.
    """
    limits = [TOLERANCE * point.paired.baseline for point in points]
    limit = max(limits)
    low = min(0.0, *(point.low for point in points))
    high = max(limit, *(point.high for point in points))
    room = 0.11 * (high - low) or 1.0
    lines, texts = [level(0.0, FAINT)], []
    if limit <= 1.01 * min(limits):
        lines.append(level(limit, ACCENT, "4px,3px"))
        texts.append(level_text(limit, f"+{percent(TOLERANCE)}", ACCENT))
    return Quality(
        axis=axis("Loss increase (nats per token)", range=[low - room, high + room], nticks=7),
        levels=(tuple(lines), tuple(texts)),
    )


def _divergence_axis(points: Sequence[DrawnPoint], noise: float | None) -> Quality:
    """Logarithmic, as profiles lie decades apart; what is 0 stands at its foot."""
    positive = [v for p in points for v in (p.low, p.drawn.value, p.high) if v > 0] or [1.0]
    positive += [noise] if noise else []
    # A divergence below this is rounding, and would push all others to the top.
    bottom = max(math.floor(math.log10(min(positive))), -12)
    top = max(math.log10(max(positive)), bottom + 1)
    return Quality(
        axis=log_axis(
            "KL from the baseline (nats per token)",
            top - bottom,
            # Room for a name above the highest point, and for the baseline's below the foot.
            range=[bottom - 0.13 * (top - bottom), top + 0.15 * (top - bottom) + 0.1],
        ),
        floor=10.0**bottom,
    )
