"""How far the lenses of a run agree, as a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

from quantspectrum.agreement import labels_of
from quantspectrum.artifacts import Agreement, RankInterval
from quantspectrum.report.inputs import RunFiles
from quantspectrum.report.marks import SQUARE_TAG
from quantspectrum.report.numbers import ABSENT, correlation, count, with_interval
from quantspectrum.report.tables import Table, columns
from quantspectrum.report.theme import LONGEST, MUTED, Figure, axis, figure, label
from quantspectrum.statistics import spearman

__all__ = ["Matrix", "matrix_figure", "matrix_of", "matrix_table"]


MOST_NARROW = 4
"""Lenses of which a phone has room for the numbers; of more it shows the colours alone."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Rank correlations of every two lenses over the ops both scored.

    Attributes:
        labels: The lenses.
        pairs: For two labels, the correlation and the ops behind it.
        resampled: The correlations have intervals.
        stale: The record of the agreement is of other reports than the run's.
    """

    labels: tuple[str, ...]
    pairs: dict[tuple[str, str], tuple[RankInterval, int]]
    resampled: bool
    stale: bool = False

    def caption(self) -> str:
        """How to read it, and whether it is of this run's reports."""
        said = (
            "Spearman's rank correlation of every two lenses over the ops that both scored: 1 for "
            "the same order, 0 for unrelated ones."
        )
        if self.resampled:
            said += " Intervals are 95 %, from resampling the ops ranked."
        else:
            said += " Without intervals: quantspectrum agree, written to agreement.json, has them."
        if self.stale:
            said += " agreement.json is of other files than the reports here; make it again."
        return said


def matrix_of(files: RunFiles) -> Matrix | None:
    """From ``agreement.json`` where it is there, otherwise from the reports; ``None`` for one lens."""
    if files.agreement is not None:
        return _recorded(files.agreement, set(files.hashes.values()))
    reports = list(files.reports.values())
    if len(reports) < 2:
        return None
    names = labels_of(reports)
    scores = [{op.name: op.score for op in report.ops} for report in reports]
    pairs = {}
    for (a, of_a), (b, of_b) in combinations(zip(names, scores, strict=True), 2):
        shared = [name for name in of_a if name in of_b]
        found = spearman([of_a[name] for name in shared], [of_b[name] for name in shared])
        pairs[a, b] = RankInterval(value=found), len(shared)
    return Matrix(labels=tuple(names), pairs=pairs, resampled=False)


def _recorded(agreement: Agreement, known: set[str]) -> Matrix:
    return Matrix(
        labels=tuple(lens.label for lens in agreement.lenses),
        pairs={
            (pair.a, pair.b): (pair.spearman, pair.n)
            for pair in agreement.pairs
            if pair.unit == "op" and pair.component == "all"
        },
        resampled=True,
        stale=any(lens.report_sha256 not in known for lens in agreement.lenses),
    )


def matrix_table(matrix: Matrix) -> Table:
    """A row for each pair."""
    return Table(
        caption=matrix.caption(),
        columns=columns("Lens", "Other lens", "Ops", "Spearman", text=("Lens", "Other lens")),
        rows=tuple(
            (
                a,
                b,
                count(n),
                with_interval(found, correlation),
            )
            for (a, b), (found, n) in matrix.pairs.items()
        ),
    )


def matrix_figure(matrix: Matrix) -> Figure:
    """A square for each pair, its number written in it."""
    values = [[_value(matrix, a, b) for b in matrix.labels] for a in matrix.labels]
    numbered = [f"{n} · {label(name, LONGEST)}" for n, name in enumerate(matrix.labels, 1)]
    places = list(range(len(numbered)))
    return figure(
        [
            {
                "type": "heatmap",
                "x": places,
                "y": places,
                "z": values,
                "zmin": -1,
                "zmax": 1,
                # Cividis is read alike with and without colour vision.
                "colorscale": "Cividis",
                "hoverinfo": "skip",
                "xgap": 2,
                "ygap": 2,
                "colorbar": {"thickness": 8, "tickfont": {"size": 11, "color": MUTED}},
            }
        ],
        height=90 + 42 * len(numbered),
        annotations=[
            _square(x, y, value, narrow=len(numbered) > MOST_NARROW)
            for y, row in enumerate(values)
            for x, value in enumerate(row)
        ],
        # By their numbers, as names side by side would run into each other.
        xaxis=axis("", tickvals=places, ticktext=[str(n + 1) for n in places], showgrid=False),
        yaxis=axis("", tickvals=places, ticktext=numbered, showgrid=False, autorange="reversed"),
    )


def _square(x: int, y: int, value: float | None, *, narrow: bool) -> dict[str, Any]:
    """A number in its square: the lower half of Cividis is dark, by day and by night."""
    on = "#ffffff" if value is not None and value < 0 else "#000000"
    return {
        "name": SQUARE_TAG if narrow else "",
        "x": x,
        "y": y,
        "text": ABSENT if value is None else correlation(value),
        "showarrow": False,
        "font": {"size": 13, "color": MUTED if value is None else on},
    }


def _value(matrix: Matrix, a: str, b: str) -> float | None:
    if a == b:
        return 1.0
    found = matrix.pairs.get((a, b)) or matrix.pairs.get((b, a))
    return found[0].value if found else None
