"""The small run the integration tests share."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.demo import model_dir

DATA = (
    *("--data", "demo", "--calibration", "16", "--samples", "16", "--eval-samples", "24"),
    *("--batch-size", "16", "--device", "cpu"),
)
"""Samples of the small run, for commands that measure with the same."""

ANSWERS = ("--max-new-tokens", "24")

SMALL = (*DATA, *ANSWERS, "--format", "w8a8-static")
"""Options of a run that takes well under a minute."""


def run_arguments(out: Path, *more: str) -> list[str]:
    return ["run", str(model_dir()), "--out", str(out), "--quiet", *SMALL, *more]
