"""The stages: each a function from files to files. ``run`` is these in a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from quantspectrum.artifacts import (
    DataIdentity,
    Evaluation,
    LatencyTable,
    Manifest,
    Record,
    SensitivityReport,
    Spectrum,
    read_artifact,
    sha256_file,
    write_artifact,
    write_text,
)
from quantspectrum.backends.frameworks import isolated_named, write_variant
from quantspectrum.backends.quantize import quantize_profile
from quantspectrum.backends.treatment import TreatmentRequest, treat
from quantspectrum.data.encode import encode_for
from quantspectrum.data.prompts import load_prompts
from quantspectrum.data.sample import Sample
from quantspectrum.data.splits import Splits, identity, make_splits
from quantspectrum.errors import UserError
from quantspectrum.evaluate.evaluation import EvaluationRequest, check_evaluable, evaluate_model
from quantspectrum.evaluate.latency import LatencyPlan
from quantspectrum.evaluate.noise import Noise
from quantspectrum.evaluate.session import EvaluationSession, predictions_path
from quantspectrum.formats import PRESETS, preset
from quantspectrum.lenses.native import NativeRequest, score_ops
from quantspectrum.models.lazy import LazyModel
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import list_ops
from quantspectrum.report import sensitivity_markdown
from quantspectrum.spectrum.build import DEFAULT_CUTS, build_spectrum, parse_cuts
from quantspectrum.spectrum.latency import measure_latency
from quantspectrum.spectrum.rules import parse_budgets, parse_keeps

__all__ = [
    "Base",
    "DataRequest",
    "MeasuringRequest",
    "OpsRequest",
    "ScoringRequest",
    "TreatmentOptions",
    "evaluate",
    "evaluation_session",
    "latency",
    "predictions_path",
    "quantize",
    "sensitivity",
    "spectrum",
    "stopped",
]

Base = Literal["isolate", "fallback"]


class DataRequest(Record):
    """Which samples to draw; the three sets are disjoint.

    Attributes:
        data: Data specs; none means the built-in synthetic scenes, for models that see images.
        images: Folder of the pictures a COCO file names.
        calibration: Samples that set static input ranges.
        samples: Samples the sensitivities are measured on.
        eval_samples: Samples the final figures are measured on.
        prompts: YAML or JSONL file of prompts; none means the built-in ones.
        batch_size: Samples a forward pass.
        max_length: Longest sample, in tokens.
        max_new_tokens: Longest answer, in tokens.
        seed: Seed of the draw.
    """

    data: tuple[str, ...] = ()
    images: str | None = None
    calibration: int = 32
    samples: int = 32
    eval_samples: int = 64
    prompts: str | None = None
    batch_size: int = 8
    max_length: int = 1024
    max_new_tokens: int = 48
    seed: int = 0

    def specs(self, takes_images: bool) -> tuple[str, ...]:
        """The data specs, with the built-in scenes where none are given.

        Raises:
            UserError: None are given for a model that takes text alone.
        """
        if self.data:
            return self.data
        if takes_images:
            return ("demo",)
        raise UserError("no data: give --data, such as --data text:FILE, coco:FILE or images:DIR")

    def splits(self, takes_images: bool) -> Splits:
        """Draw the three sets."""
        return make_splits(
            self.specs(takes_images),
            images=Path(self.images) if self.images is not None else None,
            calibration=self.calibration,
            selection=self.samples,
            evaluation=self.eval_samples,
            seed=self.seed,
        )

    def prompt_samples(self, takes_images: bool) -> list[Sample]:
        """The prompts to answer: the user's, the demo's own, or the built-in set."""
        if self.prompts is None and self.data == ("demo",):
            from quantspectrum.demo import demo_prompts

            return demo_prompts()
        path = Path(self.prompts) if self.prompts is not None else None
        return load_prompts(path, images=takes_images)


class MeasuringRequest(Record):
    """What is measured of a model besides its loss, and how.

    Attributes:
        latency_batch_sizes: Batch sizes to time; none is a choice by device and kernel.
        latency_prompt_tokens: Lengths of prompts to time, likewise.
        noise: Ways the baseline is run again; ``None`` is all that the device has.
        benchmarks: Tasks of harnesses, ``lm-eval:NAME`` or ``lmms-eval:NAME``.
        benchmark_limit: Questions of each task at most.
        benchmark_tasks: Folder of task files of the user's own.
    """

    latency_batch_sizes: tuple[int, ...] = ()
    latency_prompt_tokens: tuple[int, ...] = ()
    noise: tuple[Noise, ...] | None = None
    benchmarks: tuple[str, ...] = ()
    benchmark_limit: int | None = None
    benchmark_tasks: str | None = None

    def latency(self) -> LatencyPlan | None:
        """The plan that was asked for."""
        if not self.latency_batch_sizes and not self.latency_prompt_tokens:
            return None
        own = LatencyPlan()
        return LatencyPlan(
            batch_sizes=self.latency_batch_sizes or own.batch_sizes,
            prompt_tokens=self.latency_prompt_tokens or own.prompt_tokens,
        )


class OpsRequest(Record):
    """Which ops are candidates; see :func:`quantspectrum.models.ops.list_ops`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    type: tuple[str, ...] = ("Linear",)


