"""What the page shows, in its order: figures with their tables, and one part for each lens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantspectrum.artifacts import SensitivityReport, Spectrum
from quantspectrum.report import prose, ranking, tables
from quantspectrum.report.comparison import Comparison
from quantspectrum.report.figures import damage_figure, heatmap_figure, ranking_figure
from quantspectrum.report.inputs import RunFiles
from quantspectrum.report.numbers import plural
from quantspectrum.report.tables import Table
from quantspectrum.report.theme import Figure
from quantspectrum.report.tradeoff import tradeoff_figure

__all__ = ["FigureView", "LensView", "lens_views", "tradeoff_view"]


@dataclass(frozen=True, kw_only=True)
class FigureView:
    """A figure in the page: a heading, words for those who cannot see it, and its tables."""

    id: str
    title: str
    caption: str
    figure: Figure | None
    missing: str
    tables: tuple[Table, ...]


@dataclass(frozen=True, kw_only=True)
class LensView:
    """Everything about one sensitivity report."""

    name: str
    complete: bool
    coverage: str
    header: str
    figures: tuple[FigureView, ...]
    notes: tuple[str, ...]
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
            tables.loss_table(comparison),
            tables.divergence_table(comparison),
            tables.size_table(comparison),
        ),
    )


def lens_views(files: RunFiles) -> list[LensView]:
    """A part for each sensitivity report, the spectrum's own first."""
    views = []
    for number, (name, report) in enumerate(files.reports.items()):
        # A spectrum belongs to the report that comes first; other lenses rank without one.
        spectrum = files.spectrum if number == 0 else None
        unscored = ranking.coverage_table(report)
        drawn = [grid.component for grid in ranking.grids(report)]
        views.append(
            LensView(
                name=name,
                complete=report.complete,
                coverage=ranking.coverage_sentence(report),
                header=ranking.header_sentence(report),
                figures=(
                    *_heatmap_views(report, number),
                    _ranking_view(report, number),
                    _damage_view(report, spectrum, number),
                ),
                notes=tuple(prose.grid_notes(report, drawn)),
                reasons=ranking.reasons_table(report),
                unscored=unscored,
                unscored_count=plural(len(unscored.rows), "op"),
            )
        )
    return views


def _filled(*found: Table | None) -> tuple[Table, ...]:
    """Tables that have rows."""
    return tuple(table for table in found if table is not None and table.rows)


def _heatmap_views(report: SensitivityReport, number: int) -> Iterator[FigureView]:
    limits = ranking.score_limits(report)
    for i, grid in enumerate(ranking.grids(report)):
        yield FigureView(
            id=f"heatmap-{number}-{i}",
            title=f"Where it hurts: {grid.component}",
            caption=prose.HEATMAP,
            figure=heatmap_figure(grid, limits) if limits else None,
            missing=prose.NOTHING_POSITIVE,
            tables=(ranking.grid_table(grid),),
        )


def _ranking_view(report: SensitivityReport, number: int) -> FigureView:
    return FigureView(
        id=f"ranking-{number}",
        title="The most sensitive ops",
        caption=prose.ranking_caption(report),
        figure=ranking_figure(report.ops),
        missing=prose.NOTHING_POSITIVE if report.ops else prose.NOTHING_SCORED,
        tables=_filled(ranking.ranking_table(report)),
    )


def _damage_view(report: SensitivityReport, spectrum: Spectrum | None, number: int) -> FigureView:
    steps = ranking.damage_curve(report, spectrum)
    cuts = ranking.cut_table(steps, spectrum)
    return FigureView(
        id=f"damage-{number}",
        title="Predicted damage along the ranking",
        caption=prose.damage_caption(spectrum),
        figure=damage_figure(steps, spectrum),
        missing=prose.NOTHING_SCORED,
        tables=_filled(cuts, ranking.steps_table(steps)),
    )
