"""Figures of one sensitivity report, as JSON that Plotly draws: ranking, heatmaps, damage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from quantspectrum.artifacts import OpScore, SensitivityReport, Spectrum
from quantspectrum.report.damage import Step
from quantspectrum.report.grids import DEPTH, Grid
from quantspectrum.report.numbers import score
from quantspectrum.report.ops import short_label
from quantspectrum.report.quantities import quantity_of, with_unit
from quantspectrum.report.ranking import kind_of_score
from quantspectrum.report.theme import (
    ACCENT,
    COMPONENTS,
    GREY,
    INK,
    LONGEST,
    MUTED,
    POINT,
    Figure,
    axis,
    figure,
    label,
    log_axis,
)
from quantspectrum.report.ties import ties_of

__all__ = ["RANKED", "damage_figure", "heatmap_figure", "ranking_figure"]

RANKED = 40
"""Bars in the ranking."""


def ranking_figure(report: SensitivityReport) -> Figure | None:
    """Scores of the most sensitive ops on a logarithmic axis; ``None`` where none is positive.

    A score that is not positive, or below ``DEPTH``, has no place on that axis: its bar is empty
    and its number stands in its place. Bars of estimates are hatched.
    """
    shown = list(report.ops[:RANKED])
    positive = [op.score for op in shown if op.score > 0]
    if not positive:
        return None
    floor = max(min(positive) / 2, max(positive) / DEPTH)
    components = list(dict.fromkeys(op.component for op in report.ops))
    top = max(op.score + (op.stderr or 0.0) for op in shown)
    places = list(range(len(shown)))
    return figure(
        [_bars(report, shown, floor, components)],
        height=90 + 20 * len(shown),
        bargap=0.42,
        xaxis=log_axis(
            # Two lines, as the plot of a phone is narrow.
            "<br>".join(filter(None, ("Score (logarithmic)", quantity_of(report.lens).unit))),
            math.log10(top / floor),
            range=[math.log10(floor), math.log10(top) + 0.05],
        ),
        yaxis=axis(
            "",
            tickvals=places,
            ticktext=[label(short_label(op), LONGEST) for op in shown],
            range=[len(shown) - 0.4, -0.6],
            showgrid=False,
        ),
    )


def _bars(
    report: SensitivityReport, shown: Sequence[OpScore], floor: float, components: list[str]
) -> dict[str, Any]:
    ties = ties_of(report.ops)
    return {
        "type": "bar",
        "orientation": "h",
        "x": [max(op.score, floor) for op in shown],
        "y": list(range(len(shown))),
        "marker": {
            "color": [COMPONENTS[components.index(op.component) % len(COMPONENTS)] for op in shown],
            "pattern": {
                "shape": ["/" if op.kind == "estimated" else "" for op in shown],
                "fillmode": "replace",
                "size": 6,
            },
        },
        "error_x": _errors(shown, floor),
        "text": ["" if op.score > floor else f"{score(op.score)}, off the axis" for op in shown],
        "textposition": "outside",
        "textfont": {"size": 12, "color": MUTED},
        "constraintext": "none",
        "hoverinfo": "text",
        "customdata": [op.name for op in shown],
        "hovertext": [
            _score_hover(op, report, ties.neighbours(place)) for place, op in enumerate(shown)
        ],
    }


def _errors(shown: Sequence[OpScore], floor: float) -> dict[str, Any]:
    """One standard error each way; the lower end stays on the axis."""
    errors = [(op.stderr or 0.0) if op.score > floor else 0.0 for op in shown]
    return {
        "type": "data",
        "symmetric": False,
        "array": errors,
        "arrayminus": [
            min(error, max(op.score - floor, 0.0)) for op, error in zip(shown, errors, strict=True)
        ],
        "color": INK,
        "thickness": 1,
        "width": 3,
    }


def _score_hover(op: OpScore, report: SensitivityReport, tied: str) -> str:
    error = f" ± {score(op.stderr)}" if op.stderr is not None else ""
    unit = quantity_of(report.lens).unit
    said = f"rank {op.rank}, {label(kind_of_score(op, report))}: {score(op.score)}{error} {unit}"
    lines = [f"<b>{label(op.name)}</b>", said.rstrip() + (f", n = {op.n}" if op.n else "")]
    if tied[:1].isdigit():
        lines.append(f"cannot be told from rank {tied}")
    if op.weight_score is not None and op.activation_score is not None:
        parts = f"weights {score(op.weight_score)}, activations {score(op.activation_score)}"
        lines.append(f"alone: {parts}")
    return "<br>".join(lines)


def heatmap_figure(grid: Grid, limits: tuple[float, float]) -> Figure:
    """Logarithm of the score for each block and kind; ops that were not scored are grey.

    Args:
        grid: Scores of one component.
        limits: Smallest and largest positive score of the report, so that components compare.
    """
    places = [str(block) for block in grid.blocks]
    shared = {
        "type": "heatmap",
        "x": places,
        "y": list(grid.kinds),
        "xgap": 1,
        "ygap": 1,
        "hoverinfo": "text",
        "hovertext": _cell_hovers(grid),
        "customdata": [list(row) for row in grid.names],
    }
    return figure(
        [{**shared, **_scored(grid, limits)}, {**shared, **_unscored(grid)}],
        height=116 + 30 * len(grid.kinds),
        margin={"l": 56, "r": 16, "t": 40, "b": 48},
        xaxis=axis(
            f"Block of {label(grid.component, LONGEST)}",
            type="category",
            showgrid=False,
            tickvals=places[:: math.ceil(len(places) / 12)],
        ),
        yaxis=axis(
            "",
            type="category",
            autorange="reversed",
            showgrid=False,
            ticktext=[label(kind, LONGEST) for kind in grid.kinds],
            tickvals=list(grid.kinds),
        ),
    )


def _scored(grid: Grid, limits: tuple[float, float]) -> dict[str, Any]:
    low, high = (math.log10(value) for value in limits)
    return {
        "z": [[_level_of(value, low) for value in row] for row in grid.scores],
        "zmin": low,
        "zmax": high if high > low else low + 1,
        "colorscale": "Viridis",
        "text": [["≤ 0" if v is not None and v <= 0 else "" for v in row] for row in grid.scores],
        "texttemplate": "%{text}",
        "colorbar": _colorbar(limits),
    }


def _unscored(grid: Grid) -> dict[str, Any]:
    return {
        "z": [[1 if missing else None for missing in row] for row in grid.unscored],
        "colorscale": [[0, GREY], [1, GREY]],
        "showscale": False,
    }


def _colorbar(limits: tuple[float, float]) -> dict[str, Any]:
    """Scale above the plot, marked at the powers of ten it spans or else at its ends."""
    low, high = (math.log10(value) for value in limits)
    powers = range(math.ceil(low), math.floor(high) + 1)
    ends = len(powers) < 2
    return {
        "orientation": "h",
        "thickness": 8,
        "lenmode": "pixels",
        "len": 220,
        "x": 1,
        "xanchor": "right",
        "y": 1.02,
        "yanchor": "bottom",
        "outlinewidth": 0,
        "xpad": 0,
        "ypad": 0,
        "tickangle": 0,
        "tickvals": [low, high] if ends else [float(power) for power in powers],
        "ticktext": [score(v) for v in limits] if ends else [f"10<sup>{p}</sup>" for p in powers],
        "tickfont": {"size": 11, "color": MUTED},
    }


def _level_of(value: float | None, low: float) -> float | None:
    if value is None:
        return None
    return math.log10(value) if value > 0 else low


def _cell_hovers(grid: Grid) -> list[list[str]]:
    return [
        [
            f"{label(grid.component)} {block} · {label(kind)}<br>"
            + ("not scored" if grid.unscored[k][b] else f"score {score(grid.scores[k][b])}")
            + (", estimated" if grid.estimated[k][b] else "")
            for b, block in enumerate(grid.blocks)
        ]
        for k, kind in enumerate(grid.kinds)
    ]


def damage_figure(steps: list[Step], spectrum: Spectrum | None, lens: str = "") -> Figure | None:
    """Cumulative predicted damage along the ranking, with each profile's cut; ``None`` if empty."""
    if not steps:
        return None
    curve = {
        "type": "scatter",
        "mode": "lines",
        "x": list(range(len(steps) + 1)),
        "y": [0.0, *(step.damage for step in steps)],
        "line": {"color": POINT, "width": 2},
        "hoverinfo": "text",
        "hovertext": [
            "none quantized",
            *(
                f"{label(step.group)}<br>group {i} of {len(steps)}, sum so far {score(step.damage)}"
                for i, step in enumerate(steps, 1)
            ),
        ],
    }
    return figure(
        [curve, _cuts(spectrum)],
        height=340,
        xaxis=axis("Groups quantized, least sensitive first", rangemode="tozero"),
        yaxis=axis(with_unit("Sum of scores", lens), exponentformat="power"),
    )


def _cuts(spectrum: Spectrum | None) -> dict[str, Any]:
    profiles = [p for p in (spectrum.profiles if spectrum else ()) if p.groups > 0]
    groups = [profile.groups for profile in profiles]
    # A name stands to the left of its point, or below it where the last one is near.
    sides = ["top left"] * len(groups)
    for n in range(1, len(groups)):
        near = groups[n] - groups[n - 1] < 0.12 * max(groups)
        if near and sides[n - 1] == "top left":
            sides[n] = "bottom right"
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": groups,
        "y": [profile.predicted_damage for profile in profiles],
        "text": [f" {label(profile.name, LONGEST)} " for profile in profiles],
        "textposition": sides,
        "textfont": {"size": 13, "color": INK},
        "cliponaxis": False,
        "marker": {"size": 10, "color": ACCENT},
        "hoverinfo": "text",
        "hovertext": [
            f"<b>{label(p.name)}</b><br>{p.groups} groups, {score(p.predicted_damage)}"
            for p in profiles
        ],
    }
