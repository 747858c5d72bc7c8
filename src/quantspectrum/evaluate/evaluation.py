"""The evaluation of one model or variant: everything that is measured of it, as a record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quantspectrum.artifacts import (
    Evaluation,
    Manifest,
    NoiseFloor,
    read_artifact,
)
from quantspectrum.backends.serving import serving_arithmetic
from quantspectrum.errors import UserError
from quantspectrum.evaluate.against import against_baseline, noise_floors, prompt_tokens
from quantspectrum.evaluate.benchmarks import run_benchmarks
from quantspectrum.evaluate.classes import why_no_classes
from quantspectrum.evaluate.generation import (
    prompt_results,
)
from quantspectrum.evaluate.latency import LatencyPlan
from quantspectrum.evaluate.outputs import Phases, outputs_of
from quantspectrum.evaluate.predictions import (
    KEEP_BYTES,
    Compared,
    write_predictions,
)
from quantspectrum.evaluate.request import EvaluationRequest
from quantspectrum.evaluate.resources import measure_resources
from quantspectrum.evaluate.runners import check_loaded, run_runners
from quantspectrum.models.loading import Loaded
from quantspectrum.provenance import Stopwatch

__all__ = ["check_evaluable", "evaluate_model"]


def evaluate_model(loaded: Loaded, request: EvaluationRequest, *, load_s: float) -> Evaluation:
    """Measure one model; a variant's activations are quantized as serving engines do it.

    Args:
        loaded: The baseline, or a variant loaded back from its directory.
        request: What to measure it on.
        load_s: How long loading took.

    Raises:
        UserError: The model is of a kind that has no loss, or the baseline was measured on other
            samples.
    """
    check_evaluable(loaded)
    check_loaded(loaded, request.runners)
    watch = Stopwatch(loaded.device)
    manifest = manifest_of(Path(loaded.spec.model))
    with serving_arithmetic(loaded.model):
        return _measure(loaded, request, load_s, watch, manifest)


def check_evaluable(loaded: Loaded) -> None:
    """Make sure that there is a loss to evaluate.

    Raises:
        UserError: The model neither writes text, nor tells masked tokens, nor one class of several.
    """
    others = "`quantspectrum sensitivity`, `spectrum` and `quantize` work for it"
    if loaded.classifies:
        if why := why_no_classes(loaded):
            raise UserError(f"{loaded.spec.model} cannot be evaluated: {why}; {others}")
    elif not loaded.generates and loaded.task != "masked-lm":
        raise UserError(
            f"{loaded.spec.model} is a model for {loaded.task}, and evaluation is supported for "
            f"language models, masked ones included, and classifiers; {others}"
        )


def _measure(
    loaded: Loaded,
    request: EvaluationRequest,
    load_s: float,
    watch: Stopwatch,
    manifest: Manifest | None,
) -> Evaluation:
    phases, base = Phases(), request.baseline
    own = outputs_of(loaded, request, phases, base.predictions if base else None, KEEP_BYTES)
    floors: dict[str, Compared] = {}
    noise: tuple[NoiseFloor, ...] = ()
    with phases.of("noise"):
        if base is None:
            noise, floors = noise_floors(loaded, request, own)
    predictions = own.measured.predictions.with_floors(floors)
    if request.keep is not None:
        with phases.of("write"):
            kept = predictions if base is None else replace(predictions, logits=None)
            write_predictions(request.keep, kept)
    with phases.of("resources"):
        plan = request.latency or _latency_plan(loaded)
        resources = measure_resources(loaded, load_s=load_s, plan=plan)
    with phases.of("runners"):
        runners = run_runners(loaded, request.runners, plan)
    with phases.of("benchmarks"):
        benchmarks = run_benchmarks(
            loaded,
            request.benchmarks,
            limit=request.benchmark_limit,
            batch_size=request.batch_size,
            include=request.benchmark_tasks,
        )
    with phases.of("statistics"):
        against = against_baseline(request, own, base) if base is not None else {}
    before = prompt_tokens(base.evaluation) if base is not None else None
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
        runners=runners,
        predictions=request.keep.name if request.keep is not None else None,
        provenance=watch.provenance(loaded.identity, request.session.data, seed=request.seed),
        phases_s={"load": load_s, "prepare": request.prepare_s} | phases.seconds,
        **against,
    )


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
