"""Sizes and durations as people write them."""

from __future__ import annotations

import re

from quantspectrum.errors import UserError

__all__ = ["parse_bytes", "parse_seconds"]

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {
    "": 1,
    "B": 1,
    **{f"{prefix}{b}": 1000**n for n, prefix in enumerate("kMGT", 1) for b in ("", "B")},
    **{f"{prefix.upper()}iB": 1024**n for n, prefix in enumerate("kMGT", 1)},
    "K": 1000,
    "KB": 1000,
}


def parse_seconds(text: str) -> float:
    """Seconds of a duration such as ``90``, ``90s``, ``5m`` or ``1h``.

    Raises:
        UserError: It is not one, or not above zero.
    """
    return _parse(text, _SECONDS, "a duration such as 90s, 5m or 1h")


def parse_bytes(text: str) -> int:
    """Bytes of a size such as ``4GiB``, ``500MB`` or ``1000000``.

    Raises:
        UserError: It is not one, or not above zero.
    """
    return int(_parse(text, {k: float(v) for k, v in _BYTES.items()}, "a size such as 4GiB"))


def _parse(text: str, units: dict[str, float], what: str) -> float:
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2] not in units or float(match[1]) <= 0:
        raise UserError(f"{text!r} is not {what}")
    return float(match[1]) * units[match[2]]
