"""Several sensitivity reports of one run, a line for each."""

from __future__ import annotations

from collections.abc import Mapping

from quantspectrum.artifacts import SensitivityReport
from quantspectrum.report.numbers import ABSENT, count, minus
from quantspectrum.report.quantities import quantity_of
from quantspectrum.report.tables import Table, columns
from quantspectrum.report.ties import ties_of
from quantspectrum.statistics import spearman

__all__ = ["overview_table"]


def overview_table(
    reports: Mapping[str, SensitivityReport], source: str | None = None
) -> Table | None:
    """Every report of a run: what it measured, how much, and how its order agrees with the first's.

    Args:
        reports: Reports by name.
        source: The one the spectrum was made from.

    Returns:
        The table; ``None`` for fewer than two reports.
    """
    if len(reports) < 2:
        return None
    first = next(iter(reports.values()))
    made = f" The spectrum was made from {source}." if source is not None else ""
    return Table(
        caption=(
            f"The sensitivity reports of this run.{made} Scores of different units compare by "
            "their order alone: agreement is Spearman's rank correlation with the first report, "
            "over the ops that both scored."
        ),
        columns=columns(
            "Report",
            "Lens",
            "Base",
            "Format",
            "Unit",
            "Measured",
            "Estimated",
            "Tied pairs",
            "Agreement",
            "State",
            "Most sensitive op",
            text=("Lens", "Base", "Format", "Unit", "State"),
            names=("Report", "Most sensitive op"),
        ),
        rows=tuple(
            (
                name,
                report.lens,
                report.base,
                report.format.name,
                quantity_of(report.lens).unit or ABSENT,
                f"{count(len(report.ops) - _estimated(report))} of {count(report.coverage.found)}",
                count(_estimated(report)),
                ties_of(report.ops).counts(),
                _agreement(first, report) if number else ABSENT,
                _state(report),
                report.ops[0].name if report.ops else ABSENT,
            )
            for number, (name, report) in enumerate(reports.items())
        ),
    )


def _estimated(report: SensitivityReport) -> int:
    return sum(op.kind == "estimated" for op in report.ops)


def _state(report: SensitivityReport) -> str:
    if report.complete:
        return "complete"
    return f"stopped: {report.stopped_by}" if report.stopped_by else "incomplete"


def _agreement(first: SensitivityReport, other: SensitivityReport) -> str:
    theirs = {op.name: op.score for op in other.ops}
    shared = [(op.score, theirs[op.name]) for op in first.ops if op.name in theirs]
    found = spearman([a for a, _ in shared], [b for _, b in shared])
    return ABSENT if found is None else minus(f"{found:.3f}")
