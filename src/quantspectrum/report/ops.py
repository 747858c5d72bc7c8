"""Where an op sits: its component, block and kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from quantspectrum.artifacts import Op, SensitivityReport

__all__ = ["kind_of", "places_of_notes", "short_label", "short_names"]

Place = tuple[str, int, str]
"""Component, block and kind of an op."""


def kind_of(op: Op) -> str:
    """Name of an op inside its block, e.g. ``mlp.down_proj``; outside blocks, its whole name.

    Numbers become ``*``, so that the experts of a mixture share one kind.
    """
    inside = _split(op)
    return re.sub(r"\d+", "*", inside[1]) if inside else op.name


def _split(op: Op) -> tuple[str, str] | None:
    """Prefix up to the block's number and what follows it."""
    return None if op.block is None else _inside(op.name, op.block)


def _inside(name: str, block: int) -> tuple[str, str] | None:
    match = re.match(rf"(.*?(?:^|\.)){block}\.(.+)$", name, re.DOTALL)
    return (match[1], match[2]) if match else None


def places_of_notes(report: SensitivityReport) -> tuple[list[Place], int]:
    """Places of the ops that were not scored, and how many lie outside every scored component.

    A note of an older report holds a name alone; its component is then that of the scored ops
    whose names begin alike.
    """
    prefixes = {inside[0]: op.component for op in report.ops if (inside := _split(op)) is not None}
    places: list[Place] = []
    notes = (*report.coverage.kept, *report.coverage.skipped)
    for note in notes:
        if note.block is not None and (kind := _inside(note.name, note.block)) is not None:
            places.append((note.component, note.block, re.sub(r"\d+", "*", kind[1])))
            continue
        for match in re.finditer(r"(?:^|\.)(\d+)\.(.+)", note.name):
            component = prefixes.get(note.name[: match.start(1)])
            if component is not None:
                places.append((component, int(match[1]), re.sub(r"\d+", "*", match[2])))
                break
    return places, len(notes) - len(places)


def short_names(kinds: Iterable[str]) -> dict[str, str]:
    """Last part of each kind where that is unique, else the whole kind."""
    known = sorted(set(kinds))
    last = Counter(kind.rsplit(".", 1)[-1] for kind in known)
    return {k: k.rsplit(".", 1)[-1] if last[k.rsplit(".", 1)[-1]] == 1 else k for k in known}


def short_label(op: Op) -> str:
    """Component, block and kind of an op in a few words: ``language 3 · down_proj``."""
    if op.block is None:
        return f"{op.component} · {op.name.rsplit('.', 1)[-1]}"
    return f"{op.component} {op.block} · {kind_of(op).rsplit('.', 1)[-1]}"
