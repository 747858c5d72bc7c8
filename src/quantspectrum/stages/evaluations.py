"""The stage ``evaluate``: from a model or variant to what is measured of it."""

from __future__ import annotations

import time
from pathlib import Path

from quantspectrum.artifacts import (
    DataIdentity,
    Evaluation,
    write_artifact,
)
from quantspectrum.data.splits import identity
from quantspectrum.evaluate.evaluation import check_evaluable, evaluate_model
from quantspectrum.evaluate.request import EvaluationRequest
from quantspectrum.evaluate.session import EvaluationSession, predictions_path
from quantspectrum.models.loading import Loaded
from quantspectrum.stages.requests import (
    DataRequest,
    MeasuringRequest,
)

__all__ = ["evaluate", "evaluation_session"]


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
        runners=measuring.runners,
    )
    evaluation = evaluate_model(loaded, request, load_s=load_s)
    write_artifact(out, evaluation)
    return evaluation
