"""Agreement and truth as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from quantspectrum.artifacts import (
    Agreement,
    Interval,
    OrderTruth,
    PairAgreement,
    RankInterval,
    Truth,
)

__all__ = ["agreement_markdown", "interval_text", "truth_markdown"]


def interval_text(interval: RankInterval) -> str:
    """A value with its interval, such as ``0.93 (0.90 to 0.95)``."""
    if interval.value is None:
        return "undefined"
    text = f"{interval.value:.2f}"
    if interval.low is None or interval.high is None:
        return text
    return f"{text} ({interval.low:.2f} to {interval.high:.2f})"


def agreement_markdown(agreement: Agreement) -> str:
    """Tables of lenses, pairs and the largest disagreements."""
    parts = ["# Agreement of lenses", "", *_lenses(agreement), ""]
    for unit in ("group", "op"):
        some = [pair for pair in agreement.pairs if pair.unit == unit]
        parts += [f"## Over {unit}s", "", *_pairs(some), ""]
    parts += ["## Where they disagree most", "", *_disagreements(agreement), ""]
    if agreement.left_out:
        parts += [f"{len(agreement.left_out)} ops are scored by some of the lenses only.", ""]
    parts += [
        f"Intervals are 95 %, from {agreement.resamples} resamples of the items ranked: they say how "
        "much hangs on single items, not how well each score is known.",
        "",
    ]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in escaped]


def _lenses(agreement: Agreement) -> list[str]:
    rows = [
        [
            lens.label,
            lens.base,
            lens.format,
            f"{lens.scored}{'' if lens.complete else ' (incomplete)'}",
            f"{lens.seconds:.1f}",
        ]
        for lens in agreement.lenses
    ]
    return _table(["lens", "base", "format", "ops scored", "seconds"], rows)


def _pairs(pairs: Sequence[PairAgreement]) -> list[str]:
    tops = sorted({k for pair in pairs for k in pair.top}, key=int)
    rows = [
        [
            pair.a,
            pair.b,
            pair.component,
            str(pair.n),
            interval_text(pair.spearman),
            interval_text(pair.kendall),
            *(interval_text(pair.top[k]) if k in pair.top else "" for k in tops),
        ]
        for pair in pairs
    ]
    head = ["lens", "lens", "component", "n", "Spearman", "Kendall tau-b"]
    return _table([*head, *(f"same of top {k}" for k in tops)], rows)


def _disagreements(agreement: Agreement) -> list[str]:
    labels = [lens.label for lens in agreement.lenses]
    rows = [
        [
            one.group,
            *(f"{one.places[label]:.0%} ({one.scores[label]:.3g})" for label in labels),
        ]
        for one in agreement.disagreements
    ]
    lines = _table(["group", *labels], rows)
    return [*lines, "", "Place among the groups, 0 % the most sensitive; in parentheses the score."]


def truth_markdown(truth: Truth) -> str:
    """Tables of the lenses against the truth, and of the most damaging groups."""
    orders = sorted(truth.orders, key=lambda order: order.area.value)
    head = ["order", "Spearman", "Kendall tau-b", "area", "more than the best", "mean log10 KL"]
    at = [share for share in (0.5, 0.9) if share in truth.shares]
    head += [*(f"KL at {share:.0%} of bytes" for share in at), "seconds", "peak GiB"]
    ranked = sorted(truth.groups, key=lambda group: -group.kl.value)[:10]
    ceiling = "undefined" if truth.ceiling is None else f"{truth.ceiling:.3f}"
    held_out = "held-out" if truth.held_out else "not known to be held-out"
    return "\n".join(
        [
            f"# Which lens tells the truth: {truth.format.name}",
            "",
            f"{len(truth.groups)} groups of {truth.provenance.model.id}, {truth.samples} {held_out} "
            f"samples. Rank correlation of the measured damages with themselves: {ceiling}.",
            "",
            *_table(head, [_order_row(order, truth, at) for order in orders]),
            "",
            "`measured` orders by the measured damages themselves, `inverted` the other way round. "
            "Area: mean KL over all sizes of profile, nats per token. In parentheses 95 % intervals: of "
            "rank statistics over the groups, of areas and KL over the samples, paired.",
            "",
            "## The most damaging groups, alone",
            "",
            *_table(
                ["group", "KL, nats/token"],
                [[group.group, _estimate_text(group.kl)] for group in ranked],
            ),
            "",
        ]
    )


def _order_row(order: OrderTruth, truth: Truth, at: Sequence[float]) -> list[str]:
    more = "" if order.area_more is None else _estimate_text(order.area_more)
    peak = "" if order.peak_bytes is None else f"{order.peak_bytes / 2**30:.2f}"
    return [
        order.label,
        "" if order.spearman is None else interval_text(order.spearman),
        "" if order.kendall is None else interval_text(order.kendall),
        _estimate_text(order.area),
        "best" if order.label == truth.best else more,
        "" if order.log_area is None else f"{order.log_area:.3f}",
        *(_estimate_text(order.curve[truth.shares.index(share)].kl) for share in at),
        "" if order.seconds is None else f"{order.seconds:.1f}",
        peak,
    ]


def _estimate_text(made: Interval) -> str:
    if made.low is None or made.high is None:
        return f"{made.value:.3g}"
    return f"{made.value:.3g} ({made.low:.3g} to {made.high:.3g})"
