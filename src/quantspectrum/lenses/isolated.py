"""Lenses of other frameworks: a request goes to a worker in the framework's own environment.

The worker gets the model as a plain checkpoint, the encoded batches and the names of the candidates. It
gives back its scores by those names, what it covered, and how it ran:

``{"scores": {op: number}, "raw": {op: {name: number}}, "stderr": {op: number}, "missing": {op: reason},
"settings": {...}, "notes": [...], "versions": {...}, "seconds": s, "peak_bytes": b, "stopped_by": null}``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from quantspectrum.artifacts import FrameworkNote
from quantspectrum.errors import UserError
from quantspectrum.isolation import run_worker
from quantspectrum.isolation.inputs import batch_tensors, model_request
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable

__all__ = ["ask_worker", "check_accounted"]

GRACE = 1.5
SLACK_SECONDS = 60.0
"""A worker minds the time budget itself; it is interrupted when it takes so many times that, and so
many seconds more, for it to start and load the model."""


def ask_worker(
    loaded: Loaded,
    table: OpTable,
    request: LensRequest,
    *,
    environment: str,
    worker: str,
    framework: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    notes: Sequence[str] = (),
) -> LensScores:
    """Run a worker on the candidates and read its scores.

    Args:
        loaded: The model; where it is no plain checkpoint on disk, one is written.
        table: Its candidates.
        request: What the lens was asked.
        environment: Environment of the worker.
        worker: Its script's name.
        framework: Name of the framework, for the report.
        settings: What the worker is told besides.
        tensors: Further tensors for it.
        notes: What readers of the scores must know, besides what the worker says.

    Raises:
        UserError: The environment is absent, the worker failed, or it scored nothing to its end.
        KeyboardInterrupt: It was interrupted before it had written any score.
    """
    budget = request.time_budget
    found = run_worker(
        environment,
        worker,
        _asked(loaded, table, request, settings),
        request.directory,
        tensors={
            **batch_tensors("calibration", request.calibration),
            **batch_tensors("selection", request.selection),
            **(tensors or {}),
        },
        timeout=None if budget is None else budget * GRACE + SLACK_SECONDS,
        progress=request.progress,
        keep_interrupted=True,
    )
    scores = {name: float(score) for name, score in found["scores"].items()}
    if not scores and found.get("stopped_by") is None:
        asked = len(table.candidates[: request.max_ops])
        raise UserError(
            f"{framework} scored none of the {asked} ops asked for; what it printed is in "
            f"{request.directory / 'worker.log'}"
        )
    return LensScores(
        scores=scores,
        raw=found.get("raw", {}),
        stderr=found.get("stderr", {}),
        missing=found.get("missing", {}),
        framework=FrameworkNote(
            name=framework,
            versions=found.get("versions", {}),
            settings=found.get("settings", {}),
            notes=(*notes, *found.get("notes", ())),
            asked=len(table.candidates),
            covered=len(scores),
            seconds=found.get("seconds"),
            peak_bytes=found.get("peak_bytes"),
        ),
        n=sum(len(batch.sample_ids) for batch in request.selection),
        stopped_by=found.get("stopped_by") or _limit(request, table),
    )


def _asked(
    loaded: Loaded, table: OpTable, request: LensRequest, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The worker's ``request.json``."""
    candidates = table.candidates[: request.max_ops]
    return {
        **model_request(loaded, request.directory / "model"),
        "ops": [op.name for op in candidates],
        "seed": request.seed,
        "time_budget": request.time_budget,
        "settings": dict(settings),
    }


def check_accounted(
    name: str, found: LensScores, table: OpTable, request: LensRequest
) -> LensScores:
    """Refuse what a worker found where it left out an op and neither says why nor stopped early.

    Raises:
        UserError: Naming the first such op.
    """
    asked = [op.name for op in table.candidates[: request.max_ops]]
    silent = [op for op in asked if op not in found.scores and op not in found.missing]
    early = found.stopped_by not in (None, _limit(request, table))
    if silent and not early:
        raise UserError(
            f"lens {name} was asked for {len(asked)} ops and says nothing of {len(silent)} of them, "
            f"such as {silent[0]}; what its worker printed is in {request.directory / 'worker.log'}"
        )
    return found


def _limit(request: LensRequest, table: OpTable) -> str | None:
    limited = request.max_ops is not None and request.max_ops < len(table.candidates)
    return f"a limit of {request.max_ops} ops" if limited else None
