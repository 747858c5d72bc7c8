"""The comparison as a few lines for a terminal."""

from __future__ import annotations

from quantspectrum.report.comparison import Comparison, ComparisonRow
from quantspectrum.report.numbers import ABSENT, percent, relative, score, signed_points, size
from quantspectrum.report.recommendation import recommend

__all__ = ["variants_text"]

_TITLES = (
    "profile",
    "groups",
    "share",
    "size",
    "of baseline",
    "loss",
    "95 %",
    "KL",
    "accuracy",
    "flips",
)


def variants_text(comparison: Comparison) -> str:
    """Table of the variants and the recommendation; loss and accuracy are paired changes."""
    rows = [row for row in (comparison.baseline, *comparison.rows) if row is not None]
    lines = [_TITLES, *(_cells(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    # Names come from files: nothing in them may move the cursor or set colours.
    text = "\n".join([*table, "", recommend(comparison)])
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _cells(row: ComparisonRow) -> tuple[str, ...]:
    loss = interval = kl = accuracy = flips = ABSENT
    if row.divergence is not None:
        kl = score(row.divergence.value)
    if row.paired is not None:
        whole = row.paired.baseline
        loss = relative(row.paired.value, whole)
        if row.paired.low is not None and row.paired.high is not None:
            interval = f"{relative(row.paired.low, whole)} to {relative(row.paired.high, whole)}"
    if row.paired_accuracy is not None:
        accuracy = f"{signed_points(row.paired_accuracy.value)} points"
        flips = f"−{row.paired_accuracy.lost} +{row.paired_accuracy.won}"
    return (
        " ".join(row.profile.split()),
        ABSENT if row.groups is None else str(row.groups),
        ABSENT if row.share is None else percent(row.share),
        size(row.disk_bytes),
        ABSENT if row.ratio is None else f"{row.ratio:.3f}×",
        loss,
        interval,
        kl,
        accuracy,
        flips,
    )
