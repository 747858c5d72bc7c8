"""The commands that the documents show, as argument lists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

__all__ = ["DOCUMENTS", "ROOT", "fences", "shown_commands"]

ROOT = Path(__file__).parents[2]

DOCUMENTS = (
    "README.md",
    "docs/usage.md",
    "docs/sensitivity.md",
    "docs/spectrum.md",
    "docs/quality.md",
    "docs/serving.md",
    "docs/lenses.md",
    "docs/other_models.md",
)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fences(document: str) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return _FENCE.findall((ROOT / document).read_text(encoding="utf-8"))


def shown_commands(document: str) -> list[list[str]]:
    """Every line of the ``console`` blocks, in order; each must be a command after ``$``."""
    found = []
    for language, text in fences(document):
        if language != "console":
            continue
        for line in text.replace("\\\n", " ").splitlines():
            assert line.startswith("$ "), f"{document}: {line!r} is no command"
            found.append(shlex.split(line[2:], comments=True))
    return found
