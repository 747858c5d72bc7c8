"""The one place where op names are matched against patterns.

A pattern is, from the most to the least specific:

1. an op's full name;
2. dotted name parts, ``mlp.down_proj``, found as a run of whole parts anywhere in the name;
3. a shell glob over the full name, ``*.layers.0.*``;
4. ``re:`` and a regular expression that must match the full name.

Among several patterns that match, the most specific wins; among equals, the last one.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

from quantspectrum.errors import UserError

__all__ = ["NAME_PARTS", "best_match", "check_patterns", "matches", "specificity"]

FULL_NAME, NAME_PARTS, GLOB, REGEX, NO_MATCH = 4, 3, 2, 1, 0
"""What :func:`specificity` returns."""

_GLOB = re.compile(r"[*?\[]")


def specificity(name: str, pattern: str) -> int:
    """How specifically ``pattern`` matches ``name``: 4 full name, 3 parts, 2 glob, 1 regex, 0 not.

    Raises:
        UserError: The regular expression does not compile.
    """
    if pattern.startswith("re:"):
        try:
            return REGEX if re.fullmatch(pattern[3:], name) else NO_MATCH
        except re.error as error:
            raise UserError(f"pattern {pattern!r} is not a regular expression: {error}") from None
    if pattern == name:
        return FULL_NAME
    if _GLOB.search(pattern):
        return GLOB if fnmatch.fnmatchcase(name, pattern) else NO_MATCH
    return NAME_PARTS if f".{pattern}." in f".{name}." else NO_MATCH


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` matches ``name`` at all."""
    return specificity(name, pattern) > 0


def best_match(name: str, patterns: Sequence[str]) -> int | None:
    """Index of the pattern that decides for ``name``, or ``None`` when none matches."""
    scored = [(specificity(name, pattern), index) for index, pattern in enumerate(patterns)]
    best = max(scored, default=(0, 0))
    return best[1] if best[0] else None


def check_patterns(names: Iterable[str], patterns: Iterable[str]) -> None:
    """Refuse a pattern that matches no name: it is a slip of the pen, never a wish.

    Raises:
        UserError: Naming the first such pattern.
    """
    known = list(names)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in known):
            raise UserError(
                f"no op matches pattern {pattern!r}; `quantspectrum ops MODEL` lists the ops"
            )
