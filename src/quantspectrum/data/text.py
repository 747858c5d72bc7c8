"""Plain text cut into passages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from quantspectrum.data.files import read_text
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError

__all__ = ["PASSAGE", "cut_passages", "load_text"]

PASSAGE = 1000
"""Characters a passage aims at: some 200 to 300 tokens of English."""

_HEADING = re.compile(r"\s*(=+ .* =+|#{1,6} .*)\s*")
_SENTENCE_END = re.compile(r"[.!?]\s")


def load_text(where: str, images: Path | None) -> list[Sample]:  # noqa: ARG001 - one loader type
    """Return the passages of a text file; a sample's id is its file and first line.

    Raises:
        UserError: The file is missing, is not UTF-8, or holds only white space.
    """
    path = Path(where)
    samples = [
        Sample(id=f"{path.name}:{line}", text=text) for line, text in _numbered(read_text(path))
    ]
    if not samples:
        raise UserError(f"{path} holds no text; give a file with text in it")
    return samples


def cut_passages(text: str) -> list[str]:
    """Cut a text into passages of about `PASSAGE` characters.

    A cut falls between lines, so that paragraphs stay whole; a line longer than one and a half
    passages is cut after a sentence, else at a space. A heading (WikiText ``= Title =``, Markdown
    ``# Title``) stays with what follows it, and begins a passage where the one before is half
    full. A last passage under a quarter joins the one before.
    """
    return [passage for _, passage in _numbered(text)]


def _numbered(text: str) -> list[tuple[str, str]]:
    passages: list[list[tuple[str, str]]] = []
    current: list[tuple[str, str]] = []
    for place, piece in _pieces(text):
        size = _size(current)
        heading = bool(_HEADING.fullmatch(piece))
        full = size + len(piece) > PASSAGE or (heading and size >= PASSAGE // 2)
        if full and not all(_HEADING.fullmatch(held) for _, held in current):
            # Headings directly before the cut introduce what comes after it.
            kept = len(current)
            while _HEADING.fullmatch(current[kept - 1][1]):
                kept -= 1
            passages.append(current[:kept])
            current = current[kept:]
        current.append((place, piece))
    if passages and _size(current) < PASSAGE // 4:
        passages[-1].extend(current)
    elif current:
        passages.append(current)
    return [(passage[0][0], "\n".join(piece for _, piece in passage)) for passage in passages]


def _size(pieces: list[tuple[str, str]]) -> int:
    return sum(len(piece) + 1 for _, piece in pieces)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Lines with something in them, the very long ones cut, each with where it starts."""
    for number, line in enumerate(text.splitlines(), start=1):
        rest, part = line.strip(), 0
        while len(rest) > PASSAGE * 3 // 2:
            ends = [match.end() for match in _SENTENCE_END.finditer(rest, PASSAGE // 2, PASSAGE)]
            cut = ends[-1] if ends else rest.rfind(" ", 1, PASSAGE) + 1 or PASSAGE
            yield f"{number}.{part}" if part else f"{number}", rest[:cut].rstrip()
            rest, part = rest[cut:].lstrip(), part + 1
        if rest:
            yield f"{number}.{part}" if part else f"{number}", rest
