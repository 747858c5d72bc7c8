"""What a user can get wrong, told in one sentence; the command line exits with 1 on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["UserError", "in_one_line", "told_when_full"]


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


_FULL = ("out of memory", "allocate memory", "not enough memory", "size calculation overflow")


@contextmanager
def told_when_full(what: str, advice: str) -> Iterator[None]:
    """Tell the user in one sentence what is too large, and what to do.

    Args:
        what: What was asked for, in the plural.
        advice: What to ask for instead.

    Raises:
        UserError: There is no memory for it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a CPU torch raises a bare RuntimeError.
        text = str(error).lower()
        if not isinstance(error, MemoryError) and not any(full in text for full in _FULL):
            raise
        raise UserError(f"{what} do not fit into memory; {advice}") from None
