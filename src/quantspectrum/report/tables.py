"""Tables as rows of text: report.html, report.md and the sensitivity report print the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Column", "Table", "columns"]

Kind = Literal["text", "number", "name"]


@dataclass(frozen=True)
class Column:
    """Heading of a column; ``number`` is aligned right, ``name`` set as code."""

    title: str
    kind: Kind = "text"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells, one text for each column, and a caption that says how to read them."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def columns(
    *titles: str, text: Sequence[str] = (), names: Sequence[str] = ()
) -> tuple[Column, ...]:
    """Make columns of numbers, but for those listed as text or as names."""
    kinds: dict[str, Kind] = {**dict.fromkeys(text, "text"), **dict.fromkeys(names, "name")}
    return tuple(Column(title, kinds.get(title, "number")) for title in titles)
