"""Orders of groups: those of lenses, by score and by score per byte, and the yardsticks beside them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quantspectrum.agreement.agree import group_scores, labels_of
from quantspectrum.artifacts import Op, SensitivityReport, by_group
from quantspectrum.spectrum.groups import adds_up

__all__ = ["RANDOM_ORDERS", "Order", "TruthGroup", "groups_of", "orders_of", "yardsticks_of"]

RANDOM_ORDERS = 3


@dataclass(frozen=True, kw_only=True)
class TruthGroup:
    """Ops that share a format, with the bytes of their weights in high precision."""

    name: str
    component: str
    ops: tuple[str, ...]
    weight_bytes: int


@dataclass(frozen=True, kw_only=True)
class Order:
    """Groups, the least sensitive first, and what is known of whoever put them so.

    Attributes:
        scores: Scores of the groups it ranks.
        per_byte: They are in the order of their scores per byte.
    """

    label: str
    groups: tuple[str, ...]
    per_byte: bool = False
    scores: Mapping[str, float] | None = None
    seconds: float | None = None
    peak_bytes: int | None = None


def groups_of(ops: Sequence[Op], bytes_a_value: int) -> list[TruthGroup]:
    """Groups of candidates, in the order of their names."""
    return [
        TruthGroup(
            name=name,
            component=some[0].component,
            ops=tuple(sorted(op.name for op in some)),
            weight_bytes=sum(math.prod(op.shape) for op in some) * bytes_a_value,
        )
        for name, some in sorted(by_group(ops).items())
    ]


def orders_of(reports: Sequence[SensitivityReport], groups: Sequence[TruthGroup]) -> list[Order]:
    """The orders of each report; groups that it does not rank come last, by name.

    Besides the order of its scores, a report of damages has that of its scores per byte of weights:
    where damages add up, no other costs less on the way over the bytes (Smith's rule), and budgets of
    bytes follow it (:mod:`quantspectrum.spectrum.budgets`).

    Source: W. E. Smith (1956), *Naval Research Logistics Quarterly* 3.
    """
    found = []
    members = {group.name: group.ops for group in groups}
    for label, report in zip(labels_of(reports), reports, strict=True):
        scores = group_scores(report, members)
        order = Order(
            label=label,
            groups=_ascending([group.name for group in groups], scores),
            scores=scores,
            seconds=_seconds(report),
            peak_bytes=_peak(report),
        )
        found.append(order)
        if adds_up(report.lens):
            found.append(replace(order, **_per_byte(label, scores, groups)))
    return found


def _per_byte(
    label: str, scores: Mapping[str, float], groups: Sequence[TruthGroup]
) -> dict[str, Any]:
    """What differs in the order of scores per byte."""
    rates = {g.name: scores[g.name] / g.weight_bytes for g in groups if g.name in scores}
    ordered = _ascending([group.name for group in groups], rates)
    return {"label": f"{label} per byte", "groups": ordered, "per_byte": True}


def _ascending(names: Sequence[str], scores: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda n: (n not in scores, scores.get(n, 0.0), n)))


def _seconds(report: SensitivityReport) -> float:
    framework = report.framework
    if framework is not None and framework.seconds is not None:
        return framework.seconds
    return report.provenance.wall_s


def _peak(report: SensitivityReport) -> int | None:
    framework = report.framework
    if framework is not None and framework.peak_bytes is not None:
        return framework.peak_bytes
    return report.provenance.peak_device_bytes or report.provenance.peak_host_bytes


def yardsticks_of(
    groups: Sequence[TruthGroup], damages: Mapping[str, float], seed: int
) -> list[Order]:
    """The orders of the measured damages, the inverted one and random ones."""
    names = [group.name for group in groups]
    measured = Order(label="measured", groups=_ascending(names, damages))
    found = [
        measured,
        replace(measured, **_per_byte("measured", damages, groups)),
        Order(label="inverted", groups=measured.groups[::-1]),
    ]
    for number in range(RANDOM_ORDERS):
        shuffled = sorted(names)
        random.Random(f"{seed} {number}").shuffle(shuffled)
        found.append(Order(label=f"random {number + 1}", groups=tuple(shuffled)))
    return found
