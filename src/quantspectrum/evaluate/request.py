"""What an evaluation is asked to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantspectrum.evaluate.latency import LatencyPlan
from quantspectrum.evaluate.noise import (
    Noise,
)
from quantspectrum.evaluate.session import Baseline, EvaluationSession

__all__ = ["EvaluationRequest"]


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
        runners: Libraries that time the model with kernels of their own, see
            :data:`quantspectrum.evaluate.runners.RUNNERS`.
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
    runners: tuple[str, ...] = ()
    prepare_s: float = 0.0
