"""Greedy answers of a model to samples, through its real processor and ``generate``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from quantspectrum.data.sample import Sample

__all__ = ["exact_matches", "generate_answers", "wilson_interval"]

MAX_NEW_TOKENS = 48


def generate_answers(
    model: Any, processor: Any, samples: Sequence[Sample], batch_size: int = 64
) -> list[str]:
    """The model's greedy answer to each sample's prompt, special tokens removed.

    Samples with and without a picture may be mixed; each batch holds one sort.
    """
    answers = [""] * len(samples)
    for with_image in (True, False):
        places = [i for i, s in enumerate(samples) if (s.image is not None) == with_image]
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            texts = _answer_batch(model, processor, [samples[i] for i in part])
            for place, text in zip(part, texts, strict=True):
                answers[place] = text
    return answers


def _answer_batch(model: Any, processor: Any, samples: Sequence[Sample]) -> list[str]:
    """Answers of samples that all have a picture, or none of which has one."""
    chats = []
    for sample in samples:
        content = [{"type": "text", "text": sample.prompt}]
        if sample.image is not None:
            content.insert(0, {"type": "image"})
        chats.append([{"role": "user", "content": content}])
    texts = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    images = [sample.image for sample in samples if sample.image is not None]
    inputs = processor(text=texts, images=images or None, padding=True, return_tensors="pt")
    inputs = inputs.to(model.device)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :]
    return [str(text) for text in processor.batch_decode(new, skip_special_tokens=True)]


def exact_matches(samples: Sequence[Sample], answers: Sequence[str]) -> list[bool]:
    """Whether each answer is one of its sample's references."""
    return [answer in s.references for s, answer in zip(samples, answers, strict=True)]


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of the proportion ``right / n``."""
    z = 1.959963984540054
    rate, spread = right / n, z * z / n
    center = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(rate * (1 - rate) / n + spread / (4 * n))
    return center - half, center + half
