"""The tool's own lens: ranges from calibration data, scores from selection data, by replay."""

from __future__ import annotations

from collections.abc import Callable

from quantspectrum.artifacts import Coverage, OpNote, SensitivityReport
from quantspectrum.errors import UserError
from quantspectrum.formats import Format
from quantspectrum.models.loading import Loaded, check_unquantized
from quantspectrum.models.ops import OpTable
from quantspectrum.provenance import Stopwatch
from quantspectrum.sensitivity import MEASURED
from quantspectrum.sensitivity.anytime import estimates
from quantspectrum.sensitivity.measurement import Measurement
from quantspectrum.sensitivity.ranking import NEVER_REACHED, rank
from quantspectrum.sensitivity.request import ESTIMATOR, NativeRequest

__all__ = ["NativeRequest", "Scores", "score_ops"]

Scores = list[SensitivityReport]


def score_ops(
    loaded: Loaded, table: OpTable, request: NativeRequest, *, step: Callable[[], None]
) -> Scores:
    """Score every candidate; one report for each metric and format, in their order.

    Interrupting the scan (``KeyboardInterrupt``, which ``step`` may raise too) ends it early with
    reports of what was measured; they then say so.

    Raises:
        UserError: There is no candidate, or the model's own output is not finite.
    """
    if not table.candidates:
        raise UserError("no op is left to score; loosen --include, --exclude or --type")
    request.check(loaded.task)
    check_unquantized(loaded)
    watch = Stopwatch(loaded.device)
    with loaded.layout.faster():
        work = Measurement(loaded, table, request, step)
        stopped_by = work.run()
    return [
        _report(loaded, table, request, work, metric, fmt, stopped_by, watch)
        for metric in request.metrics
        for fmt in request.formats
    ]


def _report(
    loaded: Loaded,
    table: OpTable,
    request: NativeRequest,
    work: Measurement,
    metric: str,
    fmt: Format,
    stopped_by: str | None,
    watch: Stopwatch,
) -> SensitivityReport:
    if metric not in MEASURED and stopped_by == "time budget":
        stopped_by = None  # Passes are over before the budget is looked at.
    collected = work.collected(metric, fmt.name, stopped_by)
    estimated: dict[str, float] = {}
    if request.limited and metric in MEASURED:
        scores = {name: made.score for name, made in collected.summaries.items()}
        cheap = work.cheap(fmt.name)
        estimated = estimates(collected.missing, cheap, scores)
        if stopped_by != "interrupted":
            # The estimator runs every op that the data reaches.
            unreached = [name for name in collected.missing if name not in cheap]
            collected.missing.update(dict.fromkeys(unreached, NEVER_REACHED))
    ops = rank(
        work.ops,
        collected.summaries,
        estimated=estimated,
        ranges=work.ranges(fmt.name),
        parts={part: some.summaries for part, some in work.parts(metric, fmt.name).items()},
    )
    reachable = {op.name for op in work.ops}
    reasons = {
        op.name: collected.missing.get(op.name, "the calibration data never reaches it")
        for op in table.candidates
        if op.name not in reachable or op.name in collected.missing
    }
    skipped = tuple(
        OpNote(
            name=op.name,
            type=op.type,
            reason=reasons[op.name],
            component=op.component,
            block=op.block,
        )
        for op in table.candidates
        if op.name in reasons and op.name not in estimated
    )
    return SensitivityReport(
        lens=f"native:{metric}",
        base=request.base,
        format=fmt,
        provenance=watch.provenance(loaded.identity, request.data, seed=request.seed),
        complete=stopped_by is None and not skipped,
        stopped_by=stopped_by,
        coverage=Coverage(
            found=table.found,
            scored=len(ops),
            estimated=sum(op.kind == "estimated" for op in ops),
            kept=table.kept,
            skipped=(*table.skipped, *skipped),
        ),
        estimator=f"native:{ESTIMATOR}" if estimated else None,
        engine=work.note(),
        rescored=work.rescored(metric, fmt.name),
        ops=ops,
    )
