"""What of a model a sensitivity report covers, and why the rest has no score."""

from __future__ import annotations

from collections import defaultdict

from quantspectrum.artifacts import OpNote, SensitivityReport
from quantspectrum.report.numbers import count, plural
from quantspectrum.report.tables import Table, columns

__all__ = ["coverage_sentence", "coverage_table", "reasons_table"]


def coverage_sentence(report: SensitivityReport) -> str:
    """What was scored of what was found; an incomplete scan is said first and loudly."""
    coverage = report.coverage
    said = (
        f"{plural(coverage.found, 'op')} found: {count(coverage.scored)} scored, "
        f"{count(len(coverage.kept))} kept in high precision, "
        f"{count(len(coverage.skipped))} skipped."
    )
    if report.complete:
        return f"Complete: {said}"
    why = "not every candidate was scored"
    if report.stopped_by is not None:
        why = f"this scan stopped early ({report.stopped_by})"
    return f"INCOMPLETE: {why}. What follows is partial. {said}"


def reasons_table(report: SensitivityReport) -> Table | None:
    """Ops that were not scored, counted by reason; ``None`` where all were scored."""
    found: dict[tuple[str, str], list[OpNote]] = defaultdict(list)
    for state, notes in _notes(report):
        for note in notes:
            found[state, note.reason].append(note)
    if not found:
        return None
    return Table(
        caption="Ops without a score, by reason.",
        columns=columns("State", "Reason", "Ops", "Types", text=("State", "Reason", "Types")),
        rows=tuple(
            (state, reason, count(len(notes)), ", ".join(sorted({note.type for note in notes})))
            for (state, reason), notes in found.items()
        ),
    )


def coverage_table(report: SensitivityReport) -> Table:
    """Every op that was not scored, with its reason."""
    return Table(
        caption="Every op without a score.",
        columns=columns(
            "State", "Op", "Type", "Reason", text=("State", "Type", "Reason"), names=("Op",)
        ),
        rows=tuple(
            (state, note.name, note.type, note.reason)
            for state, notes in _notes(report)
            for note in notes
        ),
    )


def _notes(report: SensitivityReport) -> tuple[tuple[str, tuple[OpNote, ...]], ...]:
    return ("kept", report.coverage.kept), ("skipped", report.coverage.skipped)
