"""The evaluate stage: one model or variant, everything that is measured of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantspectrum.artifacts import (
    Accuracy,
    Evaluation,
    Manifest,
    NoiseFloor,
    YesNo,
    read_artifact,
)
from quantspectrum.backends.serving import serving_arithmetic
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.benchmarks import run_benchmarks
from quantspectrum.evaluate.fidelity import fidelities
from quantspectrum.evaluate.flips import flips_of_answers, flips_of_yes_no, with_floors
from quantspectrum.evaluate.generation import (
    Answer,
    answer,
    asked,
    compare_prompts,
    judge,
    prompt_fidelity,
    prompt_results,
)
from quantspectrum.evaluate.latency import LatencyPlan
from quantspectrum.evaluate.loss import MeasuredLoss, measure_loss
from quantspectrum.evaluate.noise import (
    NOISES,
    Noise,
    in_dtype,
    other_batch_size,
    other_dtype,
    why_not_dtype,
)
from quantspectrum.evaluate.predictions import (
    KEEP_BYTES,
    Compared,
    Predictions,
    paired,
    write_predictions,
)
from quantspectrum.evaluate.resources import measure_resources
from quantspectrum.evaluate.session import Baseline, EvaluationSession
from quantspectrum.evaluate.yes_no import measure_yes_no, yes_no_samples
from quantspectrum.models.loading import Loaded
from quantspectrum.provenance import Stopwatch

__all__ = ["EvaluationRequest", "check_evaluable", "evaluate_model", "manifest_of"]


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to measure a model on.

    Attributes:
        session: Held-out samples (the loss is measured on all of them, exact match on those with
            references) and prompts whose answers are shown; none for a model that writes none.
        label: Name shown in reports.
        batch_size: Samples a forward pass.
        max_length: Longest sample, in tokens; ``None`` is no limit.
        max_new_tokens: Longest answer.
        latency: Batch sizes and lengths timed; ``None`` is a choice by device and kernel.
        seed: Seed the data was drawn with, for the record.
        baseline: What to compare with; ``None`` for the baseline itself.
        noise: How the baseline is run again to know its noise; ``None`` is every way that this
            device has.
        keep: Where to keep this model's predictions, for others to be measured against.
        benchmarks: Tasks of benchmark harnesses, see
            :func:`quantspectrum.evaluate.benchmarks.run_benchmarks`.
        benchmark_limit: Questions of each task at most.
        benchmark_tasks: Folder of task files of the user's own.
        prepare_s: Time that drawing samples and reading the baseline took.
    """

    session: EvaluationSession
    label: str
    batch_size: int = 8
    max_length: int | None = None
    max_new_tokens: int = 48
    latency: LatencyPlan | None = None
    seed: int = 0
    baseline: Baseline | None = None
    noise: tuple[Noise, ...] | None = None
    keep: Path | None = None
    benchmarks: tuple[str, ...] = ()
    benchmark_limit: int | None = None
    benchmark_tasks: str | None = None
    prepare_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Outputs:
    """What a model predicted and answered."""

    measured: MeasuredLoss
    answers: dict[str, Answer]
    accuracy: Accuracy | None
    yes_no: YesNo | None
    prompts: dict[str, Answer]


