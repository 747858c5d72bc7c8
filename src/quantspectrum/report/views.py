"""What the page shows, in its order: figures with their tables, and one part for each lens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantspectrum.artifacts import SensitivityReport, Spectrum
from quantspectrum.report import coverage, damage, grids, prose, ranking, variants
from quantspectrum.report.comparison import Comparison
from quantspectrum.report.engine import engine_table
from quantspectrum.report.figures import damage_figure, heatmap_figure, ranking_figure
from quantspectrum.report.inputs import RunFiles
from quantspectrum.report.numbers import plural
from quantspectrum.report.parts import parts_sentence
from quantspectrum.report.rescored import moved_table, rescored_sentences, rescored_table
from quantspectrum.report.tables import Table
from quantspectrum.report.theme import Figure
from quantspectrum.report.tradeoff import tradeoff_figure

__all__ = [
    "DRAWN",
    "ROWS_FIRST",
    "CoverageView",
    "FigureView",
    "LensView",
    "coverage_views",
    "lens_views",
    "tradeoff_view",
]

DRAWN = 8
"""Reports with all their figures; later ones show their ranking alone, so that the file stays small."""

ROWS_FIRST, ROWS_OTHERS, ROWS_UNDRAWN = 1000, 100, 20
"""Rows a table has: of the first report, of other reports, and of those beyond ``DRAWN``."""


@dataclass(frozen=True, kw_only=True)
class FigureView:
    """A figure in the page with its tables.

    Attributes:
        caption: How to read it, or what was found.
        missing: Why there is no figure; empty where the caption says all there is to say.
    """

    id: str
    title: str
    caption: str
    figure: Figure | None
    missing: str
    tables: tuple[Table, ...]


@dataclass(frozen=True, kw_only=True)
class LensView:
    """Everything about one sensitivity report but what it leaves out.

    Attributes:
        second: What the second ranking says; empty without one.
        rows: Rows shown of each table.
    """

    name: str
    whole: bool
    coverage: str
    header: str
    ties: str
    parts: str
    components: Table | None
    figures: tuple[FigureView, ...]
    second: str
    second_tables: tuple[Table, ...]
    notes: tuple[str, ...]
    engine: Table | None
    rows: int


@dataclass(frozen=True, kw_only=True)
class CoverageView:
    """What reports with the same coverage leave out."""

    names: tuple[str, ...]
    whole: bool
    coverage: str
    reasons: Table | None
    unscored: Table
    unscored_count: str


def tradeoff_view(comparison: Comparison) -> FigureView:
    """The figure of the first screen."""
    return FigureView(
        id="tradeoff",
        title="What each step saves and costs",
        caption=prose.tradeoff_caption(comparison),
        figure=tradeoff_figure(comparison),
        missing=prose.no_tradeoff(comparison),
        tables=_filled(
            variants.loss_table(comparison),
            variants.divergence_table(comparison),
            variants.size_table(comparison),
        ),
    )


def lens_views(files: RunFiles) -> list[LensView]:
    """A part for each sensitivity report, the spectrum's own first."""
    return [
        _lens_view(files, name, report, number)
        for number, (name, report) in enumerate(files.reports.items())
    ]


def _lens_view(files: RunFiles, name: str, report: SensitivityReport, number: int) -> LensView:
    drawn = number < DRAWN
    rows = ROWS_OTHERS if drawn else ROWS_UNDRAWN
    figures = [_ranking_view(report, number)]
    notes = []
    if drawn:
        figures = [*_heatmap_views(report, number), *figures]
        figures.append(_damage_view(report, files.spectrum_of(name), number))
        notes = prose.grid_notes(report, [grid.component for grid in grids.grids(report)])
    return LensView(
        name=name,
        whole=coverage.is_whole(report),
        coverage=coverage.coverage_sentence(report),
        header=ranking.header_sentence(report),
        ties=ranking.ties_sentence(report),
        parts=parts_sentence(report),
        components=coverage.components_table(report),
        figures=tuple(figures),
        second=rescored_sentences(report),
        second_tables=_filled(moved_table(report), rescored_table(report)),
        notes=tuple(notes),
        engine=engine_table(report),
        rows=ROWS_FIRST if number == 0 else rows,
    )


def coverage_views(files: RunFiles) -> list[CoverageView]:
    """What each report leaves out; reports that leave out the same share a part."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, report in files.reports.items():
        left = report.coverage.kept, report.coverage.skipped
        alike.setdefault((coverage.coverage_sentence(report), left), []).append(name)
    return [_coverage_view(files.reports[names[0]], names) for names in alike.values()]


def _coverage_view(report: SensitivityReport, names: list[str]) -> CoverageView:
    unscored = coverage.coverage_table(report)
    return CoverageView(
        names=tuple(names),
        whole=coverage.is_whole(report),
        coverage=coverage.coverage_sentence(report),
        reasons=coverage.reasons_table(report),
        unscored=unscored,
        unscored_count=plural(len(unscored.rows), "op"),
    )


def _filled(*found: Table | None) -> tuple[Table, ...]:
    """Tables that have rows."""
    return tuple(table for table in found if table is not None and table.rows)


def _heatmap_views(report: SensitivityReport, number: int) -> Iterator[FigureView]:
    limits = grids.score_limits(report)
    for i, grid in enumerate(grids.grids(report)):
        yield FigureView(
            id=f"heatmap-{number}-{i}",
            title=f"Where it hurts: {grid.component}",
            caption=prose.heatmap_caption(report),
            figure=heatmap_figure(grid, limits) if limits else None,
            missing=prose.NOTHING_POSITIVE,
            tables=(grids.grid_table(grid),),
        )


def _ranking_view(report: SensitivityReport, number: int) -> FigureView:
    return FigureView(
        id=f"ranking-{number}",
        title="The most sensitive ops",
        caption=prose.ranking_caption(report),
        figure=ranking_figure(report),
        missing=prose.NOTHING_POSITIVE if report.ops else prose.NOTHING_SCORED,
        tables=_filled(ranking.ranking_table(report)),
    )


def _damage_view(report: SensitivityReport, spectrum: Spectrum | None, number: int) -> FigureView:
    steps = damage.damage_curve(report, spectrum)
    cuts = damage.cut_table(steps, spectrum, report.lens)
    return FigureView(
        id=f"damage-{number}",
        title="Predicted damage along the ranking",
        caption=prose.damage_caption(report, spectrum),
        figure=damage_figure(steps, spectrum, report.lens),
        missing=prose.NOTHING_SCORED,
        tables=_filled(cuts, damage.steps_table(steps, report.lens)),
    )
