"""Variants against the baseline: what each profile saves, and what it costs on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from quantspectrum.artifacts import (
    Artifact,
    DecodeLatency,
    Evaluation,
    ModelIdentity,
    Record,
)
from quantspectrum.report import pairs
from quantspectrum.report.inputs import BASELINE, RunFiles, read_run
from quantspectrum.report.numbers import percent, plural, relative, signed, signed_points, size
from quantspectrum.report.pairs import (
    AccuracyDifference,
    Divergence,
    LossDifference,
    PromptChanges,
)

__all__ = [
    "TOLERANCE",
    "Comparison",
    "ComparisonRow",
    "compare",
    "compare_run",
    "recommend",
    "recommended",
    "within_tolerance",
]

TOLERANCE = 0.01
"""Largest loss increase, relative to the baseline's loss, that a recommended profile may have."""

_PERCENT = percent(TOLERANCE)


class ComparisonRow(Record):
    """The baseline or one variant; a field is ``None`` where nothing was measured or written.

    Attributes:
        profile: Name of the profile.
        groups: Groups quantized.
        share: Share of the candidate groups that is quantized, from 0 to 1.
        ops: Ops quantized.
        predicted_damage: Sum of the quantized ops' scores.
        written: A checkpoint was written.
        evaluated: An evaluation was made.
        disk_bytes: Size of the checkpoint.
        ratio: ``disk_bytes`` over the baseline's.
        loss: Loss per token (nats).
        loss_stderr: Its standard error over samples.
        samples: Samples behind the loss.
        tokens: Target tokens behind the loss.
        paired: Loss difference to the baseline over all samples.
        by_kind: The same over the samples of one kind.
        divergence: KL divergence from the baseline's predictions.
        accuracy: Share of right answers.
        accuracy_stderr: Its standard error.
        paired_accuracy: Accuracy difference to the baseline.
        prompts: Answers that changed.
        load_s: Seconds to load the checkpoint.
        kernel: ``emulated`` times say nothing of the speed of INT8.
        latency: Times, one entry per batch size.
    """

    profile: str
    groups: int | None = None
    share: float | None = None
    ops: int | None = None
    predicted_damage: float | None = None
    written: bool = False
    evaluated: bool = False
    disk_bytes: int | None = None
    ratio: float | None = None
    loss: float | None = None
    loss_stderr: float | None = None
    samples: int | None = None
    tokens: int | None = None
    paired: LossDifference | None = None
    by_kind: dict[str, LossDifference] = Field(default_factory=dict)
    divergence: Divergence | None = None
    accuracy: float | None = None
    accuracy_stderr: float | None = None
    paired_accuracy: AccuracyDifference | None = None
    prompts: PromptChanges | None = None
    load_s: float | None = None
    kernel: Literal["native", "emulated"] | None = None
    latency: tuple[DecodeLatency, ...] = ()


class Comparison(Artifact):
    """The baseline and every variant of a run, in the spectrum's order.

    Attributes:
        model: The model, where a record of the run names it.
        baseline: The unquantized model; ``None`` where it was not evaluated.
        rows: One per profile, the baseline not among them.
    """

    KIND: ClassVar[str] = "comparison"
    kind: Literal["comparison"] = "comparison"
    model: ModelIdentity | None
    baseline: ComparisonRow | None
    rows: tuple[ComparisonRow, ...]


def compare_run(run_dir: Path) -> Comparison:
    """Compare every variant of a run directory with its baseline.

    Raises:
        UserError: ``run.json`` is missing, a record cannot be read, or two evaluations were made
            on different samples.
    """
    return compare(read_run(run_dir))


def compare(files: RunFiles) -> Comparison:
    """Compare every variant with the baseline; see :func:`compare_run`."""
    baseline_bytes = _baseline_bytes(files)
    baseline = None
    if files.baseline is not None:
        baseline = ComparisonRow(
            profile=BASELINE,
            groups=0,
            share=0.0,
            ops=0,
            predicted_damage=0.0,
            written=True,
            disk_bytes=baseline_bytes,
            ratio=1.0 if baseline_bytes else None,
            **_measured(files.baseline),
        )
    rows = tuple(_row(files, name, baseline_bytes) for name in files.profile_names())
    return Comparison(model=_model(files), baseline=baseline, rows=rows)


def _model(files: RunFiles) -> ModelIdentity | None:
    if files.baseline is not None:
        return files.baseline.provenance.model
    if files.spectrum is not None:
        return files.spectrum.model
    for report in files.reports.values():
        return report.provenance.model
    return None


def _baseline_bytes(files: RunFiles) -> int | None:
    if files.baseline is not None:
        return files.baseline.resources.disk_bytes
    return next((m.baseline_bytes for m in files.manifests.values()), None)


def _row(files: RunFiles, name: str, baseline_bytes: int | None) -> ComparisonRow:
    profile, manifest = files.profile(name), files.manifests.get(name)
    evaluation = files.evaluations.get(name)
    on_disk, whole = None, baseline_bytes
    if evaluation is not None:
        on_disk = evaluation.resources.disk_bytes
    elif manifest is not None:
        on_disk, whole = manifest.total_bytes, manifest.baseline_bytes
    return ComparisonRow(
        profile=name,
        groups=profile.groups if profile else None,
        share=profile.share if profile else None,
        ops=len(profile.ops) if profile else None,
        predicted_damage=profile.predicted_damage if profile else None,
        written=manifest is not None,
        disk_bytes=on_disk,
        ratio=on_disk / whole if on_disk is not None and whole else None,
        **(_measured(evaluation) if evaluation else {}),
        **(_against(files.baseline, evaluation, name) if evaluation and files.baseline else {}),
    )


