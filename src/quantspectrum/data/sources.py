"""From what a user names as data to samples: one registry of the kinds of source."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from quantspectrum.data.coco import load_coco
from quantspectrum.data.hub import load_hub
from quantspectrum.data.jsonl import load_jsonl
from quantspectrum.data.picture_files import load_pictures
from quantspectrum.data.pope import load_pope
from quantspectrum.data.sample import Sample
from quantspectrum.data.text import load_text
from quantspectrum.errors import UserError

__all__ = ["DEMO", "SOURCES", "load_samples", "parse_spec"]

DEMO = "demo"
"""The one source without a file: the demo model's data, which come in splits of their own."""

SOURCES: dict[str, Callable[[str, Path | None], list[Sample]]] = {
    "coco": load_coco,
    "text": load_text,
    "jsonl": load_jsonl,
    "hub": load_hub,
    "images": load_pictures,
    "pope": load_pope,
}
"""Kind of source to its loader, which takes what follows the colon and the image folder."""

_SUFFIXES = {".json": "coco", ".jsonl": "jsonl", ".txt": "text", ".raw": "text", ".md": "text"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:.+)?")


def parse_spec(spec: str) -> tuple[str, str]:
    """Return the kind and the place that a data spec ``kind:where``, path or name means.

    Raises:
        UserError: Nothing of that kind is known; the message lists the kinds.
    """
    kind, colon, where = spec.partition(":")
    if spec == DEMO:
        return DEMO, ""
    if colon and where and kind in SOURCES:
        return kind, where
    suffix = Path(spec).suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix], spec
    if _HUB_ID.fullmatch(spec) and not Path(spec).exists():
        return "hub", spec
    raise UserError(
        f"data source {spec!r} is of no known kind; give demo, coco:FILE.json, text:FILE.txt, "
        "jsonl:FILE.jsonl, pope:FILE.json, hub:DATASET[:SPLIT] or images:DIR"
    )


def load_samples(spec: str, *, images: Path | None = None) -> list[Sample]:
    """Return all samples of a source, in its own order.

    Args:
        spec: ``kind:where`` with a kind of `SOURCES`, or a path or Hub name that shows its kind.
        images: Folder of the pictures, for the sources that name pictures by file.

    Raises:
        UserError: The spec or what it names is wrong; or it is `DEMO`, which has no undivided
            whole: `make_splits` takes its splits as they are.
    """
    kind, where = parse_spec(spec)
    if kind == DEMO:
        raise UserError("the demo data come in splits of their own; ask make_splits for them")
    return SOURCES[kind](where, images)
