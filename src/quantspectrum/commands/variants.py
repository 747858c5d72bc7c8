"""Commands that make and measure variants: ``quantize`` and ``evaluate``."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.commands.reading import (
    DONE,
    Args,
    data_request,
    json_path,
    load,
    open_files,
    show,
)
from quantspectrum.progress import Reporter

__all__ = ["evaluate", "quantize"]


def quantize(args: Args) -> int:
    """``quantspectrum quantize``."""
    from quantspectrum import stages

    out = Path(args.out)
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
    )
    assert manifest.verification is not None
    found = manifest.verification.relative_l2
    checked = (
        f"loaded back within {found:.1e} of the simulation"
        if found is not None
        else "every tensor on disk as planned"
    )
    text = (
        f"{out}: {len(manifest.profile.ops)} ops quantized, {manifest.total_bytes / 1e6:.2f} MB, "
        f"{checked}"
    )
    for note in manifest.serving:
        if not note.serves:
            reporter.say(f"warning: {note.engine} will not serve it: {'; '.join(note.errors)}")
    show(args, manifest, text)
    return DONE


def evaluate(args: Args) -> int:
    """``quantspectrum evaluate``."""
    import time

    from quantspectrum import stages

    out = json_path(args.out)
    start = time.perf_counter()
    loaded = load(args)
    load_s = time.perf_counter() - start
    label = args.label or loaded.identity.id
    baseline = Path(args.baseline) if args.baseline is not None else None
    done = stages.evaluate(
        loaded, out, data=data_request(args), label=label, load_s=load_s, baseline=baseline
    )
    text = f"{label}: loss {done.loss.loss:.4f} nats/token on {done.loss.tokens} tokens"
    if done.loss.stderr is not None:
        text += f" (standard error {done.loss.stderr:.4f})"
    if done.accuracy is not None:
        text += f", exact match {done.accuracy.exact:.1%} of {len(done.accuracy.correct)}"
    show(args, done, f"{text}\n{out}")
    return DONE
