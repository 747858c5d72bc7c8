"""What a run found, for people: report.md for a repository and a self-contained report.html."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.artifacts import write_text
from quantspectrum.report.comparison import Comparison, compare, compare_run
from quantspectrum.report.coverage import blind_sentence
from quantspectrum.report.html import render_html
from quantspectrum.report.inputs import read_run
from quantspectrum.report.markdown import render_markdown
from quantspectrum.report.recommendation import recommend
from quantspectrum.report.sensitivity_md import sensitivity_markdown
from quantspectrum.report.terminal import ranking_text, run_text, variants_text

__all__ = [
    "Comparison",
    "blind_sentence",
    "compare_run",
    "ranking_text",
    "recommend",
    "run_text",
    "sensitivity_markdown",
    "variants_text",
    "write_report",
]


def write_report(run_dir: Path) -> Comparison:
    """Write ``report.md`` and ``report.html`` into a run directory, each atomically.

    Only ``run.json`` must be there; the reports say what else is missing.

    Returns:
        What the reports compare: the baseline and every variant.

    Raises:
        UserError: ``run.json`` is missing, a record cannot be read, two evaluations were made on
            different samples, or a report cannot be written.
    """
    files = read_run(run_dir)
    comparison = compare(files)
    markdown, page = render_markdown(files, comparison), render_html(files, comparison)
    write_text(run_dir / "report.md", markdown)
    write_text(run_dir / "report.html", page)
    return comparison
