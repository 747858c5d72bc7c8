"""From the journal of a scan to ranked scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from quantspectrum.artifacts import Op, OpScore
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.sensitivity.metric import MeasuredMetric, PassMetric, PerSample, Summary
from quantspectrum.sensitivity.scan import EVERYTHING, REFERENCE, UNREACHED, Base, journal_key
from quantspectrum.statistics import paired_ratio

__all__ = [
    "NEVER_REACHED",
    "Collected",
    "collect_measured",
    "collect_pass",
    "rank",
    "whole_batches",
]

NEVER_REACHED = "the selection data never reaches it"
"""Why an op has no score, where nothing is lacking but data."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a metric says of each op.

    Attributes:
        summaries: Scores of the ops that have one.
        missing: Why the others have none, by name.
    """

    summaries: dict[str, Summary] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def whole_batches(
    ops: Sequence[str], journal: Journal, batches: int, key: Callable[[str], str]
) -> list[int]:
    """Batches on which all ops were measured; the first one when there is none.

    Scores taken over the same batches compare; scores over different ones would not.
    """
    whole = [i for i in range(batches) if all((i, key(op)) in journal for op in ops)]
    return whole or [0]


def collect_measured(
    metric: MeasuredMetric,
    ops: Sequence[str],
    journal: Journal,
    base: Base,
    fmt: str,
    *,
    batches: Sequence[int],
    unfinished: str | None,
    part: str = "both",
    prefix: str = "",
) -> Collected:
    """Scores of a measured metric over the given batches.

    Args:
        metric: The metric.
        ops: Candidates.
        journal: Where the measurements are.
        base: What surrounded the ops.
        fmt: Name of the format.
        batches: Batches to take scores over, see :func:`whole_batches`.
        unfinished: Why measurements are missing; ``None`` when all that were wanted are there.
        part: Part of the op that was measured.
        prefix: Prefix of the scan's entries.
    """
    found = Collected()
    for op in ops:
        key = journal_key(op, fmt, part, prefix)
        # An op measured on a part of the batches, by a call with other limits, does not compare.
        entries = [journal[i, key] for i in batches if (i, key) in journal]
        if len(entries) < len(batches) or all(UNREACHED in entry for entry in entries):
            found.missing[op] = f"not measured: {unfinished}" if unfinished else NEVER_REACHED
            continue
        reference = _joined([journal[i, REFERENCE] for i in batches])
        everything = None
        if base == "fallback":
            everything_key = journal_key(EVERYTHING, fmt, "both", prefix)
            everything = _joined([journal[i, everything_key] for i in batches])
        values = _joined_op(entries, everything)
        found.summaries[op] = metric.summarize(values, everything, reference)
    return found


def _joined(entries: Sequence[PerSample]) -> dict[str, list[float]]:
    """Values of all batches in a row."""
    return {key: [v for entry in entries for v in entry[key]] for key in entries[0]}


def _joined_op(
    entries: Sequence[PerSample], everything: Mapping[str, Sequence[float]] | None
) -> dict[str, list[float]]:
    """The op's values; where a batch never runs it, it does no damage and takes none away."""
    keys = next(entry.keys() for entry in entries if UNREACHED not in entry)
    joined: dict[str, list[float]] = {key: [] for key in keys}
    at = 0
    for entry in entries:
        size = len(next(iter(entry.values())))
        for key, values in joined.items():
            if UNREACHED not in entry:
                values += entry[key]
            else:
                values += everything[key][at : at + size] if everything else [0.0] * size
        at += size
    return joined


def collect_pass(
    metric: PassMetric, ops: Sequence[str], journal: Journal, fmt: str, batches: int
) -> Collected:
    """Scores of a pass metric over all batches that are there."""
    found = Collected()
    for op in ops:
        key = journal_key(op, fmt, metric.NAME)
        entries = [journal[i, key] for i in range(batches) if (i, key) in journal]
        reached = [entry for entry in entries if UNREACHED not in entry]
        if not reached:
            found.missing[op] = NEVER_REACHED
            continue
        keys = reached[0].keys()
        told = [{key: e[key] for key in keys} for e in entries if keys <= e.keys()]
        found.summaries[op] = metric.score(_joined(told))
    return found


def rank(
    ops: Sequence[Op],
    scored: Mapping[str, Summary],
    *,
    estimated: Mapping[str, float] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    parts: Mapping[str, Mapping[str, Summary]] | None = None,
) -> tuple[OpScore, ...]:
    """Ops that have a score, most sensitive first; ties in the order of their names.

    Args:
        ops: The candidates.
        scored: Summaries by name.
        estimated: Scores of ops that were not measured, on the same scale.
        ranges: Calibrated input ranges by name.
        parts: For each part, ``weight`` and ``activation``, the summaries by name.
    """
    estimated, ranges, parts = estimated or {}, ranges or {}, parts or {}
    entries: list[tuple[float, Op, Summary | None]] = []
    for op in ops:
        if (made := scored.get(op.name)) is not None:
            entries.append((made.score, op, made))
        elif op.name in estimated:
            entries.append((estimated[op.name], op, None))
    entries.sort(key=lambda entry: (-entry[0], entry[1].name))
    assert all(math.isfinite(score) for score, _, _ in entries)
    following = [*(made for _, _, made in entries[1:]), None][: len(entries)]
    return tuple(
        OpScore(
            **op.model_dump(),
            score=score,
            stderr=made.stderr if made is not None else None,
            n=len(made.values) if made is not None else 0,
            rank=number,
            raw=made.raw if made is not None else {},
            input_range=ranges.get(op.name),
            kind="measured" if made is not None else "estimated",
            tied_with_next=_tied(made, after),
            **{
                f"{part}_score": summaries[op.name].score
                for part, summaries in parts.items()
                if op.name in summaries
            },
        )
        for number, ((score, op, made), after) in enumerate(
            zip(entries, following, strict=True), start=1
        )
    )


def _tied(one: Summary | None, other: Summary | None) -> bool | None:
    """Whether two scores cannot be told apart: the paired 95 % interval holds zero."""
    if one is None or other is None:
        return None
    n = len(one.values)
    if n < 2 or n != len(other.values):
        return None
    differences = [a - b for a, b in zip(one.values, other.values, strict=True)]
    return not paired_ratio(differences, [1.0] * n).differs
