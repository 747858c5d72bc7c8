"""Scores of one component by block and kind: what a heatmap shows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from quantspectrum.artifacts import OpScore, SensitivityReport
from quantspectrum.report.numbers import score
from quantspectrum.report.ops import kind_of, places_of_notes, short_names
from quantspectrum.report.tables import Table, columns

__all__ = ["DEPTH", "Grid", "grid_table", "grids", "score_limits"]

DEPTH = 1e4
"""Largest score over the smallest one told apart in a figure: one tiny score flattens no other."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Scores of one component by block and kind.

    Attributes:
        component: Name of the component.
        blocks: Block numbers.
        kinds: Short names of the kinds.
        scores: Score at ``[kind][block]``; ``None`` where no op was scored. Where ops share a
            place (the experts of a mixture), the largest.
        estimated: Whether that score is an estimate.
        unscored: Whether an op was kept or skipped at ``[kind][block]``.
        names: The op behind the score.
    """

    component: str
    blocks: tuple[int, ...]
    kinds: tuple[str, ...]
    scores: tuple[tuple[float | None, ...], ...]
    estimated: tuple[tuple[bool, ...], ...]
    unscored: tuple[tuple[bool, ...], ...]
    names: tuple[tuple[str | None, ...], ...] = ()


def grids(report: SensitivityReport) -> list[Grid]:
    """One grid for each component that has blocks, the one with most ops first."""
    cells: dict[str, dict[tuple[str, int], OpScore]] = defaultdict(dict)
    for op in report.ops:
        if op.block is not None:
            key = kind_of(op), op.block
            there = cells[op.component].get(key, op)
            cells[op.component][key] = op if op.score > there.score else there
    notes: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for component, block, kind in places_of_notes(report)[0]:
        notes[component].add((kind, block))
    order = sorted(cells, key=lambda component: (-len(cells[component]), component))
    return [_grid(component, cells[component], notes[component]) for component in order]


def _grid(
    component: str, cells: dict[tuple[str, int], OpScore], notes: set[tuple[str, int]]
) -> Grid:
    # Kinds keep the order in which the most sensitive of each was ranked: cells is in rank order.
    kinds = list(dict.fromkeys([kind for kind, _ in (*cells, *sorted(notes))]))
    blocks = sorted({block for _, block in (*cells, *notes)})
    names = short_names(kinds)
    found = [[cells.get((kind, block)) for block in blocks] for kind in kinds]
    return Grid(
        component=component,
        blocks=tuple(blocks),
        kinds=tuple(names[kind] for kind in kinds),
        scores=tuple(tuple(op.score if op else None for op in row) for row in found),
        names=tuple(tuple(op.name if op else None for op in row) for row in found),
        estimated=tuple(tuple(bool(op and op.kind == "estimated") for op in row) for row in found),
        unscored=tuple(
            tuple((kind, block) in notes and (kind, block) not in cells for block in blocks)
            for kind in kinds
        ),
    )


def grid_table(grid: Grid) -> Table:
    """Scores of a grid, a row for each block."""
    about = ", ~ before an estimate" if any(map(any, grid.estimated)) else ""
    return Table(
        caption=f"Scores of {grid.component} by block; — where there is no such op{about}.",
        columns=columns("Block", *grid.kinds),
        rows=tuple(
            (
                str(block),
                *(_cell(grid, k, b) for k in range(len(grid.kinds))),
            )
            for b, block in enumerate(grid.blocks)
        ),
    )


def _cell(grid: Grid, kind: int, block: int) -> str:
    if grid.unscored[kind][block]:
        return "not scored"
    return ("~" if grid.estimated[kind][block] else "") + score(grid.scores[kind][block])


def score_limits(report: SensitivityReport) -> tuple[float, float] | None:
    """Ends of a logarithmic scale: the positive scores' range, at most ``DEPTH`` deep.

    ``None`` where no score is positive.
    """
    positive = [op.score for op in report.ops if op.score > 0]
    return (max(min(positive), max(positive) / DEPTH), max(positive)) if positive else None