class ScoringRequest(Record):
    """How to score ops; see :class:`quantspectrum.sensitivity.measurement.NativeRequest`.

    Attributes:
        metric: Metrics, one report each; the first makes spectra.
        format: Presets tried on every op, one report each; the first makes spectra.
        attribute: Measure the parts of weights and activations too.
        max_ops: Measure no more ops than this.
        time_budget: Seconds to measure for.
        confidence_batches: Use the first so many batches only.
        rescore: Groups to restore for a second ranking.
        memory_limit: Bytes of captured tensors on the device.
        slots: Ops replayed together; ``None`` finds out.
        probes: Random probes of ``hawq_v2`` a batch.
    """

    metric: tuple[str, ...] = ("mse_v2",)
    format: tuple[str, ...] = ("w8a8",)
    attribute: bool = False
    max_ops: int | None = None
    time_budget: float | None = None
    confidence_batches: int | None = None
    rescore: int = 0
    memory_limit: int | None = None
    slots: int | None = None
    probes: int = 8

    def report_paths(self, out: Path) -> dict[tuple[str, str], Path]:
        """For each metric and format its report's path: ``out``, or named after them beside it."""
        paths = {}
        for metric in self.metric:
            for fmt in self.format:
                parts = [out.stem]
                parts += [metric] if len(self.metric) > 1 else []
                parts += [fmt] if len(self.format) > 1 else []
                paths[metric, fmt] = out.with_name(".".join(parts) + out.suffix)
        return paths


class TreatmentOptions(Record):
    """What llm-compressor does before a variant is written; see :mod:`.backends.treatment`.

    Attributes:
        transform: ``smoothquant``, or none.
        algorithm: ``rtn`` rounds each weight to the nearest number, ``gptq`` makes up for errors.
        strength: SmoothQuant's alpha.
    """

    transform: Literal["smoothquant"] | None = None
    algorithm: Literal["rtn", "gptq"] = "rtn"
    strength: float = 0.5

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return self.transform is not None or self.algorithm != "rtn"


def sensitivity(
    loaded: Loaded,
    paths: Mapping[tuple[str, str], Path],
    *,
    data: DataRequest,
    ops: OpsRequest,
    scoring: ScoringRequest,
    base: Base,
    progress: Callable[[int], Callable[[], None]],
    cuts: Sequence[str] = (),
) -> list[SensitivityReport]:
    """Score every op; write the ranked reports (JSON) and the same as Markdown beside them.

    The measurements are kept in a journal beside the first report while they are made, so that the
    same call goes on where it was interrupted; it is removed once the scan is whole. Where a batch does
    not fit into the device's memory, batches are halved until they do.

    Args:
        loaded: The model.
        paths: For each metric and format the report to write, ``….json``.
        data: Which samples to use.
        ops: Which ops are candidates.
        scoring: Metrics, formats and limits.
        base: What surrounds the op under test.
        progress: Given the number of steps, returns what is called after each.
        cuts: Cut points of the spectrum to come, near which measurements are spent first.

    Returns:
        A report for each metric and format, in their order.
    """
    table = list_ops(
        loaded.model, loaded.layout, include=ops.include, exclude=ops.exclude, types=ops.type
    )
    size = data.batch_size
    first = next(iter(paths.values()))
    journals: list[Path] = []
    while True:
        name = ".journal.jsonl" if size == data.batch_size else f".batch{size}.journal.jsonl"
        journals.append(first.with_suffix(name))
        request = _native_request(loaded, journals[-1], data, scoring, base, size, cuts)
        step = progress(request.steps(len(table.candidates)))
        try:
            reports = score_ops(loaded, table, request, step=step)
            break
        except torch.OutOfMemoryError:
            if size == 1:
                raise UserError(
                    f"one sample does not fit on {loaded.device}; give a smaller --max-length "
                    "or --memory-limit, or --device cpu"
                ) from None
            size //= 2
            torch.cuda.empty_cache()
    for report in reports:
        path = paths[report.lens.partition(":")[2], report.format.name]
        write_artifact(path, report)
        write_text(path.with_suffix(".md"), sensitivity_markdown(report))
    if not any(report.stopped_by for report in reports):
        for journal in journals:
            journal.unlink(missing_ok=True)
    return reports


