"""The native lens for bench/truth.py: reports in a folder, and none scored twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from quantspectrum import stages
from quantspectrum.models.loading import Loaded
from quantspectrum.stages.requests import Base

MEASURED = ("kl", "mse_v2", "nll")
"""What one scan can tell together; the other metrics have passes of their own."""


def native_reports(
    loaded: Loaded,
    directory: Path,
    metrics: tuple[str, ...],
    *,
    base: Base,
    fmt: str,
    data: stages.DataRequest,
    joint: bool,
    batches: int | None,
    noting: Callable[..., AbstractContextManager[None]],
) -> dict[Path, dict[str, Any]]:
    """The report of each metric, with what making it took."""
    together = tuple(metric for metric in metrics if joint and metric in MEASURED)
    scans = [together] if together else []
    scans += [(metric,) for metric in metrics if metric not in together]
    paths = {metric: directory / f"{metric}.{base}.json" for metric in metrics}
    for scan in scans:
        if all(paths[metric].with_suffix(".note").exists() for metric in scan):
            continue
        # The other metrics take a pass or two of the data: they see all of it.
        limit = batches if scan[0] in MEASURED else None
        with noting(*(paths[metric] for metric in scan), confidence_batches=limit):
            stages.sensitivity(
                loaded,
                {(metric, fmt): paths[metric] for metric in scan},
                data=data,
                ops=stages.OpsRequest(),
                scoring=stages.ScoringRequest(metric=scan, format=(fmt,), confidence_batches=limit),
                base=base,
                progress=lambda _steps: lambda: None,
            )
    return {
        path: {"options": {}, **json.loads(path.with_suffix(".note").read_text())}
        for path in paths.values()
    }
