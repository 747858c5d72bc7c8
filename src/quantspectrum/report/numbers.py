"""How numbers are written: enough digits for their error, a true minus sign, a unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

__all__ = [
    "ABSENT",
    "LEAST_LOSS",
    "Estimated",
    "Spread",
    "between",
    "correlation",
    "count",
    "duration",
    "minus",
    "number",
    "percent",
    "plural",
    "relative",
    "score",
    "signed",
    "signed_percent",
    "signed_points",
    "size",
    "with_error",
    "with_interval",
    "yes_no",
]

ABSENT = "—"
"""Stands where nothing was measured."""

LEAST_LOSS = 0.01
"""Loss (nats per token) below which no change is given as a share of it.

At this loss the right token has a probability of 99 %: a percentage of less is of next to nothing,
and grows without bound as the loss goes to 0.
"""


_MOST_DECIMALS = 6
"""Decimals beyond which a number is written in powers of ten."""


class Spread(Protocol):
    """What has a 95 % interval, or ``None`` for both of its ends."""

    @property
    def low(self) -> float | None:
        """Lower end."""

    @property
    def high(self) -> float | None:
        """Upper end."""


class Estimated(Spread, Protocol):
    """A value with its interval; the value is ``None`` where the statistic is undefined."""

    @property
    def value(self) -> float | None:
        """The estimate."""


def minus(text: str) -> str:
    """Replace a leading hyphen by a minus sign; zero loses its sign."""
    if not any(digit in text for digit in "123456789"):
        return text.lstrip("+-")
    return "−" + text[1:] if text.startswith("-") else text


def count(value: int | None) -> str:
    """Whole number with thousands separated: ``12,345``."""
    return ABSENT if value is None else minus(f"{value:,}")


def decimals(stderr: float | None, value: float) -> int:
    """Decimals that show two digits of the error, or four digits of a value without one."""
    reference = stderr if stderr else (abs(value) / 100 or 0.01)
    return max(1 - math.floor(math.log10(reference)), 0)


def number(value: float, stderr: float | None = None) -> str:
    """Decimal with the digits its error allows; in powers of ten where it would be mostly zeros."""
    return _written(value, stderr, "")


def signed(value: float, stderr: float | None = None) -> str:
    """As :func:`number`, with a sign: ``+0.0123``, ``+1.2e-7``."""
    return _written(value, stderr, "+")


def _written(value: float, stderr: float | None, sign: str) -> str:
    places = decimals(stderr, value)
    if places <= _MOST_DECIMALS:
        return minus(f"{value:{sign}.{places}f}")
    if round(value, places) == 0:
        return "0"
    # As many digits as reach the second one of the error; three where there is none.
    digits = places + math.floor(math.log10(abs(value))) if stderr else 2
    mantissa, exponent = f"{value:{sign}.{max(digits, 0)}e}".split("e")
    return f"{minus(mantissa)}e{int(exponent)}"


def with_error(value: float | None, stderr: float | None) -> str:
    """Value ± standard error, both with the same decimals; without one, the value alone."""
    if value is None:
        return ABSENT
    if stderr is None:
        return number(value)
    return f"{number(value, stderr)} ± {number(stderr, stderr)}"


def between(found: Spread, text: Callable[[float], str]) -> str:
    """An interval, ``1.00e-2 to 1.40e-2``, its ends written by ``text``."""
    if found.low is None or found.high is None:
        return ABSENT
    return f"{text(found.low)} to {text(found.high)}"


def score(value: float | None) -> str:
    """Three significant digits, in powers of ten: ``1.30e-2``; errors keep the same form."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{minus(mantissa)}e{int(exponent)}"


def correlation(value: float) -> str:
    """A rank correlation with two decimals."""
    return minus(f"{value:.2f}")


def with_interval(found: Estimated | None, text: Callable[[float], str] = score) -> str:
    """An estimate with its interval: ``1.20e-2 (1.00e-2 to 1.40e-2)``."""
    if found is None:
        return ABSENT
    if found.value is None:
        return "undefined"
    if found.low is None or found.high is None:
        return text(found.value)
    return f"{text(found.value)} ({between(found, text)})"


def yes_no(known: bool | None) -> str:
    """``yes`` or ``no``; ``unknown`` for ``None``."""
    if known is None:
        return "unknown"
    return "yes" if known else "no"


def percent(value: float) -> str:
    """Share as a percentage: ``75 %``, one decimal where it is not whole."""
    text = f"{100 * value:.1f}".removesuffix(".0")
    return f"{minus(text)} %"


def signed_percent(value: float) -> str:
    """Relative change with two decimals and a sign: ``+0.41 %``."""
    return minus(f"{100 * value:+.2f} %")


def signed_points(value: float) -> str:
    """Difference of two shares in percentage points, with one decimal and a sign."""
    return minus(f"{100 * value:+.1f}")


def relative(value: float, whole: float) -> str:
    """A change as a signed percentage of a loss; in nats where that is below ``LEAST_LOSS``."""
    return signed_percent(value / whole) if whole >= LEAST_LOSS else f"{signed(value)} nats"


def size(value: int | None) -> str:
    """Bytes in the decimal unit that fits: ``2.43 GB``."""
    if value is None:
        return ABSENT
    amount, units = float(value), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    digits = 0 if units[0] == "B" or amount >= 99.5 else 1 if amount >= 9.95 else 2
    return f"{amount:.{digits}f} {units[0]}"


def plural(value: int, noun: str) -> str:
    """Count with its noun: ``1 op``, ``12 ops``, ``2 batches``."""
    ending = "es" if noun.endswith(("ch", "sh", "s", "x")) else "s"
    return f"{count(value)} {noun}{'' if value == 1 else ending}"


def duration(seconds: float | None) -> str:
    """Seconds below two minutes, then minutes, then hours."""
    if seconds is None:
        return ABSENT
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
