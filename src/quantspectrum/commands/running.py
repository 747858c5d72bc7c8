"""Commands over whole runs: ``demo``, ``run`` and ``compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from quantspectrum.commands.reading import (
    DONE,
    INCOMPLETE,
    Args,
    bases_of,
    coverage_line,
    data_request,
    ops_request,
    scoring_request,
    show,
    spec_fields,
)
from quantspectrum.progress import Reporter

if TYPE_CHECKING:
    from quantspectrum.run import RunRequest

__all__ = ["compare", "demo", "run"]


def demo(args: Args) -> int:
    """``quantspectrum demo``."""
    from quantspectrum.run import demo_request

    return _execute(args, demo_request(args.device))


def run(args: Args) -> int:
    """``quantspectrum run``."""
    from quantspectrum.backends.frameworks import check_backend
    from quantspectrum.run import RunRequest

    check_backend(args.backend, evaluated=True)
    request = RunRequest(
        **spec_fields(args),
        data=data_request(args),
        ops=ops_request(args),
        scoring=scoring_request(args),
        base=tuple(bases_of(args)),
        cut=tuple(args.cut or ()),
        budget=tuple(args.budget or ()),
        keep=tuple(args.keep or ()),
        latency=args.latency,
        backend=args.backend,
    )
    return _execute(args, request)


def _execute(args: Args, request: RunRequest) -> int:
    from quantspectrum.report import variants_text
    from quantspectrum.run import Run, Stopped

    reporter = Reporter(args.quiet)
    work = Run(Path(args.out), request, progress=reporter.progress, say=reporter.say)
    try:
        comparison = work.execute()
    except Stopped as stopped:
        print(f"quantspectrum: {stopped}; run the same again to go on", file=sys.stderr)
        return INCOMPLETE
    incomplete = work.incomplete()
    for report in incomplete:
        print(coverage_line(report), file=sys.stderr)
    show(args, comparison, f"{variants_text(comparison)}\n\n{Path(args.out) / 'report.html'}")
    return INCOMPLETE if incomplete else DONE


def compare(args: Args) -> int:
    """``quantspectrum compare``."""
    from quantspectrum.report import variants_text, write_report

    comparison = write_report(Path(args.run))
    show(args, comparison, f"{variants_text(comparison)}\n\n{Path(args.run) / 'report.html'}")
    return DONE
