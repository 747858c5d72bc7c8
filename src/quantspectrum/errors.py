"""What a user can get wrong, told in one sentence; the command line exits with 1 on it."""

from __future__ import annotations

__all__ = ["UserError", "in_one_line"]


class UserError(ValueError):
    """Wrong input: the message says what was wrong, where, and what to do."""


def in_one_line(told: object, limit: int = 300) -> str:
    """What a library says, to go into a sentence: one line, cut at a word, without its last stop.

    Args:
        told: The error, or its text.
        limit: Characters at most.
    """
    line = " ".join(str(told).split())
    if len(line) > limit:
        line = line[: limit - 2]
        line = line[: line.rfind(" ")] + " …" if " " in line else line + "…"
    return line.rstrip(".")
