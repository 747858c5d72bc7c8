"""Variants against the baseline: what each profile saves, and what it costs on the same samples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from quantspectrum.artifacts import (
    Artifact,
    BenchmarkResult,
    DecodeLatency,
    Evaluation,
    Fidelity,
    Flips,
    Kernel,
    LossOf,
    ModelIdentity,
    NoiseFloor,
    PromptFidelity,
    Record,
    RunnerRun,
    YesNo,
)
from quantspectrum.report import pairs
from quantspectrum.report.inputs import BASELINE, RunFiles, read_run
from quantspectrum.report.pairs import (
    AccuracyDifference,
    Divergence,
    LossDifference,
    PromptChanges,
)
from quantspectrum.report.quality import verdict_of

__all__ = ["Comparison", "ComparisonRow", "compare", "compare_run"]


class ComparisonRow(Record):
    """The baseline or one variant; a field is ``None`` where nothing was measured or written.

    Attributes:
        profile: Name of the profile.
        groups: Groups quantized.
        share: Share of the candidate groups that is quantized, from 0 to 1.
        ops: Ops quantized.
        formats: Ops in each format.
        rule: How the profile was chosen.
        predicted_damage: Sum of the quantized ops' scores.
        predicted_bytes: Weight bytes of the whole model, as the spectrum predicts them.
        written: A checkpoint was written.
        evaluated: An evaluation was made.
        disk_bytes: Size of the checkpoint.
        ratio: ``disk_bytes`` over the baseline's.
        loss: Loss per token (nats).
        loss_stderr: Its standard error over samples.
        loss_of: What is to be predicted.
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
        runners: Times of libraries with kernels of their own, and which kernels ran.
        weight_bytes: Bytes of the stored weights by type.
        matmuls: Matrix products of one forward pass by operator and operand types.
        peak_host_bytes: Most memory of the process.
        peak_device_bytes: Most memory of the device.
        fidelity: Statistics against the baseline over the same tokens, with their noise floors.
        flips: Answers against the baseline's, with McNemar's test.
        yes_no: Yes/no questions.
        yes_no_flips: Their answers against the baseline's.
        prompt_fidelity: Tokens of the prompts' answers against the baseline's.
        benchmarks: Tasks of benchmark harnesses.
        phases_s: What the time of the evaluation went to, in seconds.
        guard: Whether it beats profiles of its size that the ranking did not choose.
    """

    profile: str
    groups: int | None = None
    share: float | None = None
    ops: int | None = None
    formats: dict[str, int] = Field(default_factory=dict)
    rule: str = ""
    predicted_damage: float | None = None
    predicted_bytes: int | None = None
    written: bool = False
    evaluated: bool = False
    disk_bytes: int | None = None
    ratio: float | None = None
    loss: float | None = None
    loss_stderr: float | None = None
    loss_of: LossOf | None = None
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
    kernel: Kernel | None = None
    latency: tuple[DecodeLatency, ...] = ()
    runners: tuple[RunnerRun, ...] = ()
    weight_bytes: dict[str, int] | None = None
    matmuls: dict[str, int] | None = None
    peak_host_bytes: int | None = None
    peak_device_bytes: int | None = None
    fidelity: tuple[Fidelity, ...] = ()
    flips: Flips | None = None
    yes_no: YesNo | None = None
    yes_no_flips: Flips | None = None
    prompt_fidelity: PromptFidelity | None = None
    benchmarks: tuple[BenchmarkResult, ...] = ()
    phases_s: dict[str, float] | None = None
    guard: str | None = None

    def over(self, kind: str = "all") -> Fidelity | None:
        """Its statistics over one kind of sample."""
        return next((found for found in self.fidelity if found.kind == kind), None)

    def bytes_known(self) -> int | None:
        """Size of the checkpoint, or where there is none the weights' predicted size."""
        return self.disk_bytes or self.predicted_bytes


class Comparison(Artifact):
    """The baseline and every variant of a run, in the spectrum's order.

    Attributes:
        model: The model, where a record of the run names it.
        lens: The lens whose scores the predicted damages are sums of; ``None`` without a spectrum.
        baseline: The unquantized model; ``None`` where it was not evaluated.
        rows: One per profile, the baseline not among them.
        noise: The baseline against itself, computed another way.
    """

    KIND: ClassVar[str] = "comparison"
    kind: Literal["comparison"] = "comparison"
    model: ModelIdentity | None
    lens: str | None = None
    baseline: ComparisonRow | None
    rows: tuple[ComparisonRow, ...]
    noise: tuple[NoiseFloor, ...] = ()


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
    lens = files.spectrum.lens if files.spectrum is not None else None
    noise = files.baseline.noise if files.baseline is not None else ()
    return Comparison(model=_model(files), lens=lens, baseline=baseline, rows=rows, noise=noise)


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
        formats=dict(Counter(profile.ops.values())) if profile else {},
        rule=profile.rule if profile else "",
        predicted_damage=profile.predicted_damage if profile else None,
        predicted_bytes=profile.predicted_bytes if profile else None,
        guard=verdict_of(files.guard, name),
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
        "loss_of": loss.of,
        "samples": len(loss.samples),
        "tokens": loss.tokens,
        "accuracy": accuracy.exact if accuracy else None,
        "accuracy_stderr": accuracy.stderr if accuracy else None,
        "load_s": evaluation.resources.load_s,
        "kernel": evaluation.resources.kernel,
        "latency": evaluation.resources.latency,
        "runners": evaluation.runners,
        "weight_bytes": evaluation.resources.weight_bytes,
        "matmuls": evaluation.resources.matmuls,
        "peak_host_bytes": evaluation.resources.peak_host_bytes,
        "peak_device_bytes": evaluation.resources.peak_device_bytes,
        "fidelity": evaluation.fidelity,
        "flips": evaluation.flips,
        "yes_no": evaluation.yes_no,
        "yes_no_flips": evaluation.yes_no_flips,
        "prompt_fidelity": evaluation.prompt_fidelity,
        "benchmarks": evaluation.benchmarks,
        "phases_s": evaluation.phases_s,
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
