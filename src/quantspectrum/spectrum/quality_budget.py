r"""Quality budgets: how they are written, and whether a profile keeps to one.

A budget is one of

=====================  =================================================================
``kl 0.01``            KL divergence from the baseline, at most 0.01 nats per token
``nll +0.02``          loss, at most 0.02 nats per token above the baseline's
``nll +1%``            loss, at most 1 % above the baseline's
``perplexity +1%``     the same of :math:`e^{\mathrm{nll}}`: ``nll`` at most :math:`\log 1.01` above
``accuracy -0.5pt``    exact match, at most half a percentage point below the baseline's
=====================  =================================================================

Loss and KL are ratios of sums over samples, so that every token weighs the same, with paired intervals
clustered by sample (:func:`quantspectrum.statistics.paired_ratio`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from quantspectrum.artifacts import Interval, QualityBudget
from quantspectrum.errors import UserError
from quantspectrum.spectrum.meter import Reading
from quantspectrum.statistics import paired_ratio, t_quantile

__all__ = [
    "accuracy_lost",
    "kl_of",
    "meets",
    "nll_of",
    "nll_relative_of",
    "parse_budget",
    "ratio",
]

_GRAMMAR = re.compile(
    r"(kl|nll|perplexity|accuracy)\s+([+-]?)(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*(%|pt)?",
    re.IGNORECASE,
)

_EXAMPLES = '"kl 0.01", "nll +1%", "nll +0.02", "perplexity +1%" or "accuracy -0.5pt"'


def parse_budget(text: str, *, confident: bool = False) -> QualityBudget:
    """Read a budget.

    Raises:
        UserError: It is not of the grammar, or allows what no budget can.
    """
    found = _GRAMMAR.fullmatch(text.strip())
    if found is None:
        raise UserError(f"quality budget {text!r} is not understood; write it as {_EXAMPLES}")
    quantity, sign, value, unit = found[1].lower(), found[2], float(found[3]), found[4] or ""
    if not math.isfinite(value):
        raise UserError(f"quality budget {text!r} is not finite; write it as {_EXAMPLES}")
    if sign == ("+" if quantity == "accuracy" else "-"):
        way = "accuracy -0.5pt" if quantity == "accuracy" else f"{quantity} +…"
        raise UserError(f"quality budget {text!r} asks for a gain; write what may be lost: {way}")
    allowed = {
        ("kl", ""): ("kl", value),
        ("nll", ""): ("nll", value),
        ("nll", "%"): ("nll_relative", value / 100),
        ("perplexity", "%"): ("nll", math.log1p(value / 100)),
        ("accuracy", "pt"): ("accuracy", value / 100),
    }
    if (quantity, unit.lower()) not in allowed:
        raise UserError(
            f"quality budget {text!r}: {quantity} has no budget in {unit or 'plain numbers'}; "
            f"write it as {_EXAMPLES}"
        )
    kind, limit = allowed[quantity, unit.lower()]
    return QualityBudget(text=text.strip(), quantity=kind, limit=limit, confident=confident)


def meets(budget: QualityBudget, judged: Interval) -> bool:
    """Whether the estimate, or with ``confident`` the upper end of its interval, is in the limit.

    Raises:
        UserError: There is no interval, for lack of samples.
    """
    if not budget.confident:
        return judged.value <= budget.limit
    if judged.high is None:
        raise UserError("one sample has no interval; give more --samples, or no --confident")
    return judged.high <= budget.limit


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval | None:
    """Ratio of sums with its interval over the samples that have a denominator, if any has."""
    pairs = [(a, b) for a, b in zip(numerators, denominators, strict=True) if b > 0]
    if not pairs:
        return None
    made = paired_ratio([a for a, _ in pairs], [b for _, b in pairs])
    return Interval(n=made.n, value=made.value, stderr=made.stderr, low=made.low, high=made.high)


def kl_of(reading: Reading, baseline: Reading) -> Interval | None:
    """KL divergence in nats per text token; ``None`` where it was not measured, or has no token."""
    if "kl" not in reading.values:
        return None
    return ratio(reading.values["kl"], baseline.values["text_tokens"])


def nll_of(reading: Reading, baseline: Reading) -> Interval | None:
    """Change of the loss in nats per target token; ``None`` as in :func:`kl_of`."""
    if "nll_change" not in reading.values:
        return None
    return ratio(reading.values["nll_change"], baseline.values["targets"])


def nll_relative_of(reading: Reading, baseline: Reading) -> Interval | None:
    """Change of the loss as a share of the baseline's."""
    return ratio(reading.values["nll_change"], baseline.values["nll"])


def accuracy_lost(baseline: Mapping[str, bool], variant: Mapping[str, bool]) -> Interval:
    r"""Decrease of the share of right answers, with the interval of Agresti and Min.

    With *b* answers that only the baseline has right and *c* that only the variant has, of *n*, the
    estimate is :math:`(b - c)/n`. The usual interval is empty where no answer changed, however few
    there are; this one adds half an answer to each of the four cells first:

    .. math:: \frac{b - c}{n + 2} \pm \frac{t_{0.975,\,n-1}}{n + 2}
        \sqrt{b + c + 1 - \frac{(b - c)^2}{n + 2}}

    Source: Agresti and Min, *Simple improved confidence intervals for comparing matched
    proportions*, Statistics in Medicine 24 (2005) 729-740, with Student's *t* in place of the normal
    quantile. The estimate itself is never outside: the interval is widened to it where need be.
    """
    assert baseline.keys() == variant.keys(), "the same prompts"
    n = len(baseline)
    lost = sum(baseline[name] and not variant[name] for name in baseline)
    won = sum(variant[name] and not baseline[name] for name in baseline)
    value = (lost - won) / n
    if n < 2:
        return Interval(n=n, value=value)
    middle = (lost - won) / (n + 2)
    stderr = math.sqrt(lost + won + 1 - (lost - won) ** 2 / (n + 2)) / (n + 2)
    reach = t_quantile(n - 1) * stderr
    low, high = min(value, middle - reach), max(value, middle + reach)
    return Interval(n=n, value=value, stderr=stderr, low=low, high=high)
