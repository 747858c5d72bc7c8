"""Tables and curves of one sensitivity report: ranking, coverage, heatmap cells, damage."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from quantspectrum.artifacts import OpNote, OpScore, SensitivityReport, Spectrum
from quantspectrum.report.numbers import ABSENT, count, percent, plural, score
from quantspectrum.report.ops import kind_of, places_of_notes, short_names, tied_ranks
from quantspectrum.report.tables import Table, columns

__all__ = [
    "DEPTH",
    "Grid",
    "Step",
    "coverage_sentence",
    "coverage_table",
    "cut_table",
    "damage_curve",
    "grid_table",
    "grids",
    "header_sentence",
    "ranking_table",
    "reasons_table",
]

DEPTH = 1e4
"""Largest score over the smallest one told apart in a figure: one tiny score flattens no other."""

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


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Scores of one component by block and kind.

    Attributes:
        component: Name of the component.
        blocks: Block numbers.
        kinds: Short names of the kinds.
        scores: Score at ``[kind][block]``; ``None`` where no op was scored. Where ops share a
            place (the experts of a mixture), the largest.
        unscored: Whether an op was kept or skipped at ``[kind][block]``.
    """

    component: str
    blocks: tuple[int, ...]
    kinds: tuple[str, ...]
    scores: tuple[tuple[float | None, ...], ...]
    unscored: tuple[tuple[bool, ...], ...]


def grids(report: SensitivityReport) -> list[Grid]:
    """One grid for each component that has blocks, the one with most ops first."""
    cells: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    for op in report.ops:
        if op.block is not None:
            key = kind_of(op), op.block
            cells[op.component][key] = max(op.score, cells[op.component].get(key, op.score))
    notes: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for component, block, kind in places_of_notes(report)[0]:
        notes[component].add((kind, block))
    order = sorted(cells, key=lambda component: (-len(cells[component]), component))
    return [_grid(component, cells[component], notes[component]) for component in order]


def _grid(component: str, cells: dict[tuple[str, int], float], notes: set[tuple[str, int]]) -> Grid:
    # Kinds keep the order in which the most sensitive of each was ranked: cells is in rank order.
    kinds = list(dict.fromkeys([kind for kind, _ in (*cells, *sorted(notes))]))
    blocks = sorted({block for _, block in (*cells, *notes)})
    names = short_names(kinds)
    return Grid(
        component=component,
        blocks=tuple(blocks),
        kinds=tuple(names[kind] for kind in kinds),
        scores=tuple(tuple(cells.get((kind, block)) for block in blocks) for kind in kinds),
        unscored=tuple(
            tuple((kind, block) in notes and (kind, block) not in cells for block in blocks)
            for kind in kinds
        ),
    )


def grid_table(grid: Grid) -> Table:
    """Scores of a grid, a row for each block."""
    return Table(
        caption=f"Scores of {grid.component} by block; — where there is no such op.",
        columns=columns("Block", *grid.kinds),
        rows=tuple(
            (
                str(block),
                *(
                    "not scored" if grid.unscored[k][b] else score(grid.scores[k][b])
                    for k in range(len(grid.kinds))
                ),
            )
            for b, block in enumerate(grid.blocks)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One group on the way from none quantized to all; ``damage`` includes those before it."""

    group: str
    ops: int
    score: float
    damage: float


def damage_curve(report: SensitivityReport, spectrum: Spectrum | None) -> list[Step]:
    """Cumulative sum of scores, least sensitive group first.

    The order is the spectrum's; without one it is that of the groups' summed scores.
    """
    scores: dict[str, float] = {op.name: op.score for op in report.ops}
    groups: dict[str, list[str]] = defaultdict(list)
    for op in spectrum.candidates if spectrum else report.ops:
        if op.name in scores:
            groups[op.group].append(op.name)
    totals = {group: sum(scores[name] for name in names) for group, names in groups.items()}
    order = list(totals) if spectrum else sorted(totals, key=lambda group: totals[group])
    steps, damage = [], 0.0
    for group in order:
        damage += totals[group]
        steps.append(Step(group=group, ops=len(groups[group]), score=totals[group], damage=damage))
    return steps


def cut_table(steps: list[Step], spectrum: Spectrum | None) -> Table | None:
    """Where each profile cuts the curve; ``None`` without profiles."""
    if spectrum is None or not steps:
        return None
    total = steps[-1].damage
    return Table(
        caption="Where each profile cuts the ranking.",
        columns=columns(
            "Profile", "Groups quantized", "Predicted damage", "Of the total", text=("Profile",)
        ),
        rows=tuple(
            (
                profile.name,
                f"{count(profile.groups)} of {count(len(steps))}",
                score(profile.predicted_damage),
                percent(profile.predicted_damage / total) if total > 0 else ABSENT,
            )
            for profile in spectrum.profiles
        ),
    )


def steps_table(steps: list[Step]) -> Table:
    """Every group on the damage curve."""
    return Table(
        caption="Groups in the order in which they are quantized.",
        columns=columns("Position", "Group", "Ops", "Score", "Sum so far", names=("Group",)),
        rows=tuple(
            (count(i), step.group, count(step.ops), score(step.score), score(step.damage))
            for i, step in enumerate(steps, 1)
        ),
    )


def score_limits(report: SensitivityReport) -> tuple[float, float] | None:
    """Ends of a logarithmic scale: the positive scores' range, at most ``DEPTH`` deep.

    ``None`` where no score is positive.
    """
    positive = [op.score for op in report.ops if op.score > 0]
    return (max(min(positive), max(positive) / DEPTH), max(positive)) if positive else None