def _native_request(
    loaded: Loaded,
    journal: Path,
    data: DataRequest,
    scoring: ScoringRequest,
    base: Base,
    batch_size: int,
    cuts: Sequence[str],
) -> NativeRequest:
    splits = data.splits(loaded.takes_images)
    calibration, selection = (
        encode_for(loaded, part, batch_size=batch_size, max_length=data.max_length)
        for part in (splits.calibration, splits.selection)
    )
    # Pictures first: the first batch then reaches every op, so that all are scored early.
    selection = sorted(selection, key=lambda batch: batch.kinds[0] == "text")
    shares = tuple(s for s in (parse_cuts(cuts) if cuts else DEFAULT_CUTS).values() if 0 < s < 1)
    return NativeRequest(
        formats=tuple(preset(name) for name in scoring.format),
        metrics=scoring.metric,
        base=base,
        calibration=calibration,
        selection=selection[: scoring.confidence_batches],
        data=(
            identity(splits.calibration, splits.source, "calibration"),
            identity(splits.selection, splits.source, "selection"),
        ),
        seed=data.seed,
        journal=journal,
        attribute=scoring.attribute,
        max_ops=scoring.max_ops,
        time_budget=scoring.time_budget,
        cuts=shares,
        rescore=scoring.rescore if base == "fallback" else 0,
        memory_limit=scoring.memory_limit,
        slots=scoring.slots,
        probes=scoring.probes,
    )


def stopped(report: SensitivityReport) -> bool:
    """Whether the scan behind a report was interrupted: the same call goes on with it."""
    return report.stopped_by == "interrupted"


def spectrum(
    report_path: Path | Sequence[Path],
    out: Path,
    *,
    cuts: Sequence[str] = (),
    budgets: Sequence[str] = (),
    keeps: Sequence[str] = (),
    latency: Path | None = None,
) -> Spectrum:
    """Make profiles from reports, one a format, and write them to ``out``.

    Args:
        report_path: The reports; the first one ranks, and cuts quantize in its format.
        out: Where the spectrum goes.
        cuts: ``NAME=SHARE`` each; none, without budgets, means the default ones.
        budgets: ``NAME=KIND:AMOUNT`` each.
        keeps: ``PATTERN=FORMAT`` each.
        latency: A latency table.
    """
    paths = [report_path] if isinstance(report_path, Path) else list(report_path)
    solved = parse_budgets(budgets)
    default = {} if solved else DEFAULT_CUTS
    made = build_spectrum(
        [read_artifact(path, SensitivityReport) for path in paths],
        report_sha256=[sha256_file(path) for path in paths],
        cuts=parse_cuts(cuts) if cuts else default,
        budgets=solved,
        keeps=parse_keeps(keeps),
        latency=read_artifact(latency, LatencyTable) if latency is not None else None,
    ).sealed()
    write_artifact(out, made)
    return made


def latency(
    loaded: Loaded,
    out: Path,
    *,
    ops: OpsRequest,
    formats: Sequence[str],
    rows: Sequence[int],
    repeats: int,
    progress: Callable[[int], Callable[[], None]],
) -> LatencyTable:
    """Time the candidates' linears on the model's device and write the table to ``out``."""
    table = list_ops(
        loaded.model, loaded.layout, include=ops.include, exclude=ops.exclude, types=ops.type
    )
    names = formats or PRESETS
    measured = measure_latency(
        loaded,
        table.candidates,
        formats=[preset(name) for name in names],
        rows=rows,
        repeats=repeats,
        progress=progress,
    )
    write_artifact(out, measured)
    return measured


