"""Greedy answers: exact match where references exist, and prompts shown side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from quantspectrum.artifacts import Accuracy, PromptResult
from quantspectrum.data.encode import encode_prompts
from quantspectrum.data.images import load_image
from quantspectrum.data.sample import Sample
from quantspectrum.evaluate.statistics import mean_with_stderr
from quantspectrum.models.loading import Loaded

__all__ = ["answer", "measure_accuracy", "normalize", "run_prompts", "thumbnail"]

_THUMBNAIL_PIXELS = 224


@torch.inference_mode()
def answer(
    loaded: Loaded, samples: Sequence[Sample], *, batch_size: int, max_new_tokens: int
) -> dict[str, str]:
    """Greedy answers by sample id, decoded without special tokens."""
    tokenizer: Any = (
        loaded.processor
        if isinstance(loaded.processor, PreTrainedTokenizerBase)
        else loaded.processor.tokenizer
    )
    answers: dict[str, str] = {}
    for batch in encode_prompts(samples, loaded.processor, batch_size=batch_size):
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
        answers.update(zip(batch.sample_ids, (text.strip() for text in texts), strict=True))
    return answers


def normalize(text: str) -> str:
    """What exact match compares: case, surrounding space and a final full stop do not count."""
    return " ".join(text.split()).rstrip(".").rstrip().casefold()


def measure_accuracy(
    loaded: Loaded, samples: Sequence[Sample], *, batch_size: int, max_new_tokens: int
) -> Accuracy | None:
    """Share of samples with references whose greedy answer equals one; ``None`` without any."""
    asked = [sample for sample in samples if sample.references and sample.prompt is not None]
    if not asked:
        return None
    answers = answer(loaded, asked, batch_size=batch_size, max_new_tokens=max_new_tokens)
    correct = {
        sample.id: normalize(answers[sample.id]) in {normalize(r) for r in sample.references}
        for sample in sorted(asked, key=lambda sample: sample.id)
    }
    exact, stderr = mean_with_stderr([float(right) for right in correct.values()])
    return Accuracy(exact=exact, stderr=stderr, correct=correct)


def run_prompts(
    loaded: Loaded, prompts: Sequence[Sample], *, max_new_tokens: int
) -> tuple[PromptResult, ...]:
    """Answer each prompt on its own, so that no other one's padding touches it."""
    answers = answer(loaded, prompts, batch_size=1, max_new_tokens=max_new_tokens)
    return tuple(
        PromptResult(
            id=prompt.id,
            prompt=prompt.prompt or "",
            output=answers[prompt.id],
            reference=prompt.references[0] if prompt.references else None,
            image=thumbnail(prompt.image, prompt.id) if prompt.image is not None else None,
        )
        for prompt in prompts
    )


def thumbnail(image: Path | Image.Image, where: str) -> str:
    """A small PNG of the picture as a data URI; ``where`` names the sample in errors."""
    small = load_image(image, where)
    small.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
