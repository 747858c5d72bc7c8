"""From what a lens found to the report every lens gives."""

from __future__ import annotations

import math

from quantspectrum.artifacts import Coverage, Op, OpNote, OpScore, SensitivityReport
from quantspectrum.errors import UserError
from quantspectrum.lenses import lens_named
from quantspectrum.lenses.request import Lens, LensRequest, LensScores
from quantspectrum.models.loading import Loaded, check_unquantized
from quantspectrum.models.ops import OpTable
from quantspectrum.provenance import Stopwatch
from quantspectrum.sensitivity.calibration import Ranges, observe_op_ranges

__all__ = ["check_asked", "report_of", "score_with"]


def score_with(
    name: str, loaded: Loaded, table: OpTable, request: LensRequest
) -> SensitivityReport:
    """Score the candidates with the lens of that name.

    Raises:
        UserError: There is no such lens or candidate, the lens cannot do what is asked, or it gave
            a score that is not a finite number or is of no candidate.
    """
    if not table.candidates:
        raise UserError("no op is left to score; loosen --include, --exclude or --type")
    lens = lens_named(name)
    check_asked(name, lens, request)
    check_unquantized(loaded)
    watch = Stopwatch(loaded.device)
    return report_of(name, loaded, table, request, lens.score(loaded, table, request), watch)


def check_asked(name: str, lens: Lens, request: LensRequest) -> None:
    """Refuse a base, format or option that the lens does not know.

    Raises:
        UserError: Naming what it knows instead.
    """
    if request.base not in lens.BASES:
        raise UserError(f"lens {name} knows no base {request.base}; give --base {lens.BASES[0]}")
    if lens.FORMATS and request.format.name not in lens.FORMATS:
        known = ", ".join(lens.FORMATS)
        raise UserError(f"lens {name} cannot score format {request.format.name}; it can: {known}")
    for option in request.options:
        if option not in lens.OPTIONS:
            known = ", ".join(lens.OPTIONS) or "none"
            raise UserError(f"lens {name} has no option {option!r}; its options are: {known}")


def report_of(
    name: str,
    loaded: Loaded,
    table: OpTable,
    request: LensRequest,
    found: LensScores,
    watch: Stopwatch,
) -> SensitivityReport:
    """The report of what a lens found; candidates without a score are listed with the reason."""
    known = {op.name: op for op in table.candidates}
    for op, score in found.scores.items():
        if op not in known:
            raise UserError(
                f"lens {name} scored {op}, which is no candidate; its names have changed"
            )
        if not math.isfinite(score):
            raise UserError(
                f"lens {name} gave {op} the score {score}; check the model for NaN, or load it in "
                "another --dtype"
            )
    # Every lens's spectrum quantizes with the same ranges, whatever the lens calibrated for itself.
    ranges = observe_op_ranges(
        loaded.model, list(known), request.calibration, loaded.device, request.format
    ).inputs
    without = [op for op in table.candidates if op.name not in found.scores]
    return SensitivityReport(
        lens=name,
        base=request.base,
        format=request.format,
        provenance=watch.provenance(loaded.identity, request.data, seed=request.seed),
        complete=found.stopped_by is None and not without,
        stopped_by=found.stopped_by,
        coverage=Coverage(
            found=table.found,
            scored=len(found.scores),
            kept=table.kept,
            skipped=(*table.skipped, *(_skipped(op, found) for op in without)),
        ),
        framework=found.framework,
        ops=_ranked(known, found, ranges),
    )


def _skipped(op: Op, found: LensScores) -> OpNote:
    stopped = f"not measured: {found.stopped_by}" if found.stopped_by else None
    reason = found.missing.get(op.name) or stopped or "the lens gave it no score"
    return OpNote(name=op.name, type=op.type, reason=reason, component=op.component, block=op.block)


def _ranked(known: dict[str, Op], found: LensScores, ranges: Ranges) -> tuple[OpScore, ...]:
    ordered = sorted(found.scores, key=lambda name: (-found.scores[name], name))
    return tuple(
        OpScore(
            **known[name].model_dump(),
            score=found.scores[name],
            stderr=found.stderr.get(name),
            n=found.n,
            rank=number,
            raw=dict(found.raw.get(name, {})),
            input_range=ranges.get(name),
        )
        for number, name in enumerate(ordered, start=1)
    )
