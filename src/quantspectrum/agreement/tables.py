"""Agreement as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from quantspectrum.artifacts import Agreement, PairAgreement, RankInterval

__all__ = ["agreement_markdown", "interval_text"]


def interval_text(interval: RankInterval, digits: int = 2) -> str:
    """A value with its interval, such as ``0.93 (0.90 to 0.95)``."""
    if interval.value is None:
        return "undefined"
    text = f"{interval.value:.{digits}f}"
    if interval.low is None or interval.high is None:
        return text
    return f"{text} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


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
