"""One variant against the baseline, sample by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from quantspectrum.artifacts import Evaluation, PromptResult, Record, SampleLoss
from quantspectrum.errors import UserError
from quantspectrum.statistics import Estimate, paired_ratio

__all__ = [
    "AccuracyDifference",
    "Divergence",
    "LossDifference",
    "PromptChanges",
    "check_same_samples",
    "compare_accuracy",
    "compare_kinds",
    "compare_loss",
    "compare_prompts",
    "divergence_of",
]


class _Paired(Record):
    """Variant minus baseline over the same samples; fields as in ``statistics.Estimate``."""

    n: int
    value: float
    stderr: float | None
    low: float | None
    high: float | None
    differs: bool


class LossDifference(_Paired):
    """Difference of the loss per target token, in nats.

    ``value = sum(nll_variant - nll_baseline) / sum(tokens)``. Its standard error is clustered by
    sample and linearised (:func:`quantspectrum.statistics.paired_ratio`); ``low`` to
    ``high`` is the 95 % interval by Student's t; ``differs`` says that it excludes zero.

    Attributes:
        baseline: The baseline's loss over these samples, ``sum(nll) / sum(tokens)``.
        tokens: Target tokens behind it.
    """

    baseline: float
    tokens: int


class Divergence(_Paired):
    """KL divergence from the baseline's predictions, in nats per target token.

    ``value = sum(kl) / sum(tokens)``; error and interval as for the loss. ``differs`` says that
    the interval excludes zero.

    Attributes:
        same_top: Share of target tokens whose likeliest prediction is the baseline's.
    """

    same_top: float


class AccuracyDifference(_Paired):
    """Difference of the share of right answers, from -1 to 1; error and interval as for the loss.

    Attributes:
        lost: Answers the baseline had right and the variant wrong.
        won: Answers the baseline had wrong and the variant right.
    """

    lost: int
    won: int


class PromptChanges(Record):
    """Prompts that both answered, and how many of the answers differ in any character."""

    compared: int
    changed: int


def check_same_samples(baseline: Evaluation, variant: Evaluation, names: tuple[str, str]) -> None:
    """Refuse a comparison of evaluations that did not see the same samples.

    Args:
        baseline: Evaluation of the baseline.
        variant: Evaluation of the variant.
        names: The two files, for the error.

    Raises:
        UserError: Sample ids, token counts, kinds, data hashes or the ids of the judged answers
            differ, or an id occurs twice.
    """
    where = f"{names[0]} and {names[1]}"
    remedy = "evaluate both again on the same data"
    for evaluation, name in ((baseline, names[0]), (variant, names[1])):
        for key, count in Counter(sample.id for sample in evaluation.loss.samples).items():
            if count > 1:
                raise UserError(f"{name} has sample {key!r} {count} times; evaluate it again")
    ours, theirs = _by_id(baseline), _by_id(variant)
    _same_keys(ours, theirs, f"{where} were made on different samples", remedy)
    for key, sample in ours.items():
        other = theirs[key]
        if (sample.tokens, sample.kind) != (other.tokens, other.kind):
            raise UserError(
                f"{where} were made on different samples: {key!r} has {sample.tokens} tokens of "
                f"{sample.kind} in one and {other.tokens} of {other.kind} in the other; {remedy}"
            )
    hashes = [
        {data.sha256 for data in evaluation.provenance.data if data.split == "evaluation"}
        for evaluation in (baseline, variant)
    ]
    if hashes[0] and hashes[1] and hashes[0] != hashes[1]:
        raise UserError(f"{where} name different evaluation data (by hash); {remedy}")
    if baseline.accuracy is not None and variant.accuracy is not None:
        said = f"{where} judge the answers to different samples"
        _same_keys(baseline.accuracy.correct, variant.accuracy.correct, said, remedy)


def compare_loss(baseline: Evaluation, variant: Evaluation) -> LossDifference | None:
    """Loss difference over all samples; ``None`` where there is no token to measure it on."""
    return _loss_difference(baseline.loss.samples, _by_id(variant))


def compare_kinds(baseline: Evaluation, variant: Evaluation) -> dict[str, LossDifference]:
    """Loss difference for each kind of sample (``text``, ``image+text``), by name of the kind."""
    theirs = _by_id(variant)
    found: dict[str, LossDifference] = {}
    for kind in sorted({sample.kind for sample in baseline.loss.samples}):
        own = [sample for sample in baseline.loss.samples if sample.kind == kind]
        difference = _loss_difference(own, theirs)
        if difference is not None:
            found[kind] = difference
    return found


def divergence_of(variant: Evaluation) -> Divergence | None:
    """KL divergence over all samples; ``None`` where it was not measured."""
    measured = [
        (sample.kl, sample.same_top, sample.tokens)
        for sample in variant.loss.samples
        if sample.kl is not None and sample.same_top is not None
    ]
    tokens = sum(count for _, _, count in measured)
    if len(measured) < len(variant.loss.samples) or tokens == 0:
        return None
    estimate = paired_ratio([kl for kl, _, _ in measured], [count for _, _, count in measured])
    same = sum(count for _, count, _ in measured) / tokens
    return Divergence(same_top=same, **_fields(estimate))


def compare_accuracy(baseline: Evaluation, variant: Evaluation) -> AccuracyDifference | None:
    """Accuracy difference over the judged answers; ``None`` where either has none."""
    if baseline.accuracy is None or variant.accuracy is None or not baseline.accuracy.correct:
        return None
    before, after = baseline.accuracy.correct, variant.accuracy.correct
    steps = [int(after[key]) - int(before[key]) for key in before]
    estimate = paired_ratio(steps, [1] * len(steps))
    return AccuracyDifference(lost=steps.count(-1), won=steps.count(1), **_fields(estimate))


def compare_prompts(baseline: Evaluation, variant: Evaluation) -> PromptChanges | None:
    """Changed answers among the prompts that are the same in both; ``None`` where none is."""
    ours = {_question(prompt): prompt.output for prompt in baseline.prompts}
    pairs = [
        (ours[_question(prompt)], prompt.output)
        for prompt in variant.prompts
        if _question(prompt) in ours
    ]
    if not pairs:
        return None
    return PromptChanges(compared=len(pairs), changed=sum(a != b for a, b in pairs))


def _question(prompt: PromptResult) -> tuple[str, str, str | None]:
    return prompt.id, prompt.prompt, prompt.image


def _by_id(evaluation: Evaluation) -> dict[str, SampleLoss]:
    return {sample.id: sample for sample in evaluation.loss.samples}


def _same_keys(a: Mapping[str, object], b: Mapping[str, object], said: str, remedy: str) -> None:
    only = sorted(set(a) ^ set(b))
    if only:
        raise UserError(
            f"{said} ({len(a)} and {len(b)}; {only[0]!r} is in one of them only); {remedy}"
        )


def _loss_difference(
    ours: Iterable[SampleLoss], theirs: Mapping[str, SampleLoss]
) -> LossDifference | None:
    own = list(ours)
    tokens = sum(sample.tokens for sample in own)
    if tokens == 0:
        return None
    estimate = paired_ratio(
        [theirs[sample.id].nll - sample.nll for sample in own], [sample.tokens for sample in own]
    )
    loss = sum(sample.nll for sample in own) / tokens
    return LossDifference(baseline=loss, tokens=tokens, **_fields(estimate))


def _fields(estimate: Estimate) -> dict[str, float]:
    return vars(estimate).copy()
