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
    tell_loose_limits,
)
from quantspectrum.errors import UserError
from quantspectrum.progress import Reporter

if TYPE_CHECKING:
    from quantspectrum.report import Comparison
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

    options = tuple(args.backend_option or ())
    check_backend(args.backend, evaluated=True, options=options)
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
        backend_option=options,
        max_quality=args.max_quality,
        confident=args.confident,
        trials=args.trials,
        no_guard=args.no_guard,
    )
    return _execute(args, request)


def _execute(args: Args, request: RunRequest) -> int:
    from quantspectrum.report import blind_sentence, run_text
    from quantspectrum.run import Run, Stopped
    from quantspectrum.run.tracking import check_tracker

    tracker = getattr(args, "track", None)
    check_tracker(tracker)
    reporter = Reporter(args.quiet)
    work = Run(Path(args.out), request, progress=reporter.progress, say=reporter.say)
    try:
        comparison = work.execute()
    except Stopped as stopped:
        print(f"quantspectrum: {stopped}; run the same again to go on", file=sys.stderr)
        return INCOMPLETE
    _track(args, Path(args.out), comparison)
    reports = work.reports()
    incomplete = [report for report in reports if not report.complete]
    for report in incomplete:
        print(coverage_line(report), file=sys.stderr)
    if args.command == "run":
        tell_loose_limits(args, reports[0])
    for blind in dict.fromkeys(filter(None, map(blind_sentence, reports))):
        print(f"quantspectrum: {blind}", file=sys.stderr)
    show(
        args,
        comparison,
        f"{run_text(Path(args.out), comparison)}\n\n{Path(args.out) / 'report.html'}",
    )
    return INCOMPLETE if incomplete else DONE


def _track(args: Args, run: Path, comparison: Comparison) -> None:
    """Log a run where that is asked for."""
    if getattr(args, "track", None) is None:
        return
    from quantspectrum.artifacts import RunRecord, read_artifact
    from quantspectrum.run.tracking import track

    request = read_artifact(run / "run.json", RunRecord).request
    print(f"MLflow run {track(run, comparison, request)}", file=sys.stderr)


def compare(args: Args) -> int:
    """``quantspectrum compare``."""
    from quantspectrum.report import run_text, write_report
    from quantspectrum.run.tracking import check_tracker

    check_tracker(args.track)
    if args.other is not None:
        return _compare_two(args)
    if args.out is not None:
        raise UserError("--out is for two runs; the report of one goes into its own directory")
    comparison = write_report(Path(args.run))
    _track(args, Path(args.run), comparison)
    show(
        args,
        comparison,
        f"{run_text(Path(args.run), comparison)}\n\n{Path(args.run) / 'report.html'}",
    )
    return DONE


def _compare_two(args: Args) -> int:
    from quantspectrum.report.two_runs import write_two

    if args.track is not None:
        raise UserError("--track logs one run: compare each by itself with it")
    if args.json:
        raise UserError("--json prints the record of one run; two runs are compared in files")
    out = Path(args.out) if args.out is not None else Path()
    found = write_two(Path(args.run), Path(args.other), out)
    print("\n".join([*found.sentences, "", str(out / "compare.html")]))
    return DONE
