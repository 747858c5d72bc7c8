"""Two runs side by side: paired on the same samples where they share them, or said not to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantspectrum.artifacts import write_text
from quantspectrum.errors import UserError
from quantspectrum.report import prose
from quantspectrum.report.comparison import Comparison, ComparisonRow, compare
from quantspectrum.report.html import page_parts, script_json, template
from quantspectrum.report.inputs import RunFiles, read_run
from quantspectrum.report.markdown import document_markdown
from quantspectrum.report.marks import name_beside
from quantspectrum.report.recommendation import recommend
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
        figure: Loss change by size, both runs.
    """

    names: tuple[str, str]
    sentences: tuple[str, ...]
    tables: tuple[tuple[str, Table], ...]
    figure: Figure | None


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


def _figure(names: tuple[str, str], both: tuple[Comparison, Comparison]) -> Figure | None:
    """Loss increase over the own baseline (nats) against the share of the baseline's size."""
    data = [
        _points(place, name, rows)
        for place, (name, comparison) in enumerate(zip(names, both, strict=True))
        if (rows := [r for r in comparison.rows if r.paired is not None and r.ratio is not None])
    ]
    if not data:
        return None
    return figure(
        data,
        **NAMED,
        annotations=[
            name_beside(100 * row.ratio, row.paired.value, row.profile, below=place == 1)
            for place, comparison in enumerate(both)
            for row in comparison.rows
            if row.paired is not None and row.ratio is not None
        ],
        xaxis=axis("Checkpoint, in % of the baseline's"),
        yaxis=axis("Loss increase (nats per token)"),
    )


def _points(place: int, name: str, rows: list[ComparisonRow]) -> dict[str, Any]:
    """The variants of one run."""
    paired = [row.paired for row in rows if row.paired is not None]
    values = [one.value for one in paired]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(name, 40),
        "x": [100 * (row.ratio or 0.0) for row in rows],
        "y": values,
        "error_y": error_bars(
            values,
            [one.value if one.low is None else one.low for one in paired],
            [one.value if one.high is None else one.high for one in paired],
        ),
        "marker": {
            "size": 12,
            "color": COMPONENTS[place],
            "symbol": ("circle", "diamond")[place],
        },
        "hoverinfo": "text",
        "hovertext": [f"{label(name)}: {label(row.profile)}" for row in rows],
    }
