"""What of a model a sensitivity report covers, and why the rest has no score."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

from quantspectrum.artifacts import OpNote, OpScore, SensitivityReport
from quantspectrum.report.numbers import ABSENT, count, percent, plural, score
from quantspectrum.report.quantities import with_unit
from quantspectrum.report.tables import Table, columns

__all__ = [
    "blind_sentence",
    "components_table",
    "coverage_sentence",
    "coverage_table",
    "is_whole",
    "partial_sentence",
    "reasons_table",
]


def is_whole(report: SensitivityReport) -> bool:
    """Whether every candidate was scored, and measured for it."""
    return report.complete and not report.coverage.estimated


def coverage_sentence(report: SensitivityReport) -> str:
    """What was scored of what was found; what is missing or estimated is said first and loudly."""
    coverage = report.coverage
    said = (
        f"{plural(coverage.found, 'op')} found: {count(coverage.scored)} scored, "
        f"{count(len(coverage.kept))} kept in high precision, "
        f"{count(len(coverage.skipped))} skipped."
    )
    blind = blind_sentence(report)
    if blind is not None:
        said = f"{said} {blind}"
    if is_whole(report):
        return f"Complete: {said}"
    if report.complete:
        return f"PARTLY ESTIMATED, as asked: {_estimated(report)}. {said}"
    first = f"INCOMPLETE: {_why(report)}"
    if coverage.estimated:
        first += f"; {_estimated(report)}"
    return f"{first}. What follows is partial. {said}"


def blind_sentence(report: SensitivityReport) -> str | None:
    """Which ops changed nothing that was compared, or ``None`` where all did.

    Of a model with several outputs one is compared, its logits where it has any: what leads to
    another output alone scores zero, and would be quantized first.
    """
    blind = [op.name for op in report.ops if op.score == 0 and not op.stderr]
    if not blind or report.lens.startswith("heuristic:"):
        return None
    return (
        f"{count(len(blind))} of {plural(len(report.ops), 'op')} changed nothing that was compared, "
        f"{blind[0]} first: a score of 0 does not say that it can be quantized. Where an op leads "
        "to another output of the model, leave it out (--exclude)."
    )


def _why(report: SensitivityReport) -> str:
    if report.stopped_by is None:
        return "not every candidate was scored"
    return f"this scan stopped early ({report.stopped_by})"


def _estimated(report: SensitivityReport) -> str:
    coverage = report.coverage
    by = f" from {report.estimator}" if report.estimator else ""
    return f"{count(coverage.estimated)} of {count(coverage.scored)} scores are estimates{by}"


def partial_sentence(reports: Mapping[str, SensitivityReport]) -> str | None:
    """Which reports of a run are partial or partly estimated, in one sentence.

    ``None`` where all are whole.
    """
    partial = {name: report for name, report in reports.items() if not is_whole(report)}
    if not partial:
        return None
    causes = dict.fromkeys(_why(report) for report in partial.values() if not report.complete)
    estimated = sum(report.coverage.estimated for report in partial.values())
    scored = sum(report.coverage.scored for report in partial.values())
    said = list(causes)
    if estimated:
        said.append(f"{count(estimated)} of their {count(scored)} scores are estimates")
    which = ", ".join(partial)
    if len(partial) == len(reports) > 1:
        which = f"all {count(len(reports))}"
    noun = "report" if len(partial) == 1 else "reports"
    word = "Partial" if causes else "Partly estimated"
    return f"{word} sensitivity {noun} ({which}): {'; '.join(said)}."


def components_table(report: SensitivityReport) -> Table | None:
    """Each component's ops, what became of them, and their part of the summed scores.

    ``None`` where no op was found.
    """
    scored: dict[str, list[OpScore]] = defaultdict(list)
    for op in report.ops:
        scored[op.component].append(op)
    left = {state: _by_component(notes) for state, notes in _notes(report)}
    names = dict.fromkeys([*scored, *(name for notes in left.values() for name in notes)])
    if not names:
        return None
    total = math.fsum(op.score for op in report.ops)
    rows = []
    for name in names:
        ops = scored.get(name, [])
        estimated = sum(op.kind == "estimated" for op in ops)
        damage = math.fsum(op.score for op in ops)
        rows.append(
            (
                name,
                count(len(ops) - estimated),
                count(estimated),
                count(len(left["kept"].get(name, ()))),
                count(len(left["skipped"].get(name, ()))),
                score(damage) if ops else ABSENT,
                percent(damage / total) if ops and total > 0 else ABSENT,
                ops[0].name if ops else ABSENT,
            )
        )
    return Table(
        caption="Ops of each component, in the order in which the ranking first reaches it.",
        columns=columns(
            "Component",
            "Measured",
            "Estimated",
            "Kept",
            "Skipped",
            with_unit("Sum of scores", report.lens),
            "Of the sum",
            "Most sensitive op",
            text=("Component",),
            names=("Most sensitive op",),
        ),
        rows=tuple(rows),
    )


def _by_component(notes: tuple[OpNote, ...]) -> dict[str, list[OpNote]]:
    found: dict[str, list[OpNote]] = defaultdict(list)
    for note in notes:
        found[note.component].append(note)
    return found


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
    """Every op that was not scored, with its reason, component by component."""
    return Table(
        caption="Every op without a score.",
        columns=columns(
            "State",
            "Op",
            "Component",
            "Type",
            "Reason",
            text=("State", "Component", "Type", "Reason"),
            names=("Op",),
        ),
        rows=tuple(
            (state, note.name, note.component, note.type, note.reason)
            for state, note in _unscored(report)
        ),
    )


def _unscored(report: SensitivityReport) -> Iterator[tuple[str, OpNote]]:
    for state, notes in _notes(report):
        for found in _by_component(notes).values():
            yield from ((state, note) for note in found)


def _notes(report: SensitivityReport) -> tuple[tuple[str, tuple[OpNote, ...]], ...]:
    return ("kept", report.coverage.kept), ("skipped", report.coverage.skipped)
