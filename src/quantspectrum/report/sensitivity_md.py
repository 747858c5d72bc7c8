"""The ranked Markdown report that stands beside ``sensitivity/<lens>.json``."""

from __future__ import annotations

from quantspectrum.artifacts import SensitivityReport
from quantspectrum.report import coverage, prose, ranking
from quantspectrum.report.engine import engine_table
from quantspectrum.report.markdown import inert, markdown_table, second_ranking
from quantspectrum.report.numbers import duration
from quantspectrum.report.parts import parts_sentence

__all__ = ["sensitivity_markdown"]


def sensitivity_markdown(report: SensitivityReport) -> str:
    """Render one sensitivity report whole: every op, scored in order or without a score.

    What is partial or estimated is said before anything else. The ranking names the neighbouring
    ranks that an op cannot be told from.
    """
    model = report.provenance.model
    title = f"# Sensitivity of {inert(model.id)}, {inert(report.lens)}"
    covered = inert(coverage.coverage_sentence(report))
    ties = ranking.ties_sentence(report)
    components = coverage.components_table(report)
    second = list(second_ranking(report, whole=True))
    engine = engine_table(report)
    parts = [
        *([title, covered] if coverage.is_whole(report) else [f"> **{covered}**", title]),
        inert(ranking.header_sentence(report)),
        inert(
            f"Made {report.provenance.created} on {report.provenance.environment.device_name} in "
            f"{duration(report.provenance.wall_s)}. The lens's own numbers are in the JSON beside "
            "this file."
        ),
        *(["## Components", markdown_table(components)] if components is not None else []),
        "## Ranking",
        *([inert(ties)] if ties else []),
        *([inert(said)] if (said := parts_sentence(report)) else []),
        markdown_table(ranking.ranking_table(report)) if report.ops else prose.NOTHING_SCORED,
        *(["## Ranked again", *second] if second else []),
        "## Without a score",
    ]
    reasons = coverage.reasons_table(report)
    if reasons is None:
        parts.append("Every op that was found has a score.")
    else:
        parts += [markdown_table(reasons), markdown_table(coverage.coverage_table(report))]
    if engine is not None:
        parts += ["## How it was measured", markdown_table(engine)]
    return "\n\n".join(parts) + "\n"
