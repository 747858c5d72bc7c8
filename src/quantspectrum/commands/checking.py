"""The command ``check``."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.artifacts import write_artifact
from quantspectrum.commands.reading import DONE, Args, json_path, show
from quantspectrum.serving import Capability, CheckReport, check_directory

__all__ = ["check"]

FAILED = 1
SHOWN = 4
"""Names of layers printed with a finding; the record has all."""


def check(args: Args) -> int:
    """``quantspectrum check``."""
    out = json_path(args.out) if args.out else None
    report = check_directory(
        Path(args.directory),
        engine=args.engine,
        capability=Capability.parse(args.capability) if args.capability else None,
        dtype=args.dtype,
    )
    if out is not None:
        write_artifact(out, report)
    show(args, report, table(report))
    return DONE if report.serves else FAILED


def table(report: CheckReport) -> str:
    """The findings for people, errors first."""
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.level:<8} {finding.what}")
        if finding.where:
            more = len(finding.where) - SHOWN
            names = ", ".join(finding.where[:SHOWN]) + (f" and {more} more" if more > 0 else "")
            lines.append(f"         at: {names}")
        if finding.advice:
            lines.append(f"         do: {finding.advice}")
    device = f", {report.capability}" if report.capability else ""
    known = "compared with it at work" if report.evidence == "run" else "read in its source"
    verdict = "will load" if report.serves else "will NOT serve it as written"
    engine = f"{report.engine} ({report.engine_version}{device}; rules {known})"
    return "\n".join([*lines, f"{report.checkpoint}: {engine}: {verdict}"])
