"""What quantizing really did on held-out data, and which lens foresaw it."""

from __future__ import annotations

from typing import ClassVar, Literal

from quantspectrum.artifacts.agreement import RankInterval
from quantspectrum.artifacts.base import Artifact, Provenance, Record
from quantspectrum.artifacts.quality import Interval
from quantspectrum.formats import Format

__all__ = ["CurvePoint", "GroupTruth", "OrderTruth", "Truth"]


class GroupTruth(Record):
    """One group quantized alone.

    Attributes:
        weight_bytes: Bytes that its weights take in high precision.
        kl: KL divergence from the unquantized model, nats per token.
        nll: Change of the loss, nats per target token.
    """

    group: str
    component: str
    ops: tuple[str, ...]
    weight_bytes: int
    kl: Interval
    nll: Interval | None = None


class CurvePoint(Record):
    """The least sensitive groups of an order, quantized together.

    Attributes:
        share: Share of the candidates' weight bytes that is quantized.
        groups: Number of groups.
        kl: KL divergence from the unquantized model, nats per token.
        nll: Change of the loss, nats per target token.
    """

    share: float
    groups: int
    kl: Interval
    nll: Interval | None = None


class OrderTruth(Record):
    r"""An order of the groups: what it foretold, and what following it costs.

    Attributes:
        label: The lens, or ``random``, ``inverted`` and ``measured`` (by the measured damages
            themselves, forwards and backwards), with ``per byte`` where that is its order.
        kind: A lens's ranking, or a yardstick.
        per_byte: The groups are in the order of their scores per byte of weights, as budgets of bytes
            take them, and not of the scores themselves.
        spearman: Rank correlation of its group scores with the measured damages; ``None`` of an order
            per byte, whose scores are those of the order beside it.
        kendall: Kendall's tau-b of the same.
        curve: Damage along the order.
        area: Area under the curve over shares from 0 to 1 (trapezoids): the mean KL of all sizes of
            profile, nats per token.
        area_more: Area less that of the best lens, paired over the samples.
        log_area: Mean of :math:`\log_{10}` KL over the inner points: the same with small profiles
            counting as much as large ones.
        seconds: What the ranking took.
        peak_bytes: Peak memory of making it: of the device where it had one, else of the process.
        groups: Groups that it ranks; those it does not are quantized last.
    """

    label: str
    kind: Literal["lens", "yardstick"]
    per_byte: bool = False
    spearman: RankInterval | None
    kendall: RankInterval | None
    curve: tuple[CurvePoint, ...]
    area: Interval
    area_more: Interval | None = None
    log_area: float | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    groups: int


class Truth(Artifact):
    """Ground truth of one format on held-out data, and every lens beside it.

    Attributes:
        shares: Shares of bytes that the curves were measured at, as nearly as whole groups allow.
        ceiling: Rank correlation of the measured damages between two halves of the samples, by the
            Spearman-Brown formula brought to all of them: what no lens can be expected to exceed.
        best: Label of the lens with the smallest area.
        held_out: The samples were checked to be none of those that the rankings were made on.
    """

    KIND: ClassVar[str] = "truth"
    kind: Literal["truth"] = "truth"
    format: Format
    provenance: Provenance
    held_out: bool
    samples: int
    shares: tuple[float, ...]
    groups: tuple[GroupTruth, ...]
    ceiling: float | None
    best: str | None
    orders: tuple[OrderTruth, ...]
