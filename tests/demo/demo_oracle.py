"""Answers to the demo's questions, read from the description's words: shares no code with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Thing", "answer", "parse"]

_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
_COUNTS = ("zero", "one", "two", "three", "four")


@dataclass(frozen=True)
class Thing:
    """One object of a description."""

    size: str
    color: str
    shape: str
    row: int
    column: int

    @property
    def phrase(self) -> str:
        return f"a {self.size} {self.color} {self.shape}"

    @property
    def place(self) -> str:
        return f"at the {_ROWS[self.row]} {_COLUMNS[self.column]}"


def parse(description: str) -> list[Thing]:
    """Objects of "a big red circle at the top left , ... ."; an error if it is anything else."""
    assert description.endswith(" .")
    things = []
    for part in description[:-2].split(" , "):
        match = re.fullmatch(r"a (\w+) (\w+) (\w+) at the (\w+) (\w+)", part)
        assert match, part
        size, color, shape, row, column = match.groups()
        things.append(Thing(size, color, shape, _ROWS.index(row), _COLUMNS.index(column)))
    return things


def _only(things: list[Thing]) -> Thing:
    assert len(things) == 1, "the question is ambiguous"
    return things[0]


def _that_way(things: list[Thing], direction: str, of: Thing) -> list[Thing]:
    offset: dict[str, Callable[[Thing], int]] = {
        "left of": lambda t: of.column - t.column,
        "right of": lambda t: t.column - of.column,
        "above": lambda t: of.row - t.row,
        "below": lambda t: t.row - of.row,
    }
    return [t for t in things if offset[direction](t) > 0]


def answer(things: list[Thing], question: str) -> str:
    """The one right answer; an assertion fails if there is not exactly one."""

    def named(color: str, shape: str) -> Thing:
        return _only([t for t in things if (t.color, t.shape) == (color, shape)])

    def at(row: str, column: str) -> list[Thing]:
        place = (_ROWS.index(row), _COLUMNS.index(column))
        return [t for t in things if (t.row, t.column) == place]

    way = r"(left of|right of|above|below)"
    forms: dict[str, Callable[..., str]] = {
        r"what color is the object at the (\w+) (\w+) \?": lambda r, c: _only(at(r, c)).color,
        r"what shape is the object at the (\w+) (\w+) \?": lambda r, c: _only(at(r, c)).shape,
        r"what color is the (\w+) \?": lambda s: _only([t for t in things if t.shape == s]).color,
        r"what shape is the (\w+) object \?": lambda c: (
            _only([t for t in things if t.color == c]).shape
        ),
        r"is the (\w+) (\w+) big or small \?": lambda c, s: named(c, s).size,
        r"where is the (\w+) (\w+) \?": lambda c, s: named(c, s).place,
        r"how many objects are there \?": lambda: _COUNTS[len(things)],
        r"how many (\w+) objects are there \?": lambda c: _COUNTS[
            sum(t.color == c for t in things)
        ],
        r"how many (?!objects)(\w+)s are there \?": lambda s: _COUNTS[
            sum(t.shape == s.removesuffix("e") or t.shape == s for t in things)
        ],
        r"is there a (\w+) (\w+) \?": lambda c, s: (
            "yes" if any((t.color, t.shape) == (c, s) for t in things) else "no"
        ),
        r"what is at the (\w+) (\w+) \?": lambda r, c: (
            _only(at(r, c)).phrase if at(r, c) else "nothing"
        ),
        rf"is the (\w+) (\w+) {way} the (\w+) (\w+) \?": lambda c, s, d, c2, s2: (
            "yes" if named(c, s) in _that_way(things, d, named(c2, s2)) else "no"
        ),
        rf"what is {way} the (\w+) (\w+) \?": lambda d, c, s: (
            _only(_that_way(things, d, named(c, s))).phrase
        ),
    }
    found = [
        form(*match.groups())
        for pattern, form in forms.items()
        if (match := re.fullmatch(pattern, question))
    ]
    assert len(found) == 1, f"{question!r} matches {len(found)} forms"
    return str(found[0])
