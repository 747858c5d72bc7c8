"""The stage ``sensitivity`` with the native lens: from a model and data to ranked reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from quantspectrum.artifacts import (
    SensitivityReport,
    write_artifact,
    write_text,
)
from quantspectrum.data.splits import identity
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.lenses.native import NativeRequest, score_ops
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable
from quantspectrum.report import sensitivity_markdown
from quantspectrum.spectrum.build import DEFAULT_CUTS
from quantspectrum.spectrum.rules import parse_cuts
from quantspectrum.stages.requests import (
    Base,
    DataRequest,
    OpsRequest,
    Progress,
    ScoringRequest,
)

__all__ = ["sensitivity", "stopped"]


def sensitivity(
    loaded: Loaded,
    paths: Mapping[tuple[str, str], Path],
    *,
    data: DataRequest,
    ops: OpsRequest,
    scoring: ScoringRequest,
    base: Base,
    progress: Progress,
    cuts: Sequence[str] = (),
) -> list[SensitivityReport]:
    """Score every op; write the ranked reports (JSON) and the same as Markdown beside them.

    The measurements are kept in a journal beside the first report while they are made, so that the
    same call goes on where it was interrupted; it is removed once the scan is whole. Where a batch does
    not fit into the device's memory, batches are halved until they do.

    Args:
        loaded: The model.
        paths: For each metric and format the report to write, ``….json``.
        data: Which samples to use.
        ops: Which ops are candidates.
        scoring: Metrics, formats and limits.
        base: What surrounds the op under test.
        progress: Given the number of steps, returns what is called after each.
        cuts: Cut points of the spectrum to come, near which measurements are spent first.

    Returns:
        A report for each metric and format, in their order.

    Raises:
        UserError: The second ranking of base ``fallback`` would rank nothing, or see
            :func:`.score_ops`.
    """
    table = ops.table(loaded)
    if base == "fallback":
        _check_rescore(scoring.rescore, table)
    size = data.batch_size
    first = next(iter(paths.values()))
    journals: list[Path] = []
    while True:
        name = ".journal.jsonl" if size == data.batch_size else f".batch{size}.journal.jsonl"
        journals.append(first.with_suffix(name))
        request = _native_request(loaded, journals[-1], data, scoring, base, size, cuts)
        step = progress(request.steps(len(table.candidates)))
        try:
            reports = score_ops(loaded, table, request, step=step)
            break
        except torch.OutOfMemoryError:
            if size == 1:
                raise UserError(
                    f"one sample does not fit on {loaded.device}; give a smaller --max-length "
                    "or --memory-limit, or --device cpu"
                ) from None
            size //= 2
            torch.cuda.empty_cache()
    for report in reports:
        path = paths[report.lens.partition(":")[2], report.format.name]
        write_artifact(path, report)
        write_text(path.with_suffix(".md"), sensitivity_markdown(report))
    if not any(report.stopped_by for report in reports):
        for journal in journals:
            journal.unlink(missing_ok=True)
    return reports


def _check_rescore(groups: int, table: OpTable) -> None:
    there = len({op.group for op in table.candidates})
    if there and groups >= there:
        raise UserError(
            f"--rescore {groups} restores all {there} groups of candidates, so that none is left to rank again; "
            "give fewer"
        )


def _native_request(
    loaded: Loaded,
    journal: Path,
    data: DataRequest,
    scoring: ScoringRequest,
    base: Base,
    batch_size: int,
    cuts: Sequence[str],
) -> NativeRequest:
    splits = data.splits(loaded.takes_images)
    calibration, selection = (
        data.encode(loaded, part, batch_size=batch_size)
        for part in (splits.calibration, splits.selection)
    )
    # Pictures first: the first batch then reaches every op, so that all are scored early.
    selection = sorted(selection, key=lambda batch: batch.kinds[0] == "text")
    shares = tuple(s for s in (parse_cuts(cuts) if cuts else DEFAULT_CUTS).values() if 0 < s < 1)
    return NativeRequest(
        formats=tuple(preset(name) for name in scoring.format),
        metrics=scoring.metric,
        base=base,
        calibration=calibration,
        selection=selection[: scoring.confidence_batches],
        data=(
            identity(splits.calibration, splits.source, "calibration"),
            identity(splits.selection, splits.source, "selection"),
        ),
        seed=data.seed,
        journal=journal,
        attribute=scoring.attribute,
        max_ops=scoring.max_ops,
        time_budget=scoring.time_budget,
        cuts=shares,
        rescore=scoring.rescore if base == "fallback" else 0,
        memory_limit=scoring.memory_limit,
        slots=scoring.slots,
        probes=scoring.probes,
    )


def stopped(report: SensitivityReport) -> bool:
    """Whether the scan behind a report was interrupted: the same call goes on with it."""
    return report.stopped_by == "interrupted"
