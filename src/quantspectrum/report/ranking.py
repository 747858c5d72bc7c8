"""The ranking of one sensitivity report: what was measured, and every scored op in order."""

from __future__ import annotations

from collections import Counter

from quantspectrum.artifacts import OpScore, SensitivityReport
from quantspectrum.report.numbers import ABSENT, count, plural, score
from quantspectrum.report.ops import tied_ranks
from quantspectrum.report.tables import Table, columns

__all__ = ["header_sentence", "ranking_table"]

_BASES = {
    "isolate": "each op quantized by itself, all others in high precision",
    "fallback": "each op in high precision by itself, all others quantized",
}


def header_sentence(report: SensitivityReport) -> str:
    """Lens, base, format and data in one sentence."""
    data = (
        ", ".join(
            f"{d.split} on {plural(d.samples, 'sample')} of {d.source}"
            for d in report.provenance.data
        )
        or "not recorded"
    )
    return (
        f"Lens {report.lens}, base {report.base} ({_BASES[report.base]}), format "
        f"{report.format.name}; data: {data}. Higher scores are more sensitive."
    )


def ranking_table(report: SensitivityReport) -> Table:
    """Every scored op, most sensitive first, with the ranks it cannot be told from."""
    members = Counter(op.group for op in report.ops)
    ties = tied_ranks(report.ops)
    return Table(
        caption=(
            "± is one standard error over n samples. The last column lists the neighbouring ranks "
            "whose scores differ by at most 2·√(se₁² + se₂²)."
        ),
        columns=columns(
            "Rank",
            "Op",
            "Component",
            "Block",
            "Score",
            "±",
            "n",
            "Not apart from ranks",
            "Shape",
            "Group",
            text=("Component", "Shape"),
            names=("Op", "Group"),
        ),
        rows=tuple(
            (*_score_cells(op, tie), op.group if members[op.group] > 1 else ABSENT)
            for op, tie in zip(report.ops, ties, strict=True)
        ),
    )


def _score_cells(op: OpScore, tie: tuple[int, int] | None) -> tuple[str, ...]:
    return (
        count(op.rank),
        op.name,
        op.component,
        count(op.block),
        score(op.score),
        score(op.stderr),
        count(op.n),
        _tied(op, tie),
        "×".join(str(side) for side in op.shape),
    )


def _tied(op: OpScore, ranks: tuple[int, int] | None) -> str:
    if ranks is None:
        return "no error known"
    first, last = ranks
    if first == last:
        return "none"
    if last - first == 1:
        return count(first if last == op.rank else last)
    return f"{count(first)}–{count(last)}"
