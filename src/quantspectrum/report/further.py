"""Views beyond a single sensitivity report: agreement of lenses, and checks of the ranking."""

from __future__ import annotations

from quantspectrum.artifacts import Additivity
from quantspectrum.report import agreements, lenses, quality, truth
from quantspectrum.report.check_figures import additivity_figure, guard_figure, truth_figure
from quantspectrum.report.inputs import RunFiles
from quantspectrum.report.tables import Table
from quantspectrum.report.views import FigureView

__all__ = ["NO_AGREEMENT", "NO_CHECKS", "agreement_view", "check_views"]

NO_AGREEMENT = "This run has one sensitivity report or none, so there are no lenses to compare."
NO_CHECKS = (
    "Nothing was measured of the profiles beside others of their size (guard.json is missing), so "
    "it is not shown that the ranking is better than chance."
)


def agreement_view(files: RunFiles) -> FigureView:
    """The matrix of lenses."""
    matrix = lenses.matrix_of(files)
    tables: tuple[Table | None, ...] = ()
    if matrix is not None:
        tables = (lenses.matrix_table(matrix), agreements.disagreement_table(files.agreement))
    return FigureView(
        id="agreement-figure",
        title="How far the lenses agree",
        caption=matrix.caption() if matrix is not None else "",
        figure=lenses.matrix_figure(matrix) if matrix is not None else None,
        missing=NO_AGREEMENT,
        tables=tuple(table for table in tables if table is not None),
    )


def check_views(files: RunFiles) -> list[FigureView]:
    """Guard, additivity, quality searches and ground truth, as far as they are there."""
    views = []
    if (guard := files.guard) is not None:
        tables = quality.guard_table(guard), quality.rivals_table(guard)
        views.append(
            FigureView(
                id="guard",
                title="Better than chance?",
                caption=quality.guard_sentence(guard),
                figure=guard_figure(guard),
                missing="",
                tables=tuple(table for table in tables if table.rows),
            )
        )
        if guard.additivity is not None:
            views.append(_additivity_view(guard.additivity))
    for name, search in files.searches.items():
        views.append(
            FigureView(
                id=f"search-{name}",
                title="Search for the budget",
                caption=quality.search_sentence(search),
                figure=None,
                missing="",
                tables=(quality.trials_table(search),),
            )
        )
    if files.truth is not None:
        views.append(
            FigureView(
                id="truth",
                title="Which lens foresaw the damage",
                caption=truth.truth_sentence(files.truth),
                figure=truth_figure(files.truth),
                missing="No order has a positive damage, so there is nothing to draw.",
                tables=truth.truth_tables(files.truth),
            )
        )
    return views


def _additivity_view(additivity: Additivity) -> FigureView:
    return FigureView(
        id="additivity",
        title="Predicted and measured damage",
        caption=quality.additivity_sentence(additivity),
        figure=additivity_figure(additivity),
        missing="No point has a positive damage, so there is nothing to draw.",
        tables=(quality.additivity_table(additivity),),
    )
