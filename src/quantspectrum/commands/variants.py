"""Commands that make and measure variants: ``quantize`` and ``evaluate``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from quantspectrum.artifacts import Evaluation, Figure, Manifest
from quantspectrum.commands.reading import (
    DONE,
    INCOMPLETE,
    Args,
    data_request,
    json_path,
    load,
    load_evaluated,
    measuring_request,
    open_files,
    show,
)
from quantspectrum.progress import Reporter

__all__ = ["evaluate", "evaluation_lines", "quantize"]


def quantize(args: Args) -> int:
    """``quantspectrum quantize``."""
    from quantspectrum import stages
    from quantspectrum.backends.frameworks import check_backend, require_backend

    out = Path(args.out)
    check_backend(args.backend, options=args.backend_option or ())
    require_backend(args.backend)
    treatment = stages.TreatmentOptions(
        transform=args.transform, algorithm=args.algorithm, strength=args.smoothing
    )
    reporter = Reporter(args.quiet)
    manifest = stages.quantize(
        open_files(args) if args.stream else load(args),
        Path(args.spectrum),
        args.profile,
        out,
        backend=args.backend,
        treatment=treatment,
        data=data_request(args),
        say=reporter.say,
        options=args.backend_option or (),
        progress=partial(reporter.progress, f"quantize ({args.backend})"),
    )
    assert manifest.verification is not None
    found = manifest.verification.relative_l2
    checked = (
        f"loaded back within {found:.1e} of the simulation"
        if found is not None
        else "every tensor on disk as planned"
    )
    left_out = manifest.writer.left_out if manifest.writer is not None else ()
    text = (
        f"{out}: {len(manifest.profile.ops) - len(left_out)} ops quantized, {manifest.total_bytes / 1e6:.2f} MB, "
        f"{checked}"
    )
    for note in manifest.serving:
        if not note.serves:
            reporter.say(f"warning: {note.engine} will not serve it: {'; '.join(note.errors)}")
    show(args, manifest, text)
    if left_out:
        print(f"quantspectrum: {left_out_line(manifest)}", file=sys.stderr)
        return INCOMPLETE
    return DONE


def left_out_line(manifest: Manifest) -> str:
    """One sentence that a variant holds a part of the model, and not all ops of its profile."""
    writer = manifest.writer
    assert writer is not None
    return (
        f"INCOMPLETE: {len(writer.left_out)} of the {len(manifest.profile.ops)} ops of profile "
        f"{manifest.profile.name} are not in the variant, {writer.left_out[0]} first, which "
        f"{writer.notes[-1]}"
    )


def evaluate(args: Args) -> int:
    """``quantspectrum evaluate``."""
    import time

    from quantspectrum import stages
    from quantspectrum.evaluate.benchmarks import check_benchmark

    out = json_path(args.out)
    for spec in args.benchmark or ():
        check_benchmark(spec)
    start = time.perf_counter()
    loaded = load_evaluated(args)
    load_s = time.perf_counter() - start
    label = args.label or loaded.identity.id
    baseline = Path(args.baseline) if args.baseline is not None else None
    done = stages.evaluate(
        loaded,
        out,
        data=data_request(args),
        label=label,
        load_s=load_s,
        baseline=baseline,
        measuring=measuring_request(args),
    )
    text = f"{label}: loss {done.loss.loss:.4f} nats/token on {done.loss.tokens} tokens"
    if done.loss.stderr is not None:
        text += f" (standard error {done.loss.stderr:.4f})"
    if done.accuracy is not None:
        text += f", exact match {done.accuracy.exact:.1%} of {len(done.accuracy.correct)}"
    text += "".join(f"\n{line}" for line in evaluation_lines(done))
    show(args, done, f"{text}\n{out}")
    return DONE


def evaluation_lines(done: Evaluation) -> list[str]:
    """The main figures against the baseline, each with its 95 % interval and its noise floor."""
    lines = []
    for one in done.fidelity:
        bound = "" if one.kl_kind == "exact" else " (lower bound)"
        figures = {
            "perplexity ratio": one.perplexity_ratio,
            f"KL{bound}": one.kl_mean,
            f"KL 99 %{bound}": one.kl_p99,
            "RMS Δp": one.delta_p_rms,
            "same top token": one.same_top,
        }
        told = ", ".join(f"{name} {_told(figure)}" for name, figure in figures.items())
        lines.append(f"{one.kind} ({one.tokens} tokens): {told}")
    for name, flips in (("answers", done.flips), ("yes/no", done.yes_no_flips)):
        if flips is not None:
            lines.append(
                f"{name}: {flips.lost} right to wrong, {flips.won} wrong to right of "
                f"{flips.compared} (McNemar p = {flips.p_value:.3g}), {flips.changed} changed"
            )
    for run in done.runners:
        for entry in run.latency:
            lines.append(
                f"{run.runner} ({run.device}, {run.dtype}), {entry.batch_size} × "
                f"{entry.prompt_tokens} tokens: prefill {entry.prefill_ms:.3g} ms, "
                f"{entry.per_token_ms:.3g} ms per token"
            )
        kernels = ", ".join(f"{calls} {name}" for name, calls in run.kernels.items())
        lines.append(f"{run.runner} ran: {kernels}")
    for benchmark in done.benchmarks:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in benchmark.metrics.items())
        lines.append(f"{benchmark.harness}:{benchmark.task}: {metrics}")
    return lines


def _told(figure: Figure) -> str:
    text = f"{figure.value:.4g}"
    if figure.low is not None and figure.high is not None:
        text += f" [{figure.low:.4g}, {figure.high:.4g}]"
    return text if figure.floor is None else f"{text} (noise {figure.floor:.2g})"
