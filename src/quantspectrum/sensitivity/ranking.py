"""From the journal of a scan to ranked scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from quantspectrum.artifacts import Op, OpNote, OpScore
from quantspectrum.sensitivity import mse_v2
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.sensitivity.scan import EVERYTHING, REFERENCE, UNREACHED, Base

__all__ = ["rank_ops"]

_UNREACHED = "the selection data never reaches it"


def rank_ops(
    ops: Sequence[Op],
    journal: Journal,
    base: Base,
    batches: int,
    input_ranges: Mapping[str, tuple[float, float]],
    stopped_by: str | None,
) -> tuple[tuple[OpScore, ...], list[OpNote]]:
    """Rank what was measured, most sensitive first; ops without a measurement are noted.

    Every score is taken over the same batches, so that scores compare: those on which all ops
    were measured, or, when not even one is complete, what there is of the first.
    """
    whole = [i for i in range(batches) if all((i, op.name) in journal for op in ops)] or [0]
    found: list[tuple[Op, int, tuple[float, float | None, dict[str, float]]]] = []
    notes: list[OpNote] = []
    for op in ops:
        if (whole[0], op.name) not in journal:
            notes.append(_note(op, f"not measured: {stopped_by}"))
        elif all(UNREACHED in journal[index, op.name] for index in whole):
            unfinished = len(whole) < batches and stopped_by is not None
            reason = f"not measured: {stopped_by}" if unfinished else _UNREACHED
            notes.append(_note(op, reason))
        else:
            signals, sse, everything = _per_sample(journal, op.name, base, whole)
            found.append((op, len(signals), mse_v2.summarize(base, sse, everything, signals)))
    found.sort(key=lambda entry: (-entry[2][0], entry[0].name))
    ranked = tuple(
        OpScore(
            **op.model_dump(),
            score=score,
            stderr=stderr,
            n=n,
            rank=rank,
            raw=raw,
            input_range=input_ranges.get(op.name),
        )
        for rank, (op, n, (score, stderr, raw)) in zip(itertools.count(1), found, strict=False)
    )
    assert all(math.isfinite(op.score) for op in ranked)
    return ranked, notes


def _per_sample(
    journal: Journal, op: str, base: Base, batches: Sequence[int]
) -> tuple[list[float], list[float], list[float] | None]:
    """Signal, the op's squared error, and everything's (base ``fallback``), sample by sample.

    An op that a batch does not run does no damage there alone, and takes none away restored.
    """
    signals: list[float] = []
    sse: list[float] = []
    everything: list[float] = []
    for index in batches:
        batch_signals = journal[index, REFERENCE]["signal"]
        total = journal[index, EVERYTHING]["sse"] if base == "fallback" else []
        untouched = total or [0.0] * len(batch_signals)
        signals += batch_signals
        everything += total
        sse += journal[index, op].get("sse", untouched)
    return signals, sse, everything if base == "fallback" else None


def _note(op: Op, reason: str) -> OpNote:
    return OpNote(name=op.name, type=op.type, reason=reason)
