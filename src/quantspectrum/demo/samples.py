"""The demo's data: seeded samples of each split, made of scenes, pictures and texts."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from quantspectrum.data.sample import Sample
from quantspectrum.demo.questions import QUESTION_KINDS, ask
from quantspectrum.demo.render import render
from quantspectrum.demo.scenes import Scenes, sample_scenes
from quantspectrum.demo.texts import describe, describe_prompts, to_strings

__all__ = ["SAMPLE_KINDS", "demo_prompts", "demo_samples"]

SAMPLE_KINDS = ("caption", "question", "text", "passage")
"""``caption``: picture, full description. ``question``: picture, short answer. ``text``: a
described scene and a question about it, no picture. ``passage``: plain text, no chat turn."""

_MIXTURE = (
    *("caption", "question", "text", "question"),
    *("caption", "question", "text", "passage"),
)
_PROMPT_SEED = 1
_CHUNK = 256


def demo_samples(
    split: str, count: int, seed: int = 0, *, kinds: Sequence[str] = _MIXTURE
) -> list[Sample]:
    """Samples of a split, one a scene, all scenes different.

    Sample ``i`` has kind ``kinds[i % len(kinds)]``; by default a quarter each of captions and
    text-only questions, three eighths questions about pictures, one eighth plain passages. A
    shorter list is a prefix of a longer one.

    Args:
        split: ``calibration``, ``selection``, ``evaluation`` (or ``train``): disjoint by content.
        count: How many.
        seed: Other seeds give other scenes of the same split.
        kinds: Cycle of ``SAMPLE_KINDS``.

    Raises:
        ValueError: For an unknown split or kind.
    """
    if unknown := set(kinds) - set(SAMPLE_KINDS):
        raise ValueError(f"unknown kind {min(unknown)!r}: choose from {', '.join(SAMPLE_KINDS)}")
    scenes = sample_scenes(split, count, seed)
    samples: list[Sample] = []
    for start in range(0, count, _CHUNK):
        wanted = [kinds[i % len(kinds)] for i in range(start, min(start + _CHUNK, count))]
        part = scenes[start : start + _CHUNK]
        samples += _make(part, wanted, f"{split}/{seed}", start)
    return samples


def demo_prompts() -> list[Sample]:
    """Twelve fixed prompts of the evaluation split: captions, questions and text-only in turn."""
    return demo_samples("evaluation", 12, _PROMPT_SEED, kinds=("caption", "question", "text"))


def _make(scenes: Scenes, kinds: Sequence[str], source: str, start: int) -> list[Sample]:
    """Samples of the given kinds, one for each of ``scenes``."""
    asked = ask(scenes)
    descriptions = to_strings(describe(scenes))
    questions, answers = to_strings(asked.question), to_strings(asked.answer)
    requests = to_strings(describe_prompts(scenes))
    images, identities = render(scenes), scenes.identity().tolist()
    samples = []
    for place, kind in enumerate(kinds):
        name = f"{source}/{start + place:05d}-{kind}"
        prompt, text = questions[place], answers[place]
        if kind == "caption":
            prompt, text = requests[place], descriptions[place]
        elif kind == "question":
            name += f"-{QUESTION_KINDS[int(asked.kind[place])]}"
        else:
            prompt = f"{descriptions[place]} {questions[place]}"
        if kind == "passage":
            text = f"{prompt} {text} ."
        samples.append(
            Sample(
                id=name,
                text=text,
                prompt=None if kind == "passage" else prompt,
                image=_picture(images[place]) if kind in ("caption", "question") else None,
                references=() if kind == "passage" else (text,),
                unit=f"scene-{identities[place]:010x}",
            )
        )
    return samples


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.numpy())
