"""The unit of data: one text, with or without a question and an image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Sample"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One item a model is calibrated, scored or evaluated on.

    Attributes:
        id: Name of the sample, unique within its source.
        text: The target: a passage, a caption or an answer. Losses are measured on it alone.
        prompt: The user's turn before ``text``; ``None`` means plain text without a chat turn.
        image: A picture shown with the prompt: a file, or one already in memory.
        references: Answers that count as right for exact match; empty where none is defined.
        unit: What must not be split between data sets (all captions of one image share it);
            empty means the sample is its own unit.
    """

    id: str
    text: str
    prompt: str | None = None
    image: Path | Image | None = None
    references: tuple[str, ...] = ()
    unit: str = ""

    def digest(self) -> str:
        """SHA-256 (hex) of everything a model sees of this sample: prompt, text and picture."""
        sha = hashlib.sha256()
        for part in (self.prompt or "", self.text):
            raw = part.encode()
            sha.update(len(raw).to_bytes(8, "little") + raw)
        if isinstance(self.image, Path):
            sha.update(b"file" + hashlib.sha256(self.image.read_bytes()).digest())
        elif self.image is not None:
            size = f"{self.image.mode}{self.image.size}"
            sha.update(size.encode() + self.image.tobytes())
        return sha.hexdigest()
