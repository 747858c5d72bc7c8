"""Views beyond a single sensitivity report: agreement of lenses, and checks of the ranking."""

from __future__ import annotations

from quantspectrum.report import checks, lenses
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
        tables = (lenses.matrix_table(matrix), lenses.disagreement_table(files.agreement))
    return FigureView(
        id="agreement-figure",
        title="How far the lenses agree",
        caption=matrix.caption() if matrix is not None else "",
        figure=lenses.matrix_figure(matrix) if matrix is not None else None,
        missing=NO_AGREEMENT,
        tables=tuple(table for table in tables if table is not None),
    )


def check_views(files: RunFiles) -> list[FigureView]:
    """Guard, additivity, quality search and ground truth, as far as they are there."""
    guard, search, truth = files.measured.guard, files.measured.search, files.measured.truth
    views = []
    if guard is not None:
        views.append(
            _words(
                "guard",
                "Better than chance?",
                checks.guard_sentence(guard),
                checks.guard_table(guard),
            )
        )
    if guard is not None and guard.additivity is not None:
        views.append(
            FigureView(
                id="additivity",
                title="Predicted and measured damage",
                caption=checks.additivity_sentence(guard.additivity),
                figure=checks.additivity_figure(guard.additivity),
                missing="No point has a positive damage, so there is nothing to draw.",
                tables=(checks.additivity_table(guard.additivity),),
            )
        )
    if search is not None:
        views.append(
            _words(
                "search",
                "Search for the budget",
                checks.search_sentence(search),
                checks.search_table(search),
            )
        )
    if truth is not None:
        views.append(
            FigureView(
                id="truth",
                title="Which lens foresaw it",
                caption=checks.truth_sentence(truth),
                figure=checks.truth_figure(truth),
                missing="No order has a positive damage, so there is nothing to draw.",
                tables=checks.truth_tables(truth),
            )
        )
    return views


def _words(place: str, title: str, says: str, table: Table) -> FigureView:
    """A view without a figure: its sentence stands in its place."""
    return FigureView(id=place, title=title, caption="", figure=None, missing=says, tables=(table,))
