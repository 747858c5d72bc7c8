"""Yes/no questions about pictures, in POPE's format or in one list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantspectrum.data.files import checked_text, parse_json, read_text
from quantspectrum.data.images import find_image, verify_image
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError

__all__ = ["SHORT_ANSWER", "load_pope"]

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""Follows every question, as in lmms-eval's task ``pope``."""

_NAMES = {
    "question": ("question", "text"),
    "answer": ("answer", "label"),
    "file": ("file", "image"),
}
"""What an entry tells, and the keys it may have it under: this project's, and POPE's own."""


def load_pope(where: str, images: Path | None) -> list[Sample]:
    """Return one sample per question; all questions about one picture share a unit.

    The file is a JSON list of objects, or one object a line. An object has ``question`` (POPE:
    ``text``), ``answer`` (POPE: ``label``), ``yes`` or ``no``, and ``file`` (POPE: ``image``), a
    picture beside the file or in the image folder; it may have ``set`` and ``image_id``, by which
    pictures of COCO are known as those of `load_coco`. Source: Li et al., *Evaluating Object
    Hallucination in Large Vision-Language Models*, EMNLP 2023.

    Raises:
        UserError: The file is not such a list, or a picture is missing or is not a picture.
    """
    path = Path(where)
    samples: list[Sample] = []
    verified: set[Path] = set()
    for spot, entry in _entries(path):
        told = {
            name: checked_text(_either(entry, keys, spot), name, spot)
            for name, keys in _NAMES.items()
        }
        answer = told["answer"].casefold().rstrip(".")
        if answer not in ("yes", "no"):
            raise UserError(f"{spot}: the answer is {told['answer']!r}; make it yes or no")
        image = find_image(told["file"], path.parent, images, spot)
        if image not in verified:
            verify_image(image, spot)
            verified.add(image)
        identity = entry.get("image_id")
        samples.append(
            Sample(
                id=f"{path.name}:{entry.get('set') or 'pope'}:{len(samples)}",
                prompt=f"{told['question']}\n{SHORT_ANSWER}",
                text=answer.capitalize(),
                references=(answer,),
                image=image,
                unit=f"image:{image}" if identity is None else f"coco:{identity}",
            )
        )
    if not samples:
        raise UserError(f"{path} holds no questions; give a list of yes/no questions")
    return samples


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_text(path)
    rows: object
    if text.lstrip().startswith("["):
        rows = parse_json(text, str(path))
        assert isinstance(rows, list), "what starts with a bracket and parses is a list"
        named = [(f"{path}: [{number}]", row) for number, row in enumerate(rows)]
    else:
        lines = enumerate(text.split("\n"), start=1)
        named = [
            (f"{path}:{n}", parse_json(line, f"{path}:{n}")) for n, line in lines if line.strip()
        ]
    for spot, row in named:
        if not isinstance(row, dict):
            raise UserError(f"{spot} is not a JSON object; give one object a question")
        yield spot, row


def _either(entry: dict[str, Any], keys: tuple[str, ...], spot: str) -> Any:
    given = [entry[key] for key in keys if entry.get(key) is not None]
    if not given:
        raise UserError(
            f"{spot} has no {keys[0]!r}; give a list of yes/no questions about pictures"
        )
    return given[0]
