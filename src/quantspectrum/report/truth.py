"""Tables of the ground truth; the report, the command and its Markdown print the same ones."""

from __future__ import annotations

from quantspectrum.artifacts import Interval, OrderTruth, Truth
from quantspectrum.report.numbers import (
    ABSENT,
    correlation,
    count,
    duration,
    minus,
    percent,
    plural,
    size,
    with_interval,
    yes_no,
)
from quantspectrum.report.quality import KL_TOKENS
from quantspectrum.report.tables import Document, Table, columns

__all__ = [
    "curves_table",
    "groups_table",
    "orders_table",
    "truth_document",
    "truth_sentence",
    "truth_tables",
]

_MOST = 10
"""Groups that are listed by their damage."""


def truth_document(truth: Truth) -> Document:
    """What the command prints and writes beside the record."""
    return Document(
        title=f"Which lens tells the truth: {truth.format.name}",
        sentences=(
            f"{plural(len(truth.groups), 'group')} of {truth.provenance.model.id}.",
            truth_sentence(truth),
        ),
        tables=(("Orders", orders_table(truth)), ("The most damaging groups", groups_table(truth))),
    )


def truth_tables(truth: Truth) -> tuple[Table, ...]:
    """Every table of this module."""
    return orders_table(truth), curves_table(truth), groups_table(truth)


def truth_sentence(truth: Truth) -> str:
    """Which lens foresaw best, and what none could exceed."""
    said = "A line is what quantizing along one order costs, the lower the better. "
    said += f"Measured on {plural(truth.samples, 'sample')}"
    said += "" if truth.held_out else ", not checked to be held out"
    if truth.best is not None:
        said += f"; the order that costs least is that of {truth.best} (area under the curve)"
    if truth.ceiling is not None:
        said += (
            f"; no lens can be expected to exceed a rank correlation of {truth.ceiling:.3f}, the "
            "measured damages' own repeatability"
        )
    return f"{said}."


def orders_table(truth: Truth) -> Table:
    """A row for each order of the groups, the smallest area first."""
    at = [share for share in (0.5, 0.9) if share in truth.shares]
    return Table(
        caption="Rank correlation of an order's group scores with the measured damages, and its area: "
        "the mean KL over all shares of bytes quantized, nats per token, smaller is better; alone and "
        "less the best lens's, paired over samples. `measured` orders by the measured damages, "
        "`inverted` the other way round, and `per byte` by scores per byte of weights, as budgets of "
        "bytes do. Intervals are 95 %: of rank correlations over the groups, "
        f"of areas and KL over the samples. {KL_TOKENS}",
        columns=columns(
            *(
                "Order",
                "Kind",
                "Spearman",
                "Kendall tau-b",
                "Area",
                "More than the best",
                "Differs",
            ),
            *("Mean log10 KL", *(f"KL at {percent(share)} of bytes" for share in at)),
            *("Time", "Peak memory"),
            text=("Kind", "Differs"),
            names=("Order",),
        ),
        rows=tuple(
            _order_row(order, truth, at)
            for order in sorted(truth.orders, key=lambda order: order.area.value)
        ),
    )


def _order_row(order: OrderTruth, truth: Truth, at: list[float]) -> tuple[str, ...]:
    return (
        order.label,
        order.kind,
        with_interval(order.spearman, correlation),
        with_interval(order.kendall, correlation),
        with_interval(order.area),
        "best" if order.label == truth.best else with_interval(order.area_more),
        ABSENT if order.area_more is None else yes_no(_excludes_zero(order.area_more)),
        ABSENT if order.log_area is None else minus(f"{order.log_area:.3f}"),
        *(with_interval(order.curve[truth.shares.index(share)].kl) for share in at),
        duration(order.seconds),
        size(order.peak_bytes),
    )


def _excludes_zero(found: Interval) -> bool | None:
    if found.low is None or found.high is None:
        return None
    return found.low > 0 or found.high < 0


def curves_table(truth: Truth) -> Table:
    """A row for each point of each curve."""
    return Table(
        caption="Points of the curves: KL in nats per token with its 95 % interval.",
        columns=columns("Order", "Share of bytes", "Groups", "KL", names=("Order",)),
        rows=tuple(
            (order.label, percent(point.share), count(point.groups), with_interval(point.kl))
            for order in truth.orders
            for point in order.curve
        ),
    )


def groups_table(truth: Truth) -> Table:
    """The groups that do most damage when quantized alone."""
    worst = sorted(truth.groups, key=lambda group: -group.kl.value)[:_MOST]
    return Table(
        caption=f"The {plural(len(worst), 'most damaging group')}, each quantized alone: KL in nats "
        "per token with its 95 % interval.",
        columns=columns("Group", "KL", names=("Group",)),
        rows=tuple((group.group, with_interval(group.kl)) for group in worst),
    )
