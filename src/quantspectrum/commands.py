"""What each command does: read its options, call a stage, print a short table.

Everything heavy is imported inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quantspectrum.artifacts import Artifact
from quantspectrum.errors import UserError
from quantspectrum.progress import Reporter

if TYPE_CHECKING:
    from quantspectrum.models.loading import Loaded, ModelSpec
    from quantspectrum.run import RunRequest
    from quantspectrum.stages import DataRequest, OpsRequest, ScoringRequest

__all__ = [
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "ops",
    "quantize",
    "run",
    "sensitivity",
    "spectrum",
]

DONE, INCOMPLETE = 0, 3

Args = argparse.Namespace


def demo(args: Args) -> int:
    """``quantspectrum demo``."""
    from quantspectrum.run import demo_request

    return _execute(args, demo_request(args.device))


def run(args: Args) -> int:
    """``quantspectrum run``."""
    from quantspectrum.run import RunRequest

    request = RunRequest(
        **_spec_fields(args),
        data=_data(args),
        ops=_ops(args),
        scoring=_scoring(args),
        base=tuple(_bases(args)),
        cut=tuple(args.cut or ()),
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
        print(_coverage_line(report), file=sys.stderr)
    _show(args, comparison, f"{variants_text(comparison)}\n\n{Path(args.out) / 'report.html'}")
    return INCOMPLETE if incomplete else DONE


def ops(args: Args) -> int:
    """``quantspectrum ops``."""
    import json

    from quantspectrum.models.ops import list_ops

    loaded = _load(args)
    chosen = _ops(args)
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

    bases = _bases(args)
    if len(bases) > 1:
        raise UserError("a report is of one base; give --base once, or use `quantspectrum run`")
    out = _json_path(args.out)
    scoring = _scoring(args)
    reporter = Reporter(args.quiet)
    paths = scoring.report_paths(out)
    reports = stages.sensitivity(
        _load(args),
        paths,
        data=_data(args),
        ops=_ops(args),
        scoring=scoring,
        base=bases[0],
        progress=lambda steps: reporter.progress(f"sensitivity ({bases[0]})", steps),
        cuts=args.cut or (),
    )
    for report in reports:
        if not report.complete:
            print(_coverage_line(report), file=sys.stderr)
    if args.json and len(reports) > 1:
        print(json.dumps([report.model_dump(mode="json") for report in reports], indent=1))
        return DONE if all(report.complete for report in reports) else INCOMPLETE
    for report, path in zip(reports, paths.values(), strict=True):
        lines = [f"{op.rank:>4}  {op.score:>11.4e}  {op.name}" for op in report.ops[:10]]
        _show(args, report, "\n".join(["rank        score  op", *lines, "", str(path)]))
    return DONE if all(report.complete for report in reports) else INCOMPLETE


def spectrum(args: Args) -> int:
    """``quantspectrum spectrum``."""
    from quantspectrum import stages

    out = _json_path(args.out)
    made = stages.spectrum(Path(args.report), out, cuts=args.cut or ())
    lines = [
        f"{p.name:<12} {p.groups:>6} {len(p.ops):>6} {p.predicted_damage:>12.4e}"
        for p in made.profiles
    ]
    head = f"{'profile':<12} {'groups':>6} {'ops':>6} {'predicted':>12}"
    _show(args, made, "\n".join([head, *lines, "", str(out)]))
    return DONE


def quantize(args: Args) -> int:
    """``quantspectrum quantize``."""
    from quantspectrum import stages

    out = Path(args.out)
    manifest = stages.quantize(
        _load(args), Path(args.spectrum), args.profile, out, backend=args.backend
    )
    assert manifest.verification is not None
    text = (
        f"{out}: {len(manifest.profile.ops)} ops quantized, {manifest.total_bytes / 1e6:.2f} MB, "
        f"loaded back within {manifest.verification.relative_l2:.1e} of the simulation"
    )
    _show(args, manifest, text)
    return DONE


def evaluate(args: Args) -> int:
    """``quantspectrum evaluate``."""
    import time

    from quantspectrum import stages

    out = _json_path(args.out)
    start = time.perf_counter()
    loaded = _load(args)
    load_s = time.perf_counter() - start
    label = args.label or loaded.identity.id
    baseline = Path(args.baseline) if args.baseline is not None else None
    done = stages.evaluate(
        loaded, out, data=_data(args), label=label, load_s=load_s, baseline=baseline
    )
    text = f"{label}: loss {done.loss.loss:.4f} nats/token on {done.loss.tokens} tokens"
    if done.loss.stderr is not None:
        text += f" (standard error {done.loss.stderr:.4f})"
    if done.accuracy is not None:
        text += f", exact match {done.accuracy.exact:.1%} of {len(done.accuracy.correct)}"
    _show(args, done, f"{text}\n{out}")
    return DONE


def compare(args: Args) -> int:
    """``quantspectrum compare``."""
    from quantspectrum.report import variants_text, write_report

    comparison = write_report(Path(args.run))
    _show(args, comparison, f"{variants_text(comparison)}\n\n{Path(args.run) / 'report.html'}")
    return DONE


def doctor(args: Args) -> int:
    """``quantspectrum doctor``."""
    from quantspectrum.doctor import examine

    findings = examine()
    if args.json:
        import json

        print(json.dumps([finding.model_dump() for finding in findings], indent=1))
        return DONE
    for finding in findings:
        mark = "ok " if finding.works else "-- "
        print(f"{mark} {finding.kind:<8} {finding.name:<22} {finding.detail}")
    return DONE


def _show(args: Args, record: Artifact, text: str) -> None:
    print(record.model_dump_json(indent=1) if args.json else text)


def _json_path(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".json":
        raise UserError(f"--out {text}: the file's name must end in .json")
    return path


def _coverage_line(report: Any) -> str:
    skipped = len(report.coverage.skipped)
    why = report.stopped_by or "reasons are in the report"
    estimated = report.coverage.estimated
    told = f", {estimated} of them estimated" if estimated else ""
    return (
        f"quantspectrum: INCOMPLETE: {report.lens}, {report.coverage.scored} of "
        f"{report.coverage.found} ops scored{told}, {skipped} skipped ({why})"
    )


def _spec_fields(args: Args) -> dict[str, Any]:
    names = (
        *("model", "revision", "gguf_file", "dtype", "device", "device_map", "offload_folder"),
        "trust_remote_code",
    )
    return {name: getattr(args, name) for name in names}


def _load(args: Args) -> Loaded:
    from quantspectrum.models.loading import ModelSpec, load_model

    spec: ModelSpec = ModelSpec(**_spec_fields(args))
    return load_model(spec)


def _data(args: Args) -> DataRequest:
    from quantspectrum.stages import DataRequest

    return DataRequest(
        data=tuple(args.data or ()),
        images=args.images,
        calibration=args.calibration,
        samples=args.samples,
        eval_samples=args.eval_samples,
        prompts=args.prompts,
        batch_size=args.batch_size,
        max_length=args.max_length,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
    )


def _ops(args: Args) -> OpsRequest:
    from quantspectrum.stages import OpsRequest

    return OpsRequest(
        include=tuple(args.include or ()),
        exclude=tuple(args.exclude or ()),
        type=tuple(args.type or ("Linear",)),
    )


def _bases(args: Args) -> list[Literal["isolate", "fallback"]]:
    bases = list(dict.fromkeys(args.base or ["isolate"]))
    if args.rescore and "fallback" not in bases:
        raise UserError("--rescore ranks again from base fallback; give --base fallback")
    return bases


def _scoring(args: Args) -> ScoringRequest:
    from quantspectrum.stages import ScoringRequest
    from quantspectrum.units import parse_bytes, parse_seconds

    return ScoringRequest(
        metric=tuple(dict.fromkeys(args.metric or ["mse_v2"])),
        format=tuple(dict.fromkeys(args.format or ["w8a8"])),
        attribute=args.attribute,
        max_ops=args.max_ops,
        time_budget=parse_seconds(args.time_budget) if args.time_budget else None,
        confidence_batches=args.confidence_batches,
        rescore=args.rescore,
        memory_limit=parse_bytes(args.memory_limit) if args.memory_limit else None,
        slots=args.slots,
        probes=args.probes,
    )
