"""Greedy answers: exact match where references exist, and prompts shown side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from quantspectrum.artifacts import Accuracy, PromptFidelity, PromptResult
from quantspectrum.data.encode import Batch
from quantspectrum.data.images import load_image
from quantspectrum.data.sample import Sample
from quantspectrum.evaluate.statistics import edit_distance, mean_with_stderr
from quantspectrum.models.loading import Loaded

__all__ = [
    "Answer",
    "answer",
    "asked",
    "compare_prompts",
    "judge",
    "normalize",
    "prompt_fidelity",
    "prompt_results",
    "thumbnail",
    "tokenizer_of",
]

_THUMBNAIL_PIXELS = 224


@dataclass(frozen=True)
class Answer:
    """A greedy answer without special tokens, and its tokens up to the end of the turn."""

    text: str
    tokens: tuple[int, ...]


def tokenizer_of(loaded: Loaded) -> Any:
    """The tokenizer inside a model's processor."""
    if isinstance(loaded.processor, PreTrainedTokenizerBase):
        return loaded.processor
    return getattr(loaded.processor, "tokenizer", None)


@torch.inference_mode()
def answer(loaded: Loaded, batches: Sequence[Batch], *, max_new_tokens: int) -> dict[str, Answer]:
    """Greedy answers by sample id.

    Args:
        loaded: A model that writes text.
        batches: Prompts, see :func:`quantspectrum.data.encode.encode_prompts`.
        max_new_tokens: Longest answer.
    """
    tokenizer = tokenizer_of(loaded)
    answers: dict[str, Answer] = {}
    for batch in batches:
        # Looked up here: a model that writes no text has none, and no prompts either.
        generate: Callable[..., torch.Tensor] = loaded.model.generate  # type: ignore[assignment]
        inputs = batch.to(loaded.device).inputs
        tokens = generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )
        new = tokens[:, inputs["input_ids"].shape[1] :].cpu()
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        ends = _ends(loaded)
        for sample, text, row in zip(batch.sample_ids, texts, new.tolist(), strict=True):
            answers[sample] = Answer(text.strip(), _until(row, ends))
    return answers


def _ends(loaded: Loaded) -> set[int]:
    ends = getattr(loaded.model.generation_config, "eos_token_id", None)
    return set(ends if isinstance(ends, list) else [ends]) - {None}


def _until(tokens: Sequence[int], ends: set[int]) -> tuple[int, ...]:
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tuple(tokens[:stop])


def normalize(text: str) -> str:
    """What exact match compares: case, surrounding space and a final full stop do not count."""
    return " ".join(text.split()).rstrip(".").rstrip().casefold()


def asked(samples: Sequence[Sample]) -> list[Sample]:
    """Samples whose answers can be judged."""
    return [sample for sample in samples if sample.references and sample.prompt is not None]


def judge(samples: Sequence[Sample], answers: Mapping[str, Answer]) -> Accuracy | None:
    """Share of samples with references whose greedy answer equals one; ``None`` without any."""
    judged = sorted(asked(samples), key=lambda sample: sample.id)
    if not judged:
        return None
    said = {sample.id: normalize(answers[sample.id].text) for sample in judged}
    correct = {
        sample.id: said[sample.id] in {normalize(r) for r in sample.references} for sample in judged
    }
    exact, stderr = mean_with_stderr([float(right) for right in correct.values()])
    return Accuracy(exact=exact, stderr=stderr, correct=correct, answers=said)


def prompt_results(
    prompts: Sequence[Sample],
    answers: Mapping[str, Answer],
    baseline: Mapping[str, Sequence[int]] | None,
) -> tuple[PromptResult, ...]:
    """Prompts with their answers, each against the baseline's tokens where there are any."""
    results = []
    for prompt in prompts:
        tokens = answers[prompt.id].tokens
        before = None if baseline is None else baseline.get(prompt.id)
        results.append(
            PromptResult(
                id=prompt.id,
                prompt=prompt.prompt or "",
                output=answers[prompt.id].text,
                reference=prompt.references[0] if prompt.references else None,
                image=thumbnail(prompt.image, prompt.id) if prompt.image is not None else None,
                tokens=tokens,
                departs_at=None if before is None else _departure(before, tokens),
                similarity=None if before is None else _similarity(before, tokens),
            )
        )
    return tuple(results)


def _departure(before: Sequence[int], after: Sequence[int]) -> int | None:
    """Place of the first token that differs; where one is the start of the other, its length."""
    for place, (a, b) in enumerate(zip(before, after, strict=False)):
        if a != b:
            return place
    return None if len(before) == len(after) else min(len(before), len(after))


def _similarity(before: Sequence[int], after: Sequence[int]) -> float:
    longest = max(len(before), len(after))
    return 1.0 if longest == 0 else 1 - edit_distance(before, after) / longest


def compare_prompts(
    baseline: Mapping[str, Sequence[int]], answers: Mapping[str, Sequence[int]]
) -> PromptFidelity | None:
    """How far answers to prompts are the baseline's; ``None`` where both answered none."""
    pairs = [(baseline[key], tokens) for key, tokens in answers.items() if key in baseline]
    if not pairs:
        return None
    return PromptFidelity(
        compared=len(pairs),
        changed=sum(tuple(a) != tuple(b) for a, b in pairs),
        similarity=sum(_similarity(a, b) for a, b in pairs) / len(pairs),
    )


def prompt_fidelity(
    baseline: Mapping[str, Sequence[int]],
    answers: Mapping[str, Sequence[int]],
    floors: Sequence[PromptFidelity],
) -> PromptFidelity | None:
    """The same with the noise floors beside it."""
    found = compare_prompts(baseline, answers)
    if found is None or not floors:
        return found
    return found.model_copy(
        update={
            "floor_changed": max(floor.changed for floor in floors),
            "floor_similarity": min(floor.similarity for floor in floors),
        }
    )


def thumbnail(image: Path | Image.Image, where: str) -> str:
    """A small PNG of the picture as a data URI; ``where`` names the sample in errors."""
    small = load_image(image, where)
    small.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