def quantize(
    source: Loaded | LazyModel,
    spectrum_path: Path,
    profile: str,
    out: Path,
    *,
    backend: str,
    treatment: TreatmentOptions | None = None,
    data: DataRequest | None = None,
    say: Callable[[str], None] | None = None,
    options: Sequence[str] = (),
    progress: Callable[[int], Callable[[], None]] | None = None,
) -> Manifest:
    """Write the variant of one profile to the directory ``out``.

    Args:
        source: The model, or one whose weights stay in its files.
        spectrum_path: A spectrum of it.
        profile: One of its profiles.
        out: Directory to make.
        backend: What writes it.
        treatment: What llm-compressor does to the weights first.
        data: Which samples it, or a framework's backend, calibrates on.
        say: Told that llm-compressor is at work.
        options: ``NAME=VALUE`` settings of a framework's backend.
        progress: Given the number of steps of such a backend, returns what is called after each.
    """
    framework = isolated_named(backend)
    if framework is not None:
        data = data or DataRequest()
        return write_variant(
            _for_framework(source, backend, treatment),
            spectrum_path,
            profile,
            out,
            backend=framework,
            options=options,
            splits=data.splits,
            max_length=data.max_length,
            seed=data.seed,
            progress=progress,
        )
    if options:
        raise UserError(f"--backend-option is of frameworks' backends; {backend} has none")
    spectrum = read_artifact(spectrum_path, Spectrum)
    treated = None
    if treatment is not None and treatment.wanted:
        if isinstance(source, LazyModel):
            raise UserError(
                "llm-compressor calibrates on the loaded model: leave out --stream, or --transform "
                "and --algorithm"
            )
        request = _treatment_request(source, treatment, data or DataRequest())
        if say is not None:
            say(f"llm-compressor: {treatment.transform or treatment.algorithm}")
        treated = treat(source, spectrum, profile, request)
    return quantize_profile(
        source,
        spectrum,
        profile,
        out,
        spectrum_sha256=sha256_file(spectrum_path),
        backend_name=backend,
        treated=treated,
    )


def _for_framework(
    source: Loaded | LazyModel, backend: str, treatment: TreatmentOptions | None
) -> Loaded:
    if treatment is not None and treatment.wanted:
        raise UserError(
            f"--transform and --algorithm are of backend compressed-tensors; leave them out for {backend}"
        )
    if isinstance(source, LazyModel):
        raise UserError(
            f"backend {backend} compares with the loaded model: leave out --stream, or use "
            "compressed-tensors"
        )
    return source


def _treatment_request(
    loaded: Loaded, treatment: TreatmentOptions, data: DataRequest
) -> TreatmentRequest:
    splits = data.splits(loaded.takes_images)
    return TreatmentRequest(
        transform=treatment.transform,
        algorithm=treatment.algorithm,
        strength=treatment.strength,
        batches=encode_for(loaded, splits.calibration, batch_size=1, max_length=data.max_length),
        data=(identity(splits.calibration, splits.source, "calibration"),),
    )


def evaluation_session(loaded: Loaded, data: DataRequest) -> EvaluationSession:
    """The samples and prompts of an evaluation, to be shared by all models measured on them."""
    check_evaluable(loaded)
    splits = data.splits(loaded.takes_images)
    prompts = data.prompt_samples(loaded.takes_images) if loaded.generates else []
    identities: tuple[DataIdentity, ...] = (
        identity(splits.evaluation, splits.source, "evaluation"),
    )
    if loaded.generates:
        identities += (identity(prompts, data.prompts or "built-in prompts", "prompts"),)
    return EvaluationSession(samples=splits.evaluation, prompts=prompts, data=identities)


def evaluate(
    loaded: Loaded,
    out: Path,
    *,
    data: DataRequest,
    label: str,
    load_s: float,
    baseline: Path | None = None,
    session: EvaluationSession | None = None,
    measuring: MeasuringRequest | None = None,
) -> Evaluation:
    """Measure a model or variant on the evaluation split and write the record to ``out``.

    Its predictions are kept beside ``out``. A model measured without a ``baseline`` may be one: it
    keeps whole distributions, and its noise floor is measured. With one, its evaluation's path,
    everything is compared with it too.

    Args:
        loaded: The model.
        out: The record to write, ``….json``.
        data: Which samples to use.
        label: Name shown in reports.
        load_s: How long loading took.
        baseline: The baseline's evaluation.
        session: Samples drawn and encoded before, of the same ``data``; drawn anew without.
        measuring: What else is measured, and how.
    """
    check_evaluable(loaded)
    start = time.perf_counter()
    measuring = measuring or MeasuringRequest()
    session = session or evaluation_session(loaded, data)
    request = EvaluationRequest(
        session=session,
        label=label,
        batch_size=data.batch_size,
        max_length=data.max_length,
        max_new_tokens=data.max_new_tokens,
        seed=data.seed,
        baseline=session.baseline(baseline) if baseline is not None else None,
        keep=predictions_path(out),
        latency=measuring.latency(),
        noise=measuring.noise,
        prepare_s=time.perf_counter() - start,
        benchmarks=measuring.benchmarks,
        benchmark_limit=measuring.benchmark_limit,
        benchmark_tasks=measuring.benchmark_tasks,
    )
    evaluation = evaluate_model(loaded, request, load_s=load_s)
    write_artifact(out, evaluation)
    return evaluation