def _measured(evaluation: Evaluation) -> dict[str, Any]:
    """Fields of a row that one evaluation gives by itself."""
    loss, accuracy = evaluation.loss, evaluation.accuracy
    return {
        "evaluated": True,
        "loss": loss.loss,
        "loss_stderr": loss.stderr,
        "samples": len(loss.samples),
        "tokens": loss.tokens,
        "accuracy": accuracy.exact if accuracy else None,
        "accuracy_stderr": accuracy.stderr if accuracy else None,
        "load_s": evaluation.resources.load_s,
        "kernel": evaluation.resources.kernel,
        "latency": evaluation.resources.latency,
    }


def _against(baseline: Evaluation, variant: Evaluation, name: str) -> dict[str, Any]:
    """Fields of a row that need the baseline too."""
    names = ("baseline/evaluation.json", f"evaluations/{name}.json")
    pairs.check_same_samples(baseline, variant, names)
    return {
        "paired": pairs.compare_loss(baseline, variant),
        "by_kind": pairs.compare_kinds(baseline, variant),
        "divergence": pairs.divergence_of(variant),
        "paired_accuracy": pairs.compare_accuracy(baseline, variant),
        "prompts": pairs.compare_prompts(baseline, variant),
    }


def within_tolerance(difference: LossDifference | None) -> bool:
    """Whether the upper 95 % bound of the loss increase is known and at most 1 % of the loss."""
    if difference is None or difference.high is None:
        return False
    return difference.high <= TOLERANCE * difference.baseline


def recommended(comparison: Comparison) -> ComparisonRow | None:
    """Return the most aggressive profile within tolerance, or ``None``."""
    fitting = [row for row in comparison.rows if within_tolerance(row.paired)]
    # Rows come in the spectrum's order, so the later of two alike is the more aggressive.
    return max(reversed(fitting), key=_aggression, default=None)


def _aggression(row: ComparisonRow) -> tuple[float, float]:
    """Share quantized, then how small the checkpoint is."""
    return (
        row.share if row.share is not None else -1.0,
        -row.disk_bytes if row.disk_bytes is not None else float("-inf"),
    )


def recommend(comparison: Comparison) -> str:
    """Say in one sentence which profile to take, what it costs, and by which rule."""
    if comparison.baseline is None:
        return (
            "No profile can be recommended, because the baseline was not evaluated and there is "
            "nothing to compare the variants with."
        )
    measured = [row for row in comparison.rows if row.paired is not None]
    dtype = comparison.model.dtype.removeprefix("torch.") if comparison.model else ""
    keep = f"Keep the {dtype} baseline" if dtype else "Keep the baseline"
    if not measured:
        return f"{keep} for now: no variant has a loss to compare."
    row = recommended(comparison)
    if row is not None:
        said = f"{_cost(row)}; {_rule(comparison)}{_caveat(row)}"
        return f"Take the {row.profile} profile{_gain(row)}: {said}."
    mildest = min(measured, key=_aggression)
    if mildest.paired is not None and mildest.paired.high is None:
        return (
            f"{keep} for now: one sample gives the loss increase no interval, so no profile is "
            f"known to stay within {_PERCENT} of the baseline's loss."
        )
    return (
        f"{keep}: no profile has an upper 95 % bound of its loss increase within {_PERCENT} of "
        f"the baseline's loss, and even with the mildest, {mildest.profile}, {_cost(mildest)}."
    )


def _gain(row: ComparisonRow) -> str:
    said = []
    if row.share is not None:
        said.append(f"{percent(row.share)} of the groups quantized")
    if row.disk_bytes is not None:
        said.append(size(row.disk_bytes))
    if row.ratio is not None:
        said.append(f"{row.ratio:.2f}× the baseline's size")
    return f" ({', '.join(said)})" if said else ""


def _cost(row: ComparisonRow) -> str:
    paired = row.paired
    assert paired is not None
    assert paired.low is not None
    assert paired.high is not None
    loss = paired.baseline
    interval = f"{relative(paired.low, loss)} to {relative(paired.high, loss)}"
    said = (
        f"its loss changes by {relative(paired.value, loss)} (95 % interval {interval}, "
        f"{plural(paired.n, 'sample')})"
    )
    accuracy = row.paired_accuracy
    if accuracy is not None:
        error = f" ± {100 * accuracy.stderr:.1f}" if accuracy.stderr is not None else ""
        said += f" and its accuracy by {signed_points(accuracy.value)}{error} points"
    return said


def _rule(comparison: Comparison) -> str:
    missing = [row.profile for row in comparison.rows if row.paired is None]
    said = (
        "it is the most aggressive profile whose upper 95 % bound of the loss increase is within "
        f"{_PERCENT} of the baseline's loss"
    )
    return said + (f" (not evaluated: {', '.join(missing)})" if missing else "")


def _caveat(row: ComparisonRow) -> str:
    """What the rule overlooks: kinds of samples that do worse, and a drop of accuracy."""
    over = [
        f"on {kind} alone that bound is {relative(paired.high, paired.baseline)}, "
        f"{signed(paired.high, paired.stderr)} nats per token"
        for kind, paired in row.by_kind.items()
        if paired.high is not None and not within_tolerance(paired)
    ]
    accuracy = row.paired_accuracy
    if accuracy is not None and accuracy.high is not None and accuracy.high < 0:
        over.append("the accuracy drop is larger than chance and should be weighed too")
    return f"; {' and '.join(over)}" if over else ""
