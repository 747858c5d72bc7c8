"""Ground truth: every group alone, and every lens's order followed from the first group to the last."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quantspectrum.agreement.orders import Order, TruthGroup, yardsticks_of
from quantspectrum.agreement.rank_statistics import kendall_interval, spearman_interval
from quantspectrum.artifacts import (
    CurvePoint,
    GroupTruth,
    Interval,
    OrderTruth,
)
from quantspectrum.spectrum.costs import count_nearest
from quantspectrum.spectrum.kept_meter import KeptMeter
from quantspectrum.spectrum.meter import Meter, Ops, Reading, ops_sha256
from quantspectrum.spectrum.quality_budget import kl_of, nll_of, ratio
from quantspectrum.statistics import spearman

__all__ = ["DEFAULT_SHARES", "measure_truth"]

DEFAULT_SHARES = (*(number / 10 for number in range(1, 10)), 0.95, 0.975)
"""Evenly spaced, and closing in on everything: the last groups hold most of the damage."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The truth, before it becomes a record."""

    groups: tuple[GroupTruth, ...]
    orders: tuple[OrderTruth, ...]
    ceiling: float | None
    best: str | None


def measure_truth(
    meter: Meter | KeptMeter,
    groups: Sequence[TruthGroup],
    orders: Sequence[Order],
    fmt: str,
    *,
    shares: Sequence[float] = DEFAULT_SHARES,
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
) -> Measured:
    """Measure each group alone, then each order's prefixes, yardsticks among them.

    Args:
        meter: Measures profiles on held-out batches.
        groups: The candidates.
        orders: Of the lenses.
        fmt: Name of the format, of the meter's plans.
        shares: Shares of the weight bytes to measure the orders at.
        seed: Of the random orders and of the resampling of groups.
        step: Called after each profile and batch.
    """
    names = [group.name for group in groups]
    alone = meter.measure([_ops([group], fmt) for group in groups], step=step)
    damages = {
        name: _kl(reading, meter.baseline).value for name, reading in zip(names, alone, strict=True)
    }
    yardsticks = yardsticks_of(groups, damages, seed)
    every = [*orders, *yardsticks]
    by_name = {group.name: group for group in groups}
    prefixes = {
        order.label: _prefixes([by_name[name] for name in order.groups], shares) for order in every
    }
    unique = {
        ops_sha256(ops): ops
        for some in prefixes.values()
        for ops in (_ops(taken, fmt) for taken in some)
    }
    readings = dict(zip(unique, meter.measure(list(unique.values()), step=step), strict=True))
    total = sum(group.weight_bytes for group in groups)
    curves = {
        label: [_Point.of(taken, readings[ops_sha256(_ops(taken, fmt))], total) for taken in some]
        for label, some in prefixes.items()
    }
    lens_labels = [order.label for order in orders]
    areas = {label: _area(curve, meter.baseline) for label, curve in curves.items()}
    best = min(lens_labels, key=lambda label: areas[label].value, default=None)
    return Measured(
        groups=tuple(
            GroupTruth(
                group=group.name,
                component=group.component,
                ops=group.ops,
                weight_bytes=group.weight_bytes,
                kl=_kl(reading, meter.baseline),
                nll=nll_of(reading, meter.baseline),
            )
            for group, reading in zip(groups, alone, strict=True)
        ),
        orders=tuple(
            _judged(
                order,
                curves[order.label],
                meter.baseline,
                damages,
                "lens" if order.label in lens_labels else "yardstick",
                curves[best] if best is not None and best != order.label else None,
                seed,
            )
            for order in every
        ),
        ceiling=_ceiling(alone, meter.baseline),
        best=best,
    )


def _ops(groups: Sequence[TruthGroup], fmt: str) -> Ops:
    return {op: fmt for group in groups for op in group.ops}


