"""Prompts whose answers are shown side by side: a built-in set, or the user's own."""

from __future__ import annotations

from pathlib import Path

from PIL.Image import Image

from quantspectrum.data.jsonl import read_rows
from quantspectrum.data.pictures import disc, gradient, squares
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError

__all__ = ["load_prompts"]

_TEXT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the capital of France? Answer with one word.", ("Paris",)),
    ("What is 17 + 25? Answer with the number alone.", ("42",)),
    ("Which planet is closest to the sun? Answer with one word.", ("Mercury",)),
    ("Explain in two sentences why the sky is blue.", ()),
    ("Write a Python function that returns the n-th Fibonacci number.", ()),
    ("Translate into German: The train leaves at seven in the morning.", ()),
)


def load_prompts(path: Path | None, *, images: bool) -> list[Sample]:
    """Return prompts to generate from.

    Args:
        path: A JSONL file whose lines have ``prompt`` (or ``question``) and may have ``image`` and
            ``references``, see `load_jsonl`; ``None`` means the built-in prompts.
        images: Whether the model takes pictures; without, the built-in set is text alone.

    Raises:
        UserError: The file is wrong, or shows a picture to a model that takes none.
    """
    if path is None:
        return _built_in(images)
    samples = read_rows(path, None, target=False)
    shown = next((sample for sample in samples if sample.image is not None), None)
    if shown is not None and not images:
        raise UserError(
            f"{path}: prompt {shown.id} has an image, but this model takes text alone; remove the "
            "prompts with images"
        )
    return samples


def _built_in(images: bool) -> list[Sample]:
    red, blue, black = (220, 20, 30), (20, 60, 200), (0, 0, 0)
    asked: list[tuple[str, tuple[str, ...], Image | None]] = [
        *((prompt, references, None) for prompt, references in _TEXT),
        ("What color is the disc? Answer with one word.", ("Red",), disc(168, red)),
        ("How many squares are there? Answer with a number.", ("3",), squares(168, 3, blue)),
        ("Is there a circle in this image? Answer yes or no.", ("Yes",), disc(168, black)),
        ("Describe this image.", (), gradient(224, 168)),
    ]
    return [
        Sample(
            id=f"prompt:{number}",
            prompt=prompt,
            text=references[0] if references else "",
            references=references,
            image=picture,
        )
        for number, (prompt, references, picture) in enumerate(asked)
        if images or picture is None
    ]
