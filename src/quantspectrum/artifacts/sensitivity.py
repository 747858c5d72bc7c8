"""The sensitivity report: a lens's scores for every op."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, TypeVar

from pydantic import Field

from quantspectrum.artifacts.base import Artifact, Provenance, Record
from quantspectrum.formats import Format

__all__ = [
    "Coverage",
    "EngineNote",
    "FrameworkNote",
    "Op",
    "OpNote",
    "OpScore",
    "Rescored",
    "RescoredOp",
    "SensitivityReport",
    "by_group",
]


class Op(Record):
    """One quantizable module. ``shape`` and ``params`` are of its weight (and bias)."""

    name: str
    type: str
    component: str
    block: int | None
    group: str
    shape: tuple[int, ...]
    params: int


AnyOp = TypeVar("AnyOp", bound=Op)


def by_group(ops: Iterable[AnyOp]) -> dict[str, list[AnyOp]]:
    """The ops of each group, groups and ops in the order given."""
    members: dict[str, list[AnyOp]] = {}
    for op in ops:
        members.setdefault(op.group, []).append(op)
    return members


class OpNote(Record):
    """An op that is not scored, and why: kept in high precision by a rule, or skipped.

    ``component`` and ``block`` say where it is, as for an :class:`Op`.
    """

    name: str
    type: str
    reason: str
    component: str = "other"
    block: int | None = None


class OpScore(Op):
    """An op with its score; higher is more sensitive, rank 1 is the most sensitive.

    Attributes:
        score: Mean over samples.
        stderr: Standard error of that mean; ``None`` with fewer than two samples.
        n: Samples behind the score.
        rank: Position in the ranking, from 1.
        raw: The lens's own numbers under their own names.
        input_range: Smallest and largest input seen in calibration, for static formats.
        kind: ``measured`` by the lens's metric, or ``estimated`` from the estimator's cheap score,
            brought to the metric's scale.
        tied_with_next: The 95 % interval of the paired difference to the next score holds zero:
            the two cannot be told apart. ``None`` where there is nothing to tell them by.
        weight_score: Score with the weight alone quantized (or restored), where it was measured.
        activation_score: Score with the activations alone quantized (or restored).
    """

    score: float
    stderr: float | None = None
    n: int
    rank: int
    raw: dict[str, float] = Field(default_factory=dict)
    input_range: tuple[float, float] | None = None
    kind: Literal["measured", "estimated"] = "measured"
    tied_with_next: bool | None = None
    weight_score: float | None = None
    activation_score: float | None = None


class Coverage(Record):
    """What of the model a report covers: ``found = scored + kept + skipped``.

    ``estimated`` of those scored were not measured by the metric itself.
    """

    found: int
    scored: int
    estimated: int = 0
    kept: tuple[OpNote, ...] = ()
    skipped: tuple[OpNote, ...] = ()


class EngineNote(Record):
    """How the native lens ran.

    Attributes:
        replay: Ops were replayed from the block that holds them; otherwise by whole passes.
        whole_because: Why whole passes were run.
        head_read: The output head's input was read and differences turned into logits in float32;
            otherwise logits were read.
        slots: Ops of one block replayed together, slot 0 (unperturbed) counted.
        batches: Batches behind the scores.
        batch_size: Samples of the largest batch.
        captured_bytes: Bytes of captured tensors at most, by place: device, host and disk.
        seconds: Wall time by phase.
    """

    replay: bool
    whole_because: str | None = None
    head_read: bool
    slots: int
    batches: int
    batch_size: int
    captured_bytes: dict[str, int] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)


class RescoredOp(Record):
    """An op's score once others are restored, and where it stood before among the same ops."""

    name: str
    score: float
    stderr: float | None = None
    rank: int
    rank_before: int


class Rescored(Record):
    """The ``fallback`` ranking again, with the most sensitive groups in high precision.

    Attributes:
        restored: Ops in high precision.
        ops: The others, most sensitive first.
        spearman: Rank correlation of the two orders; ``None`` with fewer than two ops.
    """

    restored: tuple[str, ...]
    ops: tuple[RescoredOp, ...]
    spearman: float | None


class FrameworkNote(Record):
    """How a lens that is not the native one ran.

    Attributes:
        name: The framework, or ``built in`` for rules of thumb.
        versions: Its version and those of what it computes with.
        settings: What it was told, and what it chose itself (such as INC's ``reduce_range``).
        notes: Defects and deviations that bear on how the scores are read.
        asked: Ops it was asked to score.
        covered: Ops among those that it scored.
        seconds: Wall time of its scoring, without loading.
        peak_bytes: Peak memory of its process.
    """

    name: str
    versions: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    asked: int
    covered: int
    seconds: float | None = None
    peak_bytes: int | None = None


class SensitivityReport(Artifact):
    """A lens's scores for every op, most sensitive first.

    Attributes:
        complete: Every candidate was scored, and measured where that was asked.
        stopped_by: What ended an incomplete scan.
        estimator: Metric behind the scores of kind ``estimated``.
        engine: How the native lens ran.
        rescored: How the order changes once the most sensitive groups are restored.
        framework: How a lens of another framework ran.
    """

    KIND: ClassVar[str] = "sensitivity"
    kind: Literal["sensitivity"] = "sensitivity"
    lens: str
    base: Literal["isolate", "fallback"]
    format: Format
    provenance: Provenance
    complete: bool
    stopped_by: str | None = None
    coverage: Coverage
    estimator: str | None = None
    engine: EngineNote | None = None
    rescored: Rescored | None = None
    framework: FrameworkNote | None = None
    ops: tuple[OpScore, ...]
