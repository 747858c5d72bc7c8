"""Commands that look at ops: ``ops`` and ``sensitivity``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Literal

from quantspectrum.artifacts import SensitivityReport
from quantspectrum.commands.reading import (
    DONE,
    INCOMPLETE,
    Args,
    bases_of,
    coverage_line,
    data_request,
    json_path,
    load,
    ops_request,
    scoring_request,
    show,
    tell_loose_limits,
)
from quantspectrum.errors import UserError
from quantspectrum.progress import Reporter

__all__ = ["ops", "sensitivity"]


def ops(args: Args) -> int:
    """``quantspectrum ops``."""
    import json

    from quantspectrum.models.ops import list_ops

    loaded = load(args)
    chosen = ops_request(args)
    table = list_ops(
        loaded.model,
        loaded.layout,
        include=chosen.include,
        exclude=chosen.exclude,
        types=chosen.type,
    )
    if args.json:
        listed = {
            "candidates": [op.model_dump(mode="json") for op in table.candidates],
            "kept": [note.model_dump(mode="json") for note in table.kept],
            "skipped": [note.model_dump(mode="json") for note in table.skipped],
        }
        print(json.dumps(listed, indent=1))
        return DONE
    for op in table.candidates:
        shape = "x".join(map(str, op.shape))
        print(f"{op.name}\t{op.type}\t{shape}\t{op.component}\t{op.group}")
    for word, notes in (("kept", table.kept), ("skipped", table.skipped)):
        for note in notes:
            print(f"{note.name}\t{note.type}\t{word}: {note.reason}")
    counts = f"{len(table.candidates)} candidates, {len(table.kept)} kept"
    print(f"{table.found} ops: {counts}, {len(table.skipped)} skipped", file=sys.stderr)
    return DONE


def sensitivity(args: Args) -> int:
    """``quantspectrum sensitivity``."""
    import json

    from quantspectrum import stages

    bases = bases_of(args)
    if len(bases) > 1:
        raise UserError("a report is of one base; give --base once, or use `quantspectrum run`")
    out = json_path(args.out)
    if args.lens:
        return _lenses(args, bases[0], out)
    if args.lens_option:
        raise UserError("--lens-option is a setting of a lens; give --lens too")
    scoring = scoring_request(args)
    reporter = Reporter(args.quiet)
    paths = scoring.report_paths(out)
    reports = stages.sensitivity(
        load(args),
        paths,
        data=data_request(args),
        ops=ops_request(args),
        scoring=scoring,
        base=bases[0],
        progress=lambda steps: reporter.progress(f"sensitivity ({bases[0]})", steps),
        cuts=args.cut or (),
    )
    for report in reports:
        if not report.complete:
            print(coverage_line(report), file=sys.stderr)
    tell_loose_limits(args, reports[0])
    if args.json and len(reports) > 1:
        print(json.dumps([report.model_dump(mode="json") for report in reports], indent=1))
        return DONE if all(report.complete for report in reports) else INCOMPLETE
    for report, path in zip(reports, paths.values(), strict=True):
        _show_ranking(args, report, path)
    return DONE if all(report.complete for report in reports) else INCOMPLETE


def _show_ranking(args: Args, report: SensitivityReport, path: Path) -> None:
    from quantspectrum.report import blind_sentence, ranking_text

    blind = blind_sentence(report)
    if blind is not None:
        print(f"quantspectrum: {blind}", file=sys.stderr)
    show(args, report, f"{ranking_text(report)}\n\n{path}")


def _metric_and_lens(lenses: list[str], metrics: list[str]) -> str:
    from quantspectrum.lenses import LENSES

    meant = [name for lens in lenses for m in metrics if (name := f"{lens}:{m}") in LENSES]
    if meant:
        return f"a lens is named whole: give --lens {' --lens '.join(meant)}, without --metric"
    return "--metric is of the native lens; give --lens or --metric, not both"


def _check_lens_options(args: Args) -> None:
    """Refuse what another lens would not heed.

    Raises:
        UserError: A native lens, a metric, or several formats.
    """
    for lens in args.lens:
        if lens.partition(":")[0] == "native":
            raise UserError(
                f"--lens {lens}: the native lens is what scores without --lens; give --metric"
            )
    if args.metric:
        raise UserError(_metric_and_lens(args.lens, args.metric))
    if len(set(args.format or ())) > 1:
        raise UserError("a lens scores one format a call; give --format once with --lens")


def _lenses(args: Args, base: Literal["isolate", "fallback"] | None, out: Path) -> int:
    """Score with the lenses that ``--lens`` names, a report each."""
    from quantspectrum.stages import lens_paths, lens_sensitivity, parse_lens_options, stopped
    from quantspectrum.units import parse_seconds

    _check_lens_options(args)
    time_budget = parse_seconds(args.time_budget) if args.time_budget else None
    options = parse_lens_options(args.lens_option or ())
    paths = lens_paths(out, list(dict.fromkeys(args.lens)))
    reporter = Reporter(args.quiet)
    loaded = load(args)
    complete = True
    for lens, path in paths.items():
        report = lens_sensitivity(
            loaded,
            path,
            lens=lens,
            data=data_request(args),
            ops=ops_request(args),
            base=base if args.base else None,
            format_name=args.format[0] if args.format else None,
            max_ops=args.max_ops,
            time_budget=time_budget,
            confidence_batches=args.confidence_batches,
            options=options,
            progress=partial(reporter.progress, lens),
        )
        if not report.complete:
            print(coverage_line(report), file=sys.stderr)
        tell_loose_limits(args, report)
        complete = complete and report.complete
        _show_ranking(args, report, path)
        if stopped(report):
            break
    return DONE if complete else INCOMPLETE