def _prefixes(order: Sequence[TruthGroup], shares: Sequence[float]) -> list[Sequence[TruthGroup]]:
    """The first groups, up to where their bytes are nearest to each share of all; at last all."""
    sizes = [group.weight_bytes for group in order]
    return [order[: count_nearest(sizes, share * sum(sizes))] for share in (*shares, 1)]


@dataclass(frozen=True, kw_only=True)
class _Point:
    share: float
    groups: int
    reading: Reading

    @classmethod
    def of(cls, taken: Sequence[TruthGroup], reading: Reading, total: int) -> _Point:
        size = sum(group.weight_bytes for group in taken)
        return cls(share=size / total, groups=len(taken), reading=reading)


def _weights(curve: Sequence[_Point]) -> list[float]:
    """Trapezoid weights of the points between a share of 0, where nothing is lost, and the last."""
    shares = [0.0, *(point.share for point in curve)]
    weights = [0.0] * len(shares)
    for i in range(1, len(shares)):
        for end in (i - 1, i):
            weights[end] += (shares[i] - shares[i - 1]) / 2
    return weights[1:]


def _area_sums(curve: Sequence[_Point]) -> list[float]:
    """Each sample's part of the area, as a sum over its tokens."""
    weights = _weights(curve)
    sums = zip(*(point.reading.values["kl"] for point in curve), strict=True)
    return [math.fsum(w * v for w, v in zip(weights, one, strict=True)) for one in sums]


def _area(curve: Sequence[_Point], baseline: Reading) -> Interval:
    return _ratio(_area_sums(curve), baseline)


def _ratio(sums: Sequence[float], baseline: Reading) -> Interval:
    made = ratio(sums, baseline.values["text_tokens"])
    assert made is not None, "models without tokens are refused"
    return made


def _kl(reading: Reading, baseline: Reading) -> Interval:
    made = kl_of(reading, baseline)
    assert made is not None, "models without tokens are refused"
    return made


def _judged(
    order: Order,
    curve: Sequence[_Point],
    baseline: Reading,
    damages: Mapping[str, float],
    kind: str,
    best: Sequence[_Point] | None,
    seed: int,
) -> OrderTruth:
    sums = _area_sums(curve)
    spear = tau = None
    if order.scores is not None and not order.per_byte:
        names = sorted(order.scores)
        pair = [order.scores[name] for name in names], [damages[name] for name in names]
        spear, tau = spearman_interval(*pair, seed=seed), kendall_interval(*pair, seed=seed)
    points = tuple(
        CurvePoint(
            share=point.share,
            groups=point.groups,
            kl=_kl(point.reading, baseline),
            nll=nll_of(point.reading, baseline),
        )
        for point in curve
    )
    inner = [point.kl.value for point in points if point.share < 1]
    return OrderTruth(
        label=order.label,
        kind="lens" if kind == "lens" else "yardstick",
        per_byte=order.per_byte,
        spearman=spear,
        kendall=tau,
        curve=points,
        area=_ratio(sums, baseline),
        area_more=_ratio([a - b for a, b in zip(sums, _area_sums(best), strict=True)], baseline)
        if best is not None
        else None,
        log_area=sum(map(math.log10, inner)) / len(inner) if inner and min(inner) > 0 else None,
        seconds=order.seconds,
        peak_bytes=order.peak_bytes,
        groups=len(order.scores) if order.scores is not None else len(order.groups),
    )


def _ceiling(alone: Sequence[Reading], baseline: Reading) -> float | None:
    r"""Split-half rank correlation :math:`r` of the damages, stepped up to :math:`2r / (1 + r)`.

    Source: Spearman (1910) and Brown (1910), *British Journal of Psychology* 3.
    """
    tokens = baseline.values["text_tokens"]
    halves = []
    for start in (0, 1):
        size = math.fsum(tokens[start::2])
        if size == 0:
            return None
        halves.append([math.fsum(one.values["kl"][start::2]) / size for one in alone])
    r = spearman(halves[0], halves[1])
    return None if r is None or r <= -1 else 2 * r / (1 + r)
