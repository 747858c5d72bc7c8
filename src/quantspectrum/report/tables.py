"""Tables as rows of text: report.html, report.md, other Markdown and the terminal print the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Column", "Document", "Table", "columns", "document_text", "printable", "text_table"]

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


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text of its own: sentences, then tables under their headings."""

    title: str
    sentences: tuple[str, ...]
    tables: tuple[tuple[str, Table], ...]


def text_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns for a terminal, the first aligned left and the others right.

    Cells may come from files: nothing in them moves the cursor, sets colours or breaks a line.
    """
    lines = [[printable(" ".join(cell.split())) for cell in line] for line in (titles, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def printable(text: str) -> str:
    """Text in which no character is a terminal's command."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def document_text(made: Document) -> str:
    """A document for a terminal."""
    parts = [printable(said) for said in made.sentences]
    for heading, table in made.tables:
        head = f"{heading}: {table.caption}" if table.caption else heading
        titles = [column.title for column in table.columns]
        parts += [printable(head), text_table(titles, table.rows)]
    return "\n\n".join(parts)
