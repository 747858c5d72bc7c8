"""The rules of profiles as they are written on a command line: cuts, budgets and kept ops."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from quantspectrum.errors import UserError
from quantspectrum.units import parse_bytes

__all__ = ["Budget", "Keep", "parse_budgets", "parse_cuts", "parse_keeps"]

Kind = Literal["bytes", "damage", "time", "latency"]

_FORMS = (
    "NAME=bytes:60%, NAME=bytes:1.5GB, NAME=damage:0.01, NAME=time:70%, NAME=latency:80% or "
    "NAME=latency:4ms (with @ROWS where the table has several counts of rows)"
)
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_SECONDS = {"us": Fraction(1, 10**6), "ms": Fraction(1, 1000), "s": Fraction(1)}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a profile may cost at most.

    Attributes:
        kind: ``bytes``: weight bytes of the whole model; ``damage``: summed scores; ``time``:
            bytes of the candidates' weights, which a memory-bound pass reads once; ``latency``:
            summed times of the candidates' linears in a latency table.
        share: The limit as a share of the unquantized model's cost, or ``None``.
        limit: The limit itself, in bytes, seconds or the unit of the scores, or ``None``.
        rows: Count of rows whose times are meant; ``None`` where the table has one.
        text: The rule as it was written, without the name.
    """

    kind: Kind
    share: Fraction | None = None
    limit: Fraction | None = None
    rows: int | None = None
    text: str


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Ops that match ``pattern`` (:mod:`quantspectrum.patterns`) have ``format``, whatever it costs."""

    pattern: str
    format: str


def parse_cuts(texts: Sequence[str]) -> dict[str, float]:
    """Read cut points written as ``NAME=SHARE``, with a share such as ``0.3`` or ``30%``.

    Raises:
        UserError: A text is not of that form, or a name occurs twice or cannot be a file name.
    """
    cuts: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
        except ValueError:
            raise UserError(f"cut {text!r} is not NAME=SHARE, such as mild=15%") from None
        _check_name("cut", text, name, cuts, quantizes=share != 0)
        cuts[name] = share
    return cuts


def parse_budgets(texts: Sequence[str]) -> dict[str, Budget]:
    """Read budgets written as ``NAME=KIND:AMOUNT``.

    Raises:
        UserError: A text is not of that form, or a name occurs twice or cannot be a file name.
    """
    budgets: dict[str, Budget] = {}
    for text in texts:
        name, _, rule = text.partition("=")
        kind, _, amount = rule.partition(":")
        budget = _budget(kind.strip(), amount.strip(), rule)
        if budget is None:
            raise UserError(f"budget {text!r} is not one of {_FORMS}")
        _check_name("budget", text, name, budgets)
        budgets[name] = budget
    return budgets


def _check_name(
    what: str, text: str, name: str, taken: Mapping[str, object], *, quantizes: bool = True
) -> None:
    if name == "baseline" and quantizes:
        raise UserError(
            f"{what} {text!r}: baseline is what nothing is quantized in; use another name"
        )
    if not name.replace("-", "").replace("_", "").isalnum() or name in taken:
        raise UserError(f"{what} {text!r}: use a new name of letters, digits, '-' and '_'")


def _budget(kind: str, amount: str, text: str) -> Budget | None:
    rows = None
    if kind == "latency" and "@" in amount:
        amount, _, count = amount.rpartition("@")
        if not re.fullmatch(r"[1-9][0-9]*", count):
            return None
        rows = int(count)
    if kind in ("bytes", "time", "latency") and amount.endswith("%"):
        share = _number(amount[:-1])
        if share is None or not 0 < share <= 100:
            return None
        return Budget(kind=kind, share=share / 100, rows=rows, text=text)  # type: ignore[arg-type]
    limit = _limit(kind, amount)
    if limit is None:
        return None
    return Budget(kind=kind, limit=limit, rows=rows, text=text)  # type: ignore[arg-type]


def _limit(kind: str, amount: str) -> Fraction | None:
    # Scores and times are floats, and so is what they are compared with: 0.4 is within 0.4.
    if kind == "damage":
        number = _number(amount)
        return Fraction(float(number)) if number is not None else None
    if kind == "bytes":
        try:
            return Fraction(parse_bytes(amount))
        except UserError:
            return None
    if kind == "latency":
        unit = next((unit for unit in _SECONDS if amount.endswith(unit)), None)
        number = _number(amount.removesuffix(unit)) if unit else None
        return Fraction(float(number * _SECONDS[unit])) if unit and number else None
    return None


def _number(text: str) -> Fraction | None:
    """The number exactly as it is written; none that a float cannot be as large as."""
    if not _NUMBER.fullmatch(text.strip()) or not math.isfinite(float(text)):
        return None
    return Fraction(text.strip())


def parse_keeps(texts: Sequence[str]) -> list[Keep]:
    """Read ``PATTERN=FORMAT``; the last ``=`` parts them, so that a pattern may hold one.

    Raises:
        UserError: A text is not of that form.
    """
    keeps = []
    for text in texts:
        pattern, _, fmt = text.rpartition("=")
        if not pattern or not fmt:
            raise UserError(f"keep {text!r} is not PATTERN=FORMAT, such as mlp.down_proj=bf16")
        keeps.append(Keep(pattern=pattern, format=fmt))
    return keeps
