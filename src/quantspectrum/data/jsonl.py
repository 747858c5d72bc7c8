"""One JSON object a line: captions, questions with answers, with or without a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantspectrum.data.coco import DESCRIBE
from quantspectrum.data.files import checked_text, parse_json, read_text
from quantspectrum.data.images import find_image, verify_image
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError

__all__ = ["load_jsonl", "read_rows"]


def load_jsonl(where: str, images: Path | None) -> list[Sample]:
    """Return one sample per line.

    A line has ``text`` (the target), and may have ``prompt``, ``image``, ``references`` and
    ``id``; ``question`` and ``answer`` stand for ``prompt`` and for ``text`` with itself as the
    one reference. A picture without a prompt is asked for with `DESCRIBE`.

    Raises:
        UserError: A line is not such an object, or its picture is missing or is not a picture.
    """
    return read_rows(Path(where), images, target=True)


def read_rows(path: Path, images: Path | None, *, target: bool) -> list[Sample]:
    """Return one sample per line; without ``target``, a prompt suffices and a text is optional.

    Args:
        path: The JSONL file.
        images: A second folder, beside the file's own, in which pictures may lie.
        target: Whether every line needs the text a model is scored on.
    """
    samples: list[Sample] = []
    seen: set[str] = set()
    verified: set[Path] = set()
    for line, row in _objects(path):
        sample = _sample(row, path, line, images, target)
        if sample.id in seen:
            raise UserError(f"{path}:{line}: id {sample.id!r} is used twice; make ids unique")
        seen.add(sample.id)
        if isinstance(sample.image, Path) and sample.image not in verified:
            verify_image(sample.image, f"{path}:{line}")
            verified.add(sample.image)
        samples.append(sample)
    if not samples:
        raise UserError(f"{path} holds no samples; give a file with one JSON object a line")
    return samples


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): a JSON text may hold U+2028 and its like, which are no line ends here.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = parse_json(line, f"{path}:{number}")
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number} is not a JSON object; put one object on each line")
        yield number, row


def _sample(
    row: dict[str, Any], path: Path, line: int, images: Path | None, target: bool
) -> Sample:
    where = f"{path}:{line}"
    text = _either(row, "text", "answer", where)
    prompt = _either(row, "prompt", "question", where)
    image = None
    if row.get("image") is not None:
        name = checked_text(row["image"], "image", where)
        image = find_image(name, path.parent, images, where)
        prompt = prompt or DESCRIBE
    if target and text is None:
        raise UserError(f"{where} has no 'text'; add the text that is to be scored")
    if not target and prompt is None:
        raise UserError(f"{where} has no 'prompt'; add what the model is to be asked")
    references = _references(row, where)
    identity = row.get("id")
    if not isinstance(identity, (str, int, type(None))) or identity == "":
        raise UserError(f"{where}: id must be a text or a whole number; correct it")
    return Sample(
        id=f"{path.name}:{line if identity is None else identity}",
        text=text or (references[0] if references else ""),
        prompt=prompt,
        image=image,
        references=references,
        unit=f"image:{image}" if image else "",
    )


def _either(row: dict[str, Any], name: str, synonym: str, where: str) -> str | None:
    """The value of a key or of its synonym, as a text; both at once is ambiguous."""
    given = [key for key in (name, synonym) if row.get(key) is not None]
    if len(given) == 2:
        raise UserError(f"{where} has both {name!r} and {synonym!r}; keep one of them")
    return checked_text(row[given[0]], given[0], where) if given else None


def _references(row: dict[str, Any], where: str) -> tuple[str, ...]:
    value = row.get("references")
    if value is None:
        answer = row.get("answer")
        return () if answer is None else (checked_text(answer, "answer", where),)
    if not isinstance(value, list):
        raise UserError(f"{where}: references must be a list of texts; correct it")
    return tuple(checked_text(item, "a reference", where) for item in value)
