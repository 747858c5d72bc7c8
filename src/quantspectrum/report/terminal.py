"""The comparison as a few lines for a terminal."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.artifacts import SensitivityReport
from quantspectrum.report.comparison import Comparison, ComparisonRow
from quantspectrum.report.inputs import read_run
from quantspectrum.report.numbers import (
    ABSENT,
    between,
    percent,
    relative,
    score,
    signed_points,
    size,
)
from quantspectrum.report.parts import damage_cells, parts_sentence
from quantspectrum.report.recommendation import grounds, recommend
from quantspectrum.report.tables import printable, text_table

__all__ = ["ranking_text", "run_text", "variants_text"]

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


FIRST = 10
"""Ops that a terminal shows of a ranking."""


def run_text(run_dir: Path, comparison: Comparison) -> str:
    """What a run found: its variants, and which part of the ops its first report blames."""
    reports = read_run(run_dir).reports
    said = parts_sentence(next(iter(reports.values()))) if reports else ""
    return "\n\n".join([variants_text(comparison), *([printable(said)] if said else [])])


def ranking_text(report: SensitivityReport) -> str:
    """The most sensitive ops; where both parts were measured, with the one that does the damage."""
    parts = damage_cells(report)[:FIRST] if parts_sentence(report) else []
    lines = ["rank        score  op"]
    width = max([len(op.name) for op in report.ops[:FIRST]], default=0)
    if parts:
        lines[0] = f"{lines[0]:<{19 + width}}  damage by"
    for place, op in enumerate(report.ops[:FIRST]):
        line = f"{op.rank:>4}  {op.score:>11.4e}  {op.name}"
        lines.append(f"{line:<{19 + width}}  {parts[place]}" if parts else line)
    return "\n".join(lines)


def variants_text(comparison: Comparison) -> str:
    """Table of the variants and the recommendation; loss and accuracy are paired changes."""
    rows = [row for row in (comparison.baseline, *comparison.rows) if row is not None]
    table = text_table(_TITLES, [_cells(row) for row in rows])
    said = [recommend(comparison), grounds(comparison)]
    return "\n\n".join([table, *(printable(text) for text in said if text)])


def _cells(row: ComparisonRow) -> tuple[str, ...]:
    loss = interval = kl = accuracy = flips = ABSENT
    if row.divergence is not None:
        kl = score(row.divergence.value)
    if row.paired is not None:
        whole = row.paired.baseline
        loss = relative(row.paired.value, whole)
        interval = between(row.paired, lambda value: relative(value, whole))
    if row.paired_accuracy is not None:
        accuracy = f"{signed_points(row.paired_accuracy.value)} points"
        flips = f"−{row.paired_accuracy.lost} +{row.paired_accuracy.won}"
    return (
        row.profile,
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
