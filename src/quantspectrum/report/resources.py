"""Tables of what each profile is and takes: groups, formats, bytes, memory, times."""

from __future__ import annotations

from quantspectrum.artifacts import RunnerRun
from quantspectrum.report.comparison import Comparison, ComparisonRow
from quantspectrum.report.numbers import ABSENT, count, duration, percent, score, size
from quantspectrum.report.quantities import with_unit
from quantspectrum.report.tables import Table, columns

__all__ = [
    "EMULATED",
    "LATENCY",
    "all_rows",
    "latency_table",
    "matmuls_table",
    "memory_table",
    "rules_table",
    "size_table",
    "state_of",
]

EMULATED = "emulated INT8: not a speed measurement"

LATENCY = "Latency"
"""Heading of the table whose times may be emulated."""


def size_table(comparison: Comparison) -> Table:
    """What each profile quantizes and how large its checkpoint is."""
    guarded = any(row.guard for row in comparison.rows)
    rows = tuple(
        (
            row.profile,
            count(row.groups),
            percent(row.share) if row.share is not None else ABSENT,
            count(row.ops),
            _formats(row),
            size(row.predicted_bytes),
            size(row.disk_bytes),
            f"{row.ratio:.3f}×" if row.ratio is not None else ABSENT,
            score(row.predicted_damage),
            state_of(row) or "evaluated",
            *((row.guard or ABSENT,) if guarded else ()),
        )
        for row in all_rows(comparison)
    )
    return Table(
        caption=(
            "Groups are ops that must share a format; the share is of the groups that may be "
            "quantized. 1 GB is 10⁹ bytes. Predicted damage is the sum of the quantized ops' "
            "scores; of profiles that mix formats, of the scores in each op's own."
        ),
        columns=columns(
            "Profile",
            "Groups quantized",
            "Share",
            "Ops",
            "Formats",
            "Weights predicted",
            "Checkpoint",
            "Of the baseline",
            with_unit("Predicted damage", comparison.lens or ""),
            "State",
            *(("Against rivals",) if guarded else ()),
            text=("Profile", "Formats", "State", "Against rivals"),
        ),
        rows=rows,
    )


def rules_table(comparison: Comparison) -> Table | None:
    """How each profile chose its groups, in words; ``None`` where no profile says.

    A table of its own, as such a text beside the numbers would make every row of them tall.
    """
    rows = tuple((row.profile, row.rule) for row in comparison.rows if row.rule)
    if not rows:
        return None
    return Table(
        caption="How each profile chose its groups and formats.",
        columns=columns("Profile", "Rule", text=("Profile", "Rule")),
        rows=rows,
    )


def latency_table(comparison: Comparison) -> Table | None:
    """Times per batch size; ``None`` where none was measured."""
    rows = [
        (
            row.profile,
            count(entry.batch_size),
            count(entry.prompt_tokens),
            count(entry.new_tokens),
            count(entry.repeats),
            _time(entry.prefill_ms, row),
            _time(entry.per_token_ms, row),
            duration(row.load_s),
            EMULATED if row.kernel == "emulated" else row.kernel or ABSENT,
        )
        for row in all_rows(comparison)
        for entry in row.latency
    ]
    rows += [
        (
            row.profile,
            count(entry.batch_size),
            count(entry.prompt_tokens),
            count(entry.new_tokens),
            count(entry.repeats),
            milliseconds(entry.prefill_ms),
            milliseconds(entry.per_token_ms),
            duration(run.load_s),
            _runner(run),
        )
        for row in all_rows(comparison)
        for run in row.runners
        for entry in run.latency
    ]
    if not rows:
        return None
    return Table(
        caption="Medians over the repeats, after a warm-up.",
        columns=columns(
            "Profile",
            "Batch",
            "Prompt tokens",
            "New tokens",
            "Repeats",
            "Prefill (ms)",
            "Per token (ms)",
            "Load",
            "Kernel",
            text=("Profile", "Kernel"),
        ),
        rows=tuple(rows),
    )


def _time(taken: float, row: ComparisonRow) -> str:
    return milliseconds(taken) + (" (emulated)" if row.kernel == "emulated" else "")


def milliseconds(taken: float) -> str:
    """A time in ms with two or three digits."""
    return f"{taken:,.{1 if taken >= 10 else 2}f}"


def _runner(run: RunnerRun) -> str:
    """The library, where it ran, and what with."""
    version = run.versions.get(run.runner) or run.versions.get(f"{run.runner}-cpu", "")
    return f"{run.runner} {version} ({run.device}, {run.dtype}): {run.weights}"


def all_rows(comparison: Comparison) -> list[ComparisonRow]:
    """The baseline, where it was evaluated, and every profile."""
    return [row for row in (comparison.baseline, *comparison.rows) if row is not None]


def state_of(row: ComparisonRow) -> str:
    """Words for a profile that has not been evaluated; empty for one that has."""
    if row.evaluated:
        return ""
    return "not evaluated" if row.written else "not written"


def _formats(row: ComparisonRow) -> str:
    """Ops by format, most first: ``w8a8 120, w4a16-g128 24``."""
    found = sorted(row.formats.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count(ops)}" for name, ops in found) or ABSENT


def memory_table(comparison: Comparison) -> Table | None:
    """Bytes of the stored weights by type, and the peaks of memory."""
    rows = [row for row in all_rows(comparison) if row.weight_bytes or row.peak_host_bytes]
    if not rows:
        return None
    types = sorted({kind for row in rows for kind in row.weight_bytes or {}})
    return Table(
        caption="Bytes of the weights by the type they are stored in, and the most memory that the "
        "evaluation took: of the process, and of the device where there is one.",
        columns=columns(
            *("Profile", *types, "Peak of the process", "Peak of the device", "Evaluated in"),
            text=("Profile",),
        ),
        rows=tuple(
            (
                row.profile,
                *(size((row.weight_bytes or {}).get(kind)) for kind in types),
                size(row.peak_host_bytes),
                size(row.peak_device_bytes),
                duration(sum(row.phases_s.values()) if row.phases_s else None),
            )
            for row in rows
        ),
    )


def matmuls_table(comparison: Comparison) -> Table | None:
    """What really multiplied, by operator and types of the operands."""
    rows = tuple(
        (row.profile, row.kernel or ABSENT, operator, count(calls))
        for row in all_rows(comparison)
        for operator, calls in (row.matmuls or {}).items()
    ) + tuple(
        (row.profile, run.runner, kernel, count(calls))
        for row in all_rows(comparison)
        for run in row.runners
        for kernel, calls in run.kernels.items()
    )
    if not rows:
        return None
    return Table(
        caption="What one forward pass dispatched: each operator with the types of its operands. "
        "A variant whose operands are all floating-point was emulated. Of other libraries: what ran, "
        "as each tells it (the evaluation's notes say of how many passes).",
        columns=columns(
            *("Profile", "Kernel", "Operator", "Calls"),
            text=("Profile", "Kernel"),
            names=("Operator",),
        ),
        rows=rows,
    )
