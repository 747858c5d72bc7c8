"""What options take: numbers within limits, names of metrics."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from quantspectrum.sensitivity import METRICS

__all__ = [
    "OptionParser",
    "count",
    "few",
    "given",
    "group_of_options",
    "metric",
    "positive",
    "seed",
    "share",
]

_MOST = 10**9

_GIVEN = "given"
"""Where a parsed command line keeps the names of what was given though it has a default."""


class _Noted(argparse.Action):
    """Store a value, and note that it was given: its default looks the same."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        _option_string: str | None = None,
    ) -> None:
        """Store it."""
        setattr(namespace, self.dest, values)
        setattr(namespace, _GIVEN, (*getattr(namespace, _GIVEN, ()), self.dest))


def given(args: argparse.Namespace, name: str) -> bool:
    """Whether the user gave an option, at its default or not; not where the command lacks it."""
    # Lists and switches have no default that a user could give.
    value = getattr(args, name, None)
    return value is True or isinstance(value, list) or name in getattr(args, _GIVEN, ())


class OptionParser(argparse.ArgumentParser):
    """A parser whose options note that they were given, and so do those of its commands."""

    def __init__(self, **more: Any) -> None:
        """As its base."""
        super().__init__(**more)
        for name in (None, "store"):
            self.register("action", name, _Noted)


def group_of_options() -> argparse.ArgumentParser:
    """A group for commands to take as a parent."""
    return OptionParser(add_help=False)


def metric(text: str) -> str:
    """A metric of the native lens; what another lens is called by is pointed to as that lens."""
    if text in METRICS:
        return text
    from quantspectrum.lenses import LENSES

    lenses = [name for name in LENSES if name == text or name.partition(":")[2] == text]
    calls = " or ".join(f"--lens {name}" for name in lenses)
    there = (
        f"; it is a lens: `quantspectrum sensitivity` with {calls} and no --metric"
        if lenses
        else ""
    )
    raise argparse.ArgumentTypeError(
        f"{text!r} is no metric of the native lens (choose from {', '.join(METRICS)}){there}"
    )


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not from 0 to 1")
    return value


def count(text: str) -> int:
    """An integer of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def positive(text: str) -> int:
    """An integer of 1 or more, and not absurdly many."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    if value > _MOST:
        raise argparse.ArgumentTypeError(f"{value} is above {_MOST}")
    return value


def few(text: str) -> int:
    """An integer from 1 to 1000, of what takes time and memory each."""
    value = positive(text)
    if value > 1000:
        raise argparse.ArgumentTypeError(f"{value} is above 1000")
    return value


def seed(text: str) -> int:
    """A seed that every generator of random numbers takes: from 0 to 2**32 - 1."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is not from 0 to {2**32 - 1}")
    return value
