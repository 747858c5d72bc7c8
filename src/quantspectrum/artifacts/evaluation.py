"""What was measured of a variant."""

from __future__ import annotations

from typing import ClassVar, Literal

from quantspectrum.artifacts.base import Artifact, Provenance, Record

__all__ = [
    "Accuracy",
    "DecodeLatency",
    "Evaluation",
    "Loss",
    "PromptResult",
    "Resources",
    "SampleLoss",
]


class SampleLoss(Record):
    """Sums over one sample's target tokens.

    Attributes:
        nll: Negative log-likelihood, in nats.
        kl: KL divergence from the baseline's predictions, in nats; ``None`` for the baseline.
        same_top: Tokens at which the likeliest next token is the baseline's.
    """

    id: str
    kind: Literal["text", "image+text"]
    nll: float
    tokens: int
    kl: float | None = None
    same_top: int | None = None


class Loss(Record):
    """Mean loss per target token, in nats, with its standard error clustered by sample."""

    loss: float
    stderr: float | None
    tokens: int
    samples: tuple[SampleLoss, ...]


class Accuracy(Record):
    """Share of generated answers equal to a reference, with its standard error.

    Attributes:
        correct: Sample id to whether its answer was right.
    """

    exact: float
    stderr: float | None
    correct: dict[str, bool]


class PromptResult(Record):
    """A prompt, what the model answered (greedy), and the picture shown, as a small data URI."""

    id: str
    prompt: str
    output: str
    reference: str | None = None
    image: str | None = None


class DecodeLatency(Record):
    """Median times over repeats after a warm-up: prefill in ms, then ms per generated token."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    prefill_ms: float
    per_token_ms: float


class Resources(Record):
    """What running a variant takes.

    Attributes:
        disk_bytes: Size of the weight files.
        load_s: Time to load it.
        kernel: What really multiplied: ``native`` high precision, or ``emulated`` INT8, whose
            times say nothing of INT8 on a serving engine.
        latency: One entry per batch size.
    """

    disk_bytes: int
    load_s: float
    kernel: Literal["native", "emulated"]
    latency: tuple[DecodeLatency, ...]


class Evaluation(Artifact):
    """What was measured of one variant, or of the baseline."""

    KIND: ClassVar[str] = "evaluation"
    kind: Literal["evaluation"] = "evaluation"
    label: str
    profile: str | None
    provenance: Provenance
    loss: Loss
    accuracy: Accuracy | None
    prompts: tuple[PromptResult, ...]
    resources: Resources
