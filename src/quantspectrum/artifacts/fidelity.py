"""How far a model's predictions and answers agree with the baseline's, on the same tokens."""

from __future__ import annotations

from typing import Literal

from quantspectrum.artifacts.base import Record

__all__ = ["Fidelity", "Figure", "Flips", "KlKind", "NoiseFloor", "PromptFidelity", "SampleKind"]

SampleKind = Literal["all", "text", "image+text", "image"]

KlKind = Literal["exact", "lower bound"]
"""Over the whole vocabulary, or over the baseline's likeliest tokens with all others as one."""


class Figure(Record):
    """One statistic with its uncertainty and its noise floor.

    Attributes:
        value: The statistic over all tokens.
        stderr: Standard deviation over bootstrap resamples of whole samples; ``None`` with fewer
            than two samples, and for a maximum, which a bootstrap says nothing of.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        floor: The same statistic of the baseline against itself, in another batch size or dtype;
            of several such runs the one furthest from no difference. ``None`` where none was run.
        differs: For a signed statistic, the interval excludes no difference (0, or a ratio of 1).
            For one without a sign (a divergence, a spread, a share of tokens that stay), the
            interval of its paired excess over each noise floor excludes zero. ``None`` without an
            interval. A statistic without a sign has ``None`` too where no floor was run, as it
            is off no difference whatever is compared.
    """

    value: float
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    differs: bool | None = None


class Fidelity(Record):
    """A model against the baseline over the same target tokens, all or those of one kind of sample.

    ``Δp`` is the change of the probability of the right token, from -1 to 1. Percentiles are of
    tokens, by the inverted distribution function; intervals resample whole samples.

    Attributes:
        kind: Which samples.
        samples: How many.
        tokens: Their target tokens.
        loss: Difference of the mean loss, nats per token.
        perplexity: ``exp`` of the model's mean loss.
        baseline_perplexity: ``exp`` of the baseline's.
        perplexity_ratio: The one over the other, ``exp`` of the loss difference.
        kl_kind: Whether the divergences are exact or lower bounds.
        kl_mean: Mean of KL(baseline ‖ model) per token, nats.
        kl_median: Median of it.
        kl_p99: 99th percentile of it.
        kl_max: Largest; without an interval.
        delta_p_mean: Mean Δp.
        delta_p_rms: Root of the mean square Δp.
        delta_p_percentiles: Percentile (``1``, ``5``, ``25``, ``50``, ``75``, ``95``, ``99``) to
            its Δp.
        same_top: Share of tokens whose likeliest prediction is the baseline's.
    """

    kind: SampleKind
    samples: int
    tokens: int
    loss: Figure
    perplexity: float
    baseline_perplexity: float
    perplexity_ratio: Figure
    kl_kind: KlKind
    kl_mean: Figure
    kl_median: Figure
    kl_p99: Figure
    kl_max: Figure
    delta_p_mean: Figure
    delta_p_rms: Figure
    delta_p_percentiles: dict[str, Figure]
    same_top: Figure


class Flips(Record):
    """Answers of two models to the same questions.

    Attributes:
        compared: Questions with a reference that both answered.
        changed: Answers that are not the same (as exact match compares them), right or wrong.
        lost: The baseline right, the model wrong.
        won: The baseline wrong, the model right.
        p_value: McNemar's exact test that either way is as likely: two-sided binomial.
        accuracy: Change of the share of right answers, with its interval over samples.
        floor_changed: ``changed`` of the baseline against itself, the largest over noise floors.
        floor_flips: ``lost + won`` of it, likewise.
    """

    compared: int
    changed: int
    lost: int
    won: int
    p_value: float
    accuracy: Figure
    floor_changed: int | None = None
    floor_flips: int | None = None


class PromptFidelity(Record):
    """Greedy answers to the prompts against the baseline's.

    Attributes:
        compared: Prompts that both answered.
        changed: Answers with another token somewhere.
        similarity: Mean over prompts of one minus the edit distance over the longer length, in
            tokens.
        floor_changed: ``changed`` of the baseline against itself, the largest over noise floors.
        floor_similarity: ``similarity`` of it, the smallest.
    """

    compared: int
    changed: int
    similarity: float
    floor_changed: int | None = None
    floor_similarity: float | None = None


class NoiseFloor(Record):
    """The baseline against itself, computed another way: what differs here is rounding.

    Attributes:
        name: ``batch size 4``, ``float32``.
        batch_size: Samples a forward pass of this run.
        dtype: Type of its weights.
        fidelity: As of a variant; empty where the run could not be made.
        flips: Its answers against the baseline's, where there are questions with references.
        yes_no: The same of yes/no questions, by logits.
        prompts: Its answers to the prompts.
        skipped: Why the run could not be made.
    """

    name: str
    batch_size: int
    dtype: str
    fidelity: tuple[Fidelity, ...] = ()
    flips: Flips | None = None
    yes_no: Flips | None = None
    prompts: PromptFidelity | None = None
    skipped: str | None = None