@dataclass
class _Phases:
    """Where the time goes."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def evaluate_model(loaded: Loaded, request: EvaluationRequest, *, load_s: float) -> Evaluation:
    """Measure one model; a variant's activations are quantized as serving engines do it.

    Args:
        loaded: The baseline, or a variant loaded back from its directory.
        request: What to measure it on.
        load_s: How long loading took.

    Raises:
        UserError: The model is of a kind that has no loss on a text, or the baseline was measured
            on other samples.
    """
    check_evaluable(loaded)
    watch = Stopwatch(loaded.device)
    manifest = manifest_of(Path(loaded.spec.model))
    with serving_arithmetic(loaded.model):
        return _measure(loaded, request, load_s, watch, manifest)


def check_evaluable(loaded: Loaded) -> None:
    """Make sure that there is a loss to evaluate.

    Raises:
        UserError: The model neither writes text nor tells masked tokens.
    """
    if not loaded.generates and loaded.task != "masked-lm":
        raise UserError(
            f"{loaded.spec.model} is a model for {loaded.task}, and evaluation is supported for "
            "language models, masked ones included; `quantspectrum sensitivity`, `spectrum` and "
            "`quantize` work for it"
        )


def _measure(
    loaded: Loaded,
    request: EvaluationRequest,
    load_s: float,
    watch: Stopwatch,
    manifest: Manifest | None,
) -> Evaluation:
    phases, base = _Phases(), request.baseline
    own = _outputs(loaded, request, phases, base.predictions if base else None, KEEP_BYTES)
    floors: dict[str, Compared] = {}
    noise: tuple[NoiseFloor, ...] = ()
    with phases.of("noise"):
        if base is None:
            noise, floors = _noise(loaded, request, own)
    predictions = own.measured.predictions.with_floors(floors)
    if request.keep is not None:
        with phases.of("write"):
            kept = predictions if base is None else replace(predictions, logits=None)
            write_predictions(request.keep, kept)
    with phases.of("resources"):
        plan = request.latency or _latency_plan(loaded)
        resources = measure_resources(loaded, load_s=load_s, plan=plan)
    with phases.of("benchmarks"):
        benchmarks = run_benchmarks(
            loaded,
            request.benchmarks,
            limit=request.benchmark_limit,
            batch_size=request.batch_size,
            include=request.benchmark_tasks,
        )
    with phases.of("statistics"):
        against = _against(request, own, base) if base is not None else {}
    before = _prompt_tokens(base.evaluation) if base is not None else None
    return Evaluation(
        label=request.label,
        profile=manifest.profile.name if manifest is not None else None,
        loss=own.measured.loss,
        accuracy=own.accuracy,
        yes_no=own.yes_no,
        prompts=prompt_results(request.session.prompts, own.prompts, before),
        resources=resources,
        noise=noise,
        benchmarks=benchmarks,
        predictions=request.keep.name if request.keep is not None else None,
        provenance=watch.provenance(loaded.identity, request.session.data, seed=request.seed),
        phases_s={"load": load_s, "prepare": request.prepare_s} | phases.seconds,
        **against,
    )


def _outputs(
    loaded: Loaded,
    request: EvaluationRequest,
    phases: _Phases,
    baseline: Predictions | None,
    keep_bytes: int,
) -> _Outputs:
    session, size = request.session, request.batch_size
    with phases.of("encode"):
        batches = session.scored(loaded, batch_size=size, max_length=request.max_length)
    with phases.of("loss"):
        measured = measure_loss(
            loaded, batches, baseline=baseline, keep_bytes=0 if baseline else keep_bytes
        )
    answers: dict[str, Answer] = {}
    prompts: dict[str, Answer] = {}
    yes_no = None
    if loaded.generates:
        with phases.of("answers"):
            answers = _answer(loaded, request, "judged", asked(session.samples))
        with phases.of("yes_no"):
            questions = session.questions(
                loaded, "yes/no", yes_no_samples(session.samples), batch_size=size
            )
            yes_no = measure_yes_no(loaded, session.samples, questions, answers)
        with phases.of("prompts"):
            prompts = _answer(loaded, request, "prompts", session.prompts)
    return _Outputs(
        measured=measured,
        answers=answers,
        accuracy=judge(session.samples, answers) if loaded.generates else None,
        yes_no=yes_no,
        prompts=prompts,
    )


def _answer(
    loaded: Loaded, request: EvaluationRequest, name: str, samples: Sequence[Sample]
) -> dict[str, Answer]:
    batches = request.session.questions(loaded, name, samples, batch_size=request.batch_size)
    return answer(loaded, batches, max_new_tokens=request.max_new_tokens)


def _noise(
    loaded: Loaded, request: EvaluationRequest, own: _Outputs
) -> tuple[tuple[NoiseFloor, ...], dict[str, Compared]]:
    """The baseline against itself, in every way asked for."""
    found: list[NoiseFloor] = []
    compared: dict[str, Compared] = {}
    for kind in NOISES if request.noise is None else request.noise:
        dtype = next(loaded.model.parameters()).dtype
        batch_size, skipped = request.batch_size, None
        context: AbstractContextManager[None] = nullcontext()
        if kind == "batch":
            batch_size = other_batch_size(batch_size)
            name = f"batch size {batch_size}"
        else:
            skipped = why_not_dtype(loaded, asked=request.noise is not None)
            dtype = other_dtype(loaded)
            name = str(dtype).removeprefix("torch.")
            context = in_dtype(loaded.model, dtype) if skipped is None else context
        about = NoiseFloor(
            name=name,
            batch_size=batch_size,
            dtype=str(dtype).removeprefix("torch."),
            skipped=skipped,
        )
        if skipped is None:
            with context:
                again = _outputs(
                    loaded,
                    replace(request, batch_size=batch_size),
                    _Phases(),
                    own.measured.predictions,
                    0,
                )
            assert again.measured.compared is not None
            compared[name] = again.measured.compared
            about = about.model_copy(update=_floor(request, own, again))
        found.append(about)
    return tuple(found), compared


def _floor(request: EvaluationRequest, own: _Outputs, again: _Outputs) -> dict[str, Any]:
    assert again.measured.compared is not None
    clusters = _clusters(request)
    return {
        "fidelity": fidelities(paired(own.measured.predictions, again.measured.compared)),
        "flips": flips_of_answers(own.accuracy, again.accuracy, clusters),
        "yes_no": flips_of_yes_no(own.yes_no, again.yes_no, clusters),
        "prompts": compare_prompts(_tokens(own.prompts), _tokens(again.prompts)),
    }


def _against(request: EvaluationRequest, own: _Outputs, base: Baseline) -> dict[str, Any]:
    """Fields of a record that compare with the baseline."""
    assert own.measured.compared is not None
    clusters, noise = _clusters(request), base.evaluation.noise
    floors = [paired(base.predictions, floor) for floor in base.predictions.floors.values()]
    return {
        "fidelity": fidelities(paired(base.predictions, own.measured.compared), floors),
        "flips": with_floors(
            flips_of_answers(base.evaluation.accuracy, own.accuracy, clusters),
            [floor.flips for floor in noise],
        ),
        "yes_no_flips": with_floors(
            flips_of_yes_no(base.evaluation.yes_no, own.yes_no, clusters),
            [floor.yes_no for floor in noise],
        ),
        "prompt_fidelity": prompt_fidelity(
            _prompt_tokens(base.evaluation),
            _tokens(own.prompts),
            [floor.prompts for floor in noise if floor.prompts is not None],
        ),
    }


def _clusters(request: EvaluationRequest) -> dict[str, str]:
    return {sample.id: sample.unit or sample.id for sample in request.session.samples}


def _tokens(answers: Mapping[str, Answer]) -> dict[str, tuple[int, ...]]:
    return {key: one.tokens for key, one in answers.items()}


def _prompt_tokens(evaluation: Evaluation) -> dict[str, tuple[int, ...]]:
    return {one.id: one.tokens for one in evaluation.prompts if one.tokens is not None}


def _latency_plan(loaded: Loaded) -> LatencyPlan:
    """Several sizes on a GPU; one where times are long, or say nothing of the real kernels."""
    emulated = any(hasattr(module, "quantization_scheme") for module in loaded.model.modules())
    if loaded.device.type == "cuda" and not emulated:
        return LatencyPlan(batch_sizes=(1, 8), prompt_tokens=(128, 512))
    if loaded.device.type == "cuda":
        return LatencyPlan(new_tokens=8, repeats=2)
    return LatencyPlan()


def manifest_of(directory: Path) -> Manifest | None:
    """The manifest of a variant's directory; ``None`` for any other model."""
    path = directory / "manifest.json"
    return read_artifact(path, Manifest) if path.is_file() else None
