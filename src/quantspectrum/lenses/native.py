"""The tool's own lens: ranges from calibration data, scores from selection data, by replay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quantspectrum.artifacts import (
    Coverage,
    DataIdentity,
    Op,
    OpNote,
    SensitivityReport,
)
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import Format
from quantspectrum.models.loading import Loaded, check_unquantized
from quantspectrum.models.ops import OpTable
from quantspectrum.provenance import Stopwatch
from quantspectrum.sensitivity import mse_v2
from quantspectrum.sensitivity.calibration import observe_ranges
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.sensitivity.ranking import rank_ops
from quantspectrum.sensitivity.scan import Base, Scan
from quantspectrum.simulation import OpPlan, Simulation

__all__ = ["NativeRequest", "score_ops"]


@dataclass(frozen=True, kw_only=True)
class NativeRequest:
    """What to score and on what.

    Attributes:
        format: Format tried on every op.
        base: What surrounds the op under test.
        calibration: Batches that set static input ranges.
        selection: Batches the scores are measured on.
        data: Identities of both sets.
        seed: Seed the data was drawn with, for the record.
        journal: File that makes the scan resumable.
    """

    format: Format
    base: Base
    calibration: Sequence[Batch]
    selection: Sequence[Batch]
    data: tuple[DataIdentity, ...]
    seed: int
    journal: Path | None = None


def score_ops(
    loaded: Loaded, table: OpTable, request: NativeRequest, *, step: Callable[[], None]
) -> SensitivityReport:
    """Score every candidate with ``native:mse_v2``.

    Interrupting the scan (``KeyboardInterrupt``, which ``step`` may raise too) ends it early with
    a report of what was measured; the report then says so.

    Raises:
        UserError: There is no candidate, or the model's own output is not finite.
    """
    if not table.candidates:
        raise UserError("no op is left to score; loosen --include, --exclude or --type")
    check_unquantized(loaded)
    watch = Stopwatch(loaded.device)
    ranges = (
        observe_ranges(
            loaded.model, [op.name for op in table.candidates], request.calibration, loaded.device
        )
        if request.format.needs_calibration
        else {}
    )
    plans = _plans(table, request.format, ranges, loaded.storage_dtype)
    reachable = [op for op in table.candidates if op.name in plans]
    stopped_by = None
    with (
        Journal(request.journal, _journal_key(loaded, reachable, request)) as journal,
        Simulation(loaded.model, plans) as simulation,
    ):
        scan = Scan(
            engine=ReplayEngine(loaded.model, loaded.layout, list(plans), loaded.device),
            simulation=simulation,
            ops=list(plans),
            base=request.base,
            journal=journal,
            step=step,
        )
        try:
            scan.run(request.selection)
        except KeyboardInterrupt:
            stopped_by = "interrupted"
    scores, unscored = rank_ops(
        reachable, journal, request.base, len(request.selection), ranges, stopped_by
    )
    skipped = [
        OpNote(name=op.name, type=op.type, reason="the calibration data never reaches it")
        for op in table.candidates
        if op.name not in plans
    ] + unscored
    return SensitivityReport(
        lens=f"native:{mse_v2.NAME}",
        base=request.base,
        format=request.format,
        provenance=watch.provenance(loaded.identity, request.data, seed=request.seed),
        complete=stopped_by is None and not skipped,
        stopped_by=stopped_by,
        coverage=Coverage(
            found=table.found,
            scored=len(scores),
            kept=table.kept,
            skipped=(*table.skipped, *skipped),
        ),
        ops=scores,
    )


def _plans(
    table: OpTable, fmt: Format, ranges: dict[str, tuple[float, float]], scale_dtype: torch.dtype
) -> dict[str, OpPlan]:
    """A plan for every op that can have one: static formats need a range."""
    return {
        op.name: OpPlan(format=fmt, input_range=ranges.get(op.name), scale_dtype=scale_dtype)
        for op in table.candidates
        if op.name in ranges or not fmt.needs_calibration
    }


def _journal_key(loaded: Loaded, ops: Sequence[Op], request: NativeRequest) -> dict[str, Any]:
    return {
        "lens": mse_v2.NAME,
        "base": request.base,
        "format": request.format.model_dump(mode="json"),
        "model": loaded.identity.model_dump(mode="json"),
        "device": loaded.device.type,
        "data": [identity.model_dump(mode="json") for identity in request.data],
        "ops": [op.name for op in ops],
        "calibration": [
            _digest(b) for b in request.calibration if request.format.needs_calibration
        ],
        "batches": [_digest(batch) for batch in request.selection],
    }


def _digest(batch: Batch) -> str:
    """Hash of a batch's tokens, as cut and padded."""
    ids = batch.inputs["input_ids"]
    return hashlib.sha256(f"{tuple(ids.shape)}".encode() + ids.numpy().tobytes()).hexdigest()
