"""What options take: numbers within limits, names of metrics."""

from __future__ import annotations

import argparse

from quantspectrum.sensitivity import METRICS

__all__ = ["count", "group_of_options", "metric", "positive", "share"]


def group_of_options() -> argparse.ArgumentParser:
    """A group for commands to take as a parent."""
    return argparse.ArgumentParser(add_help=False)


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
    """An integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value
