"""The ranked Markdown report that stands beside ``sensitivity/<lens>.json``."""

from __future__ import annotations

from quantspectrum.artifacts import SensitivityReport
from quantspectrum.report import coverage, prose, ranking
from quantspectrum.report.markdown import inert, markdown_table
from quantspectrum.report.numbers import duration

__all__ = ["sensitivity_markdown"]


def sensitivity_markdown(report: SensitivityReport) -> str:
    """Render one sensitivity report: coverage, then every op in order, then those without a score.

    An incomplete scan says so before anything else. The last columns of the ranking name the
    neighbouring ranks that the standard errors cannot tell apart.
    """
    model = report.provenance.model
    title = f"# Sensitivity of {inert(model.id)}, {inert(report.lens)}"
    covered = inert(coverage.coverage_sentence(report))
    parts = [
        *([title, covered] if report.complete else [f"> **{covered}**", title]),
        inert(ranking.header_sentence(report)),
        inert(
            f"Made {report.provenance.created} on {report.provenance.environment.device_name} in "
            f"{duration(report.provenance.wall_s)}. The lens's own numbers are in the JSON beside "
            "this file."
        ),
        "## Ranking",
        markdown_table(ranking.ranking_table(report)) if report.ops else prose.NOTHING_SCORED,
        "## Without a score",
    ]
    reasons = coverage.reasons_table(report)
    if reasons is None:
        parts.append("Every op that was found has a score.")
    else:
        parts += [markdown_table(reasons), markdown_table(coverage.coverage_table(report))]
    return "\n\n".join(parts) + "\n"
