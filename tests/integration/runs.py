"""The small run the integration tests share."""

from __future__ import annotations

from pathlib import Path

from quantspectrum.demo import model_dir

SMALL = (
    *("--data", "demo", "--format", "w8a8-static", "--calibration", "16", "--samples", "16"),
    *("--eval-samples", "24", "--batch-size", "16", "--max-new-tokens", "24", "--device", "cpu"),
)
"""Options of a run that takes well under a minute."""


def run_arguments(out: Path, *more: str) -> list[str]:
    return ["run", str(model_dir()), "--out", str(out), "--quiet", *SMALL, *more]
