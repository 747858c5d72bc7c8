"""Two runs side by side: paired on the same samples where they share them, or said not to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantspectrum.artifacts import write_text
from quantspectrum.errors import UserError
from quantspectrum.report import prose
from quantspectrum.report.comparison import Comparison, compare
from quantspectrum.report.drawn import (
    DrawnPoint,
    Quality,
    points_of,
    quality_of,
    shows_divergence,
)
from quantspectrum.report.html import page_parts, script_json, template
from quantspectrum.report.inputs import RunFiles, read_run
from quantspectrum.report.markdown import document_markdown
from quantspectrum.report.marks import name_beside
from quantspectrum.report.numbers import percent
from quantspectrum.report.recommendation import TOLERANCE, recommend
from quantspectrum.report.tables import Document, Table
from quantspectrum.report.theme import (
    COMPONENTS,
    DARK,
    NAMED,
    Figure,
    axis,
    error_bars,
    figure,
    label,
)
from quantspectrum.report.two_tables import (
    own_table,
    ranking_table,
    settings_table,
    unpaired,
    variants_table,
)

__all__ = ["TwoRuns", "compare_two", "write_two"]


@dataclass(frozen=True, kw_only=True)
class TwoRuns:
    """What two runs say beside each other.

    Attributes:
        names: How the runs are called.
        sentences: What a reader must know first: models, samples, recommendations.
        tables: Heading and table.
        figure: Loss change or divergence by size, both runs.
        caption: How to read the figure.
    """

    names: tuple[str, str]
    sentences: tuple[str, ...]
    tables: tuple[tuple[str, Table], ...]
    figure: Figure | None
    caption: str


def compare_two(first: Path, second: Path) -> TwoRuns:
    """Compare two run directories.

    Raises:
        UserError: One holds no run, or a record of it cannot be read.
    """
    names = _names(first, second)
    files = read_run(first), read_run(second)
    both = compare(files[0]), compare(files[1])
    variants = variants_table(names, files)
    tables = [("Variants", variants), ("Each against its own baseline", own_table(names, both))]
    ranks = ranking_table(files)
    if ranks.rows:
        tables.append(("Rankings", ranks))
    settings = settings_table(names, files)
    if settings.rows:
        tables.append(("Differences of settings and environment", settings))
    return TwoRuns(
        names=names,
        sentences=_sentences(names, files, both),
        tables=tuple(tables),
        figure=_figure(names, both),
        caption=_caption(names, both),
    )


def write_two(first: Path, second: Path, out: Path) -> TwoRuns:
    """Write ``compare.html`` and ``compare.md`` into the directory ``out``."""
    found = compare_two(first, second)
    title = f"{found.names[0]} and {found.names[1]}"
    document = Document(title=f"Two runs: {title}", sentences=found.sentences, tables=found.tables)
    figures = {"tradeoff": found.figure} if found.figure else {}
    page = template("compare.html.j2").render(
        **page_parts(),
        title=title,
        found=found,
        op_ids={},
        figures=script_json({"dark": DARK, "places": {}, "ops": {"ops": []}, "figures": figures}),
    )
    write_text(out / "compare.md", document_markdown(document))
    write_text(out / "compare.html", page)
    return found


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Names of the directories, or their whole paths where those are the same."""
    if first.resolve() == second.resolve():
        raise UserError(f"{first} and {second} are the same run; give two")
    a, b = first.resolve().name, second.resolve().name
    return (a, b) if a != b else (str(first), str(second))


def _sentences(
    names: tuple[str, str], files: tuple[RunFiles, RunFiles], both: tuple[Comparison, Comparison]
) -> tuple[str, ...]:
    models = [one.model for one in both]
    said = [
        f"{name}: {prose.title(one)}. {recommend(one)}"
        for name, one in zip(names, both, strict=True)
    ]
    if models[0] and models[1] and models[0].weights_fingerprint != models[1].weights_fingerprint:
        said.append("The two runs are of different weights: what differs may be the models alone.")
    baselines = files[0].baseline, files[1].baseline
    if baselines[0] is not None and baselines[1] is not None:
        why = unpaired(baselines[0], baselines[1])
        said.append(
            "Both were evaluated on the same samples, so the variants are compared sample by sample."
            if why is None
            else f"NOT PAIRED: {why}. Losses of the two runs are of different samples; their "
            "differences have independent errors, and say little of the variants."
        )
    else:
        said.append(
            "Not both baselines were evaluated, so nothing says that the samples are the same."
        )
    return tuple(said)


def _points(both: tuple[Comparison, Comparison], *, divergence: bool) -> list[list[DrawnPoint]]:
    """The variants of each run whose size is known beside the baseline's."""
    return [
        [p for p in points_of(one, divergence=divergence) if p.row.ratio is not None]
        for one in both
    ]


def _figure(names: tuple[str, str], both: tuple[Comparison, Comparison]) -> Figure | None:
    """What the page of one run draws, by the same rule, against the share of the baseline's size."""
    divergence = shows_divergence(*both)
    points = _points(both, divergence=divergence)
    if not any(points):
        return None
    quality = quality_of([point for own in points for point in own], divergence=divergence)
    lines, texts = quality.levels
    return figure(
        [
            _marks(place, name, own, quality)
            for place, (name, own) in enumerate(zip(names, points, strict=True))
            if own
        ],
        **NAMED,
        shapes=list(lines),
        annotations=[
            *texts,
            *(
                name_beside(
                    _at(point),
                    quality.text_at(point.drawn.value),
                    point.row.profile,
                    below=place == 1,
                )
                for place, own in enumerate(points)
                for point in own
            ),
        ],
        xaxis=axis("Checkpoint, in % of the baseline's"),
        yaxis=quality.axis,
    )


def _caption(names: tuple[str, str], both: tuple[Comparison, Comparison]) -> str:
    """How to read the figure, and why it shows the divergence where it does."""
    marks = f"circles are {names[0]}, diamonds {names[1]}. The best place is bottom left."
    if shows_divergence(*both):
        return (
            "KL divergence from the predictions of the own run's baseline, with its 95 % interval, "
            "on a logarithmic scale that has 0 at its foot, as all profiles of both runs are within "
            f"{percent(TOLERANCE)} of their baseline's loss; {marks}"
        )
    return f"Loss increase over the baseline of its own run, with its 95 % interval; {marks}"


def _at(point: DrawnPoint) -> float:
    assert point.row.ratio is not None
    return 100 * point.row.ratio


def _marks(place: int, name: str, points: list[DrawnPoint], quality: Quality) -> dict[str, Any]:
    """The variants of one run."""
    heights = [quality.at(point.drawn.value) for point in points]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(name, 40),
        "x": [_at(point) for point in points],
        "y": heights,
        "error_y": error_bars(
            heights,
            [quality.at(point.low) for point in points],
            [quality.at(point.high) for point in points],
        ),
        "marker": {
            "size": 12,
            "color": COMPONENTS[place],
            "symbol": ("circle", "diamond")[place],
        },
        "hoverinfo": "text",
        "hovertext": [f"{label(name)}: {label(point.row.profile)}" for point in points],
    }
