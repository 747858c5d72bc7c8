"""The stage ``truth``: from a run's rankings to what held-out data says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantspectrum.agreement.orders import RANDOM_ORDERS, groups_of, orders_of
from quantspectrum.agreement.truth import DEFAULT_SHARES, measure_truth
from quantspectrum.artifacts import (
    DataIdentity,
    SensitivityReport,
    Truth,
    read_artifact,
    write_artifact,
    write_text,
)
from quantspectrum.data.splits import identity
from quantspectrum.errors import UserError
from quantspectrum.formats import Format, preset
from quantspectrum.models.loading import Loaded, check_unquantized
from quantspectrum.provenance import Stopwatch
from quantspectrum.report.markdown import document_markdown
from quantspectrum.report.truth import truth_document
from quantspectrum.sensitivity.calibration import observe_op_ranges
from quantspectrum.sensitivity.request import TELLS_TOKENS
from quantspectrum.spectrum.kept_meter import KeptMeter
from quantspectrum.spectrum.meter import plans_in
from quantspectrum.stages.held_out import check_held_out, meter_on
from quantspectrum.stages.requests import DataRequest, OpsRequest, Progress

__all__ = ["truth"]


def truth(
    loaded: Loaded,
    report_paths: Sequence[Path],
    out: Path,
    *,
    data: DataRequest,
    ops: OpsRequest,
    format_name: str | None = None,
    shares: Sequence[float] = DEFAULT_SHARES,
    samples: int | None = None,
    progress: Progress,
) -> Truth:
    """Measure every group alone and every lens's order on the evaluation split; write the record.

    What is measured is kept in a journal beside the record, so that the same call, also with further
    reports, goes on where it was interrupted; it is removed once the record is written.

    Args:
        loaded: The model.
        report_paths: Sensitivity reports, of whatever lens and format: only their orders count.
        out: Record to write, ``….json``, with Markdown beside it.
        data: Which samples to draw; the evaluation split is measured on.
        ops: Which ops are candidates.
        format_name: Preset that is measured; ``None`` is the first report's.
        shares: Shares of the weight bytes to measure at.
        samples: Samples of the evaluation split to measure on, its first ones; ``None`` is all.
        progress: Given the number of steps, returns what is called after each.

    Raises:
        UserError: A report is of another model or was made on other samples of the same data, or
            the model tells no tokens.
    """
    watch = Stopwatch(loaded.device)
    check_unquantized(loaded)
    if loaded.task not in TELLS_TOKENS:
        raise UserError(f"damage is measured in tokens, and a model for {loaded.task} tells none")
    if not report_paths:
        raise UserError("there is no sensitivity report to hold against the truth; give --report")
    reports = [read_artifact(path, SensitivityReport) for path in report_paths]
    for report, path in zip(reports, report_paths, strict=True):
        if report.provenance.model.weights_fingerprint != loaded.identity.weights_fingerprint:
            raise UserError(f"{path} is of other weights than {loaded.identity.id}'s")
    splits = data.splits(loaded.takes_images)
    # A lens that saw no data saw none that was to be held out.
    held_out = [check_held_out(report, splits) for report in reports if report.provenance.data]
    measured_on = splits.evaluation[:samples]
    fmt = preset(format_name) if format_name is not None else reports[0].format
    table = ops.table(loaded)
    groups = groups_of(table.candidates, loaded.storage_dtype.itemsize)
    names = [op.name for op in table.candidates]
    calibration = data.encode(loaded, splits.calibration)
    ranges = observe_op_ranges(loaded.model, names, calibration, loaded.device, fmt)
    plans = {fmt.name: plans_in(loaded, names, fmt, ranges)}
    meter = meter_on(loaded, plans, measured_on, data)
    orders = orders_of(reports, groups)
    profiles = len(groups) + (len(orders) + 3 + RANDOM_ORDERS) * len(shares) + 1
    used = (
        identity(splits.calibration, splits.source, "calibration"),
        identity(measured_on, splits.source, "evaluation"),
    )
    journal = out.with_suffix(".journal.jsonl")
    asked = _asked(loaded, fmt, used, data)
    with KeptMeter(meter, journal, asked) as kept, kept.simulating():
        measured = measure_truth(
            kept,
            groups,
            orders,
            fmt.name,
            shares=shares,
            seed=data.seed,
            step=progress(profiles * len(meter.batches)),
        )
    made = Truth(
        format=fmt,
        provenance=watch.provenance(
            loaded.identity,
            used,
            seed=data.seed,
        ),
        held_out=all(held_out),
        samples=len(meter.samples),
        shares=tuple(shares),
        groups=measured.groups,
        ceiling=measured.ceiling,
        best=measured.best,
        orders=measured.orders,
    )
    write_artifact(out, made)
    write_text(out.with_suffix(".md"), document_markdown(truth_document(made)))
    journal.unlink(missing_ok=True)
    return made


def _asked(
    loaded: Loaded, fmt: Format, used: Sequence[DataIdentity], data: DataRequest
) -> dict[str, Any]:
    """All that a profile's reading depends on, besides its ops."""
    return {
        "truth": 1,
        "model": loaded.identity.weights_fingerprint,
        "device": loaded.device.type,
        "format": fmt.model_dump(mode="json"),
        "data": [one.model_dump(mode="json") for one in used],
        "batch_size": data.batch_size,
        "max_length": data.max_length,
    }
