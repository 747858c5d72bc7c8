"""Yes/no questions, such as POPE's: scored by the next token's logits and by the written answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from quantspectrum.artifacts import YesNo, YesNoScore
from quantspectrum.data.encode import Batch
from quantspectrum.data.sample import Sample
from quantspectrum.evaluate.generation import Answer, normalize, tokenizer_of
from quantspectrum.evaluate.statistics import ratio_with_stderr
from quantspectrum.models.loading import Loaded

__all__ = ["measure_yes_no", "said", "score", "truth_of", "yes_no_samples"]

YesOrNo = Literal["yes", "no"]

_SPELLINGS: tuple[Callable[[str], str], ...] = (str.lower, str.capitalize, str.upper)
_WORD = re.compile(r"[^\W\d_]+")


def truth_of(sample: Sample) -> YesOrNo | None:
    """The right answer of a yes/no question; ``None`` for any other sample."""
    right = {normalize(reference) for reference in sample.references}
    if sample.prompt is None or len(right) != 1:
        return None
    return _yes_or_no(right.pop())


def yes_no_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Those of the samples that are yes/no questions."""
    return [sample for sample in samples if truth_of(sample) is not None]


def said(text: str) -> YesOrNo | None:
    """The first ``yes`` or ``no`` among the words of an answer, in any case."""
    words = (_yes_or_no(word.casefold()) for word in _WORD.findall(text))
    return next((word for word in words if word is not None), None)


def _yes_or_no(word: str) -> YesOrNo | None:
    return "yes" if word == "yes" else "no" if word == "no" else None


def measure_yes_no(
    loaded: Loaded,
    samples: Sequence[Sample],
    batches: Sequence[Batch],
    answers: Mapping[str, Answer],
) -> YesNo | None:
    """Score the yes/no questions among the samples; ``None`` where there are none.

    Args:
        loaded: A model that writes text.
        samples: All samples.
        batches: The prompts of the yes/no questions.
        answers: Greedy answers, by sample id.
    """
    questions = sorted(yes_no_samples(samples), key=lambda sample: sample.id)
    if not questions:
        return None
    truth = {sample.id: right for sample in questions if (right := truth_of(sample)) is not None}
    margins = _margins(loaded, batches)
    clusters = {sample.id: sample.unit or sample.id for sample in questions}
    by_logits: dict[str, YesOrNo | None] = {
        key: None if not margins.get(key) else "yes" if margins[key] > 0 else "no" for key in truth
    }
    return YesNo(
        questions=len(truth),
        truth=truth,
        by_logits=score(truth, by_logits, clusters),
        by_answer=score(truth, {key: said(answers[key].text) for key in truth}, clusters),
        margins={key: margins[key] for key in truth if key in margins},
    )


def score(
    truth: Mapping[str, YesOrNo],
    answers: Mapping[str, YesOrNo | None],
    clusters: Mapping[str, str],
) -> YesNoScore:
    """Accuracy, precision, recall and F1 of ``yes``, and how often it is said.

    The standard error is that of a ratio over ``clusters``: question to what it shares with
    others, as its picture.
    """
    right = {key: answers[key] == truth[key] for key in truth}
    hits = sum(right[key] for key in truth if answers[key] == "yes")
    claimed = sum(answers[key] == "yes" for key in truth)
    actual = sum(value == "yes" for value in truth.values())
    sums: dict[str, list[int]] = {}
    for key in truth:
        one = sums.setdefault(clusters[key], [0, 0])
        one[0] += right[key]
        one[1] += 1
    accuracy, stderr = ratio_with_stderr(
        [one[0] for one in sums.values()], [one[1] for one in sums.values()]
    )
    return YesNoScore(
        accuracy=accuracy,
        stderr=stderr,
        precision=hits / claimed if claimed else None,
        recall=hits / actual if actual else None,
        f1=2 * hits / (claimed + actual) if claimed and actual else None,
        yes_rate=claimed / len(truth),
        undecided=sum(answers[key] is None for key in truth),
        answers=dict(answers),
    )


@torch.inference_mode()
def _margins(loaded: Loaded, batches: Sequence[Batch]) -> dict[str, float]:
    """``log p(yes) - log p(no)`` right after each prompt; nothing where no token says either."""
    tokenizer = tokenizer_of(loaded)
    yes, no = (_token_ids(tokenizer, word) for word in ("yes", "no"))
    yes_ids, no_ids = sorted(yes - no), sorted(no - yes)
    found: dict[str, float] = {}
    if not yes_ids or not no_ids:
        return found  # A vocabulary that cannot say one of them decides nothing.
    for batch in batches:
        logits = _next_logits(loaded, batch, tokenizer).float()
        margin = logits[:, yes_ids].logsumexp(-1) - logits[:, no_ids].logsumexp(-1)
        found.update(zip(batch.sample_ids, margin.double().cpu().tolist(), strict=True))
    return found


def _next_logits(loaded: Loaded, batch: Batch, tokenizer: Any) -> Tensor:
    """Logits of the token after each prompt; ``generate`` knows the positions of padded rows."""
    generate: Callable[..., Any] = loaded.model.generate  # type: ignore[assignment]
    out = generate(
        **batch.to(loaded.device).inputs,
        max_new_tokens=1,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
    )
    logits: Tensor = out.logits[0]
    return logits


def _token_ids(tokenizer: Any, word: str) -> set[int]:
    """First tokens of a word's spellings, preferring spellings that are one token."""
    encoded = [
        tokenizer(space + spell(word), add_special_tokens=False)["input_ids"]
        for spell in _SPELLINGS
        for space in ("", " ")
    ]
    unknown = tokenizer.unk_token_id
    known = [ids for ids in encoded if ids and unknown not in ids]
    single = [ids for ids in known if len(ids) == 1]
    return {ids[0] for ids in single or known}
