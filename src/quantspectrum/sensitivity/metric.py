"""What a metric is, and what all of them share.

A metric is a module with a ``NAME``. There are two kinds:

* *measured* metrics (:class:`MeasuredMetric`) compare outputs; the scan replays every op and hands
  each of them the same difference;
* *pass* metrics (:class:`PassMetric`) get all ops' values from a few passes over each batch.

Either kind leaves values per op and sample in the journal and turns them into a score afterwards.
A new metric is one file and one entry in :data:`quantspectrum.sensitivity.METRICS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from quantspectrum.data.encode import Batch
from quantspectrum.models.adapter import Layout
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.sensitivity.outputs import Difference, Reference
from quantspectrum.simulation import OpPlan

__all__ = [
    "NOT_FINITE",
    "MeasuredMetric",
    "PassContext",
    "PassMetric",
    "PerSample",
    "Summary",
    "finite",
    "mean_and_stderr",
    "summary",
]

NOT_FINITE = 1e30
"""Score given to a sample whose perturbed output is not finite."""

PerSample = Mapping[str, Sequence[float]]
"""Named values, one number a sample."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One op's score.

    Attributes:
        values: What each sample says; the score is their mean.
        stderr: Standard error of the score; ``None`` with fewer than two samples.
        raw: The metric's own numbers.
    """

    score: float
    stderr: float | None
    values: tuple[float, ...]
    raw: dict[str, float] = field(default_factory=dict)


class MeasuredMetric(Protocol):
    """A metric of the difference between two outputs."""

    NAME: str

    def reference_values(self, reference: Reference) -> dict[str, Tensor]:
        """Per sample: what the unperturbed output alone says."""
        ...

    def measure(self, difference: Difference) -> dict[str, Tensor]:
        """Per sample: how far a perturbed output is from it."""
        ...

    def summarize(
        self, op: PerSample, everything: PerSample | None, reference: PerSample
    ) -> Summary:
        """Score of one op; ``everything`` is given with base ``fallback``."""
        ...


@dataclass(frozen=True, kw_only=True)
class PassContext:
    """What a pass metric gets to work with.

    Attributes:
        model: The model, unperturbed.
        engine: Runs it and knows its head.
        layout: Where its parts are.
        plans: How each op would be quantized.
        device: Where inputs go.
        seed: Seed of everything random.
        probes: Random probes of a stochastic estimate.
        loss: Loss of logits and batch to use instead of the model's own, where one is used.
    """

    model: nn.Module
    engine: ReplayEngine
    layout: Layout
    plans: Mapping[str, OpPlan]
    device: torch.device
    seed: int
    probes: int = 8
    loss: Callable[[Tensor, Batch], Tensor] | None = None


@runtime_checkable
class PassMetric(Protocol):
    """A metric that gets the values of all ops from passes over each batch."""

    NAME: str

    def collect(
        self, context: PassContext, batch: Batch, index: int
    ) -> dict[str, dict[str, list[float]]]:
        """Values per op of one batch, one number a sample; ops the batch never runs are absent."""
        ...

    def absent(self, samples: int) -> dict[str, list[float]]:
        """Values that count for an op in a batch that never runs it; none when it says nothing."""
        ...

    def score(self, op: PerSample) -> Summary:
        """Score of one op from its values on all batches."""
        ...


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error where there are two values or more."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, math.sqrt(variance / n)


def finite(**raw: float) -> dict[str, float]:
    """The numbers that are: reports hold no others."""
    return {name: number for name, number in raw.items() if math.isfinite(number)}


def summary(
    op: Sequence[float],
    everything: Sequence[float] | None,
    size: Sequence[float],
    *,
    names: tuple[str, str],
) -> Summary:
    """Mean over samples of ``op / size``, or of ``(everything - op) / size``.

    Args:
        op: The measured sum of each sample with the op quantized, or, with ``everything``, with
            all but the op.
        everything: The measured sum with all quantized.
        size: What each sample is divided by; samples of size 0 are left out.
        names: Names of ``op`` and ``size`` among the raw numbers, which hold their sums.
    """
    relative = [_relative(value, s) for value, s in zip(op, size, strict=True) if s > 0]
    raw = {names[0] if everything is None else f"residual_{names[0]}": _total(op)}
    if everything is not None:
        raw[f"total_{names[0]}"] = _total(everything)
        whole = [_relative(value, s) for value, s in zip(everything, size, strict=True) if s > 0]
        relative = [total - rest for total, rest in zip(whole, relative, strict=True)]
    raw[names[1]] = _total(size)
    raw = finite(**raw)
    pairs = zip(op, everything or op, strict=True)
    if lost := sum(not all(map(math.isfinite, pair)) for pair in pairs):
        raw["samples_not_finite"] = float(lost)
    if not relative:
        return Summary(score=0.0, stderr=None, values=(), raw=raw)
    score, stderr = mean_and_stderr(relative)
    return Summary(score=score, stderr=stderr, values=tuple(relative), raw=raw)


def _total(values: Sequence[float]) -> float:
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan


def _relative(value: float, size: float) -> float:
    return value / size if math.isfinite(value) else NOT_FINITE
