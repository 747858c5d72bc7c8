from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantspectrum.errors import UserError
from quantspectrum.units import parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("90s", 90.0),
        ("5m", 300.0),
        ("5min", 300.0),
        ("1h", 3600.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        (" 2 m ", 120.0),
        ("0.001", 0.001),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000000", 1_000_000),
        ("12B", 12),
        ("4GiB", 4 * 2**30),
        ("1.5KiB", 1536),
        ("2MiB", 2**21),
        ("1TiB", 2**40),
        ("500MB", 500_000_000),
        ("3G", 3_000_000_000),
        ("7k", 7000),
        ("7K", 7000),
        ("7kB", 7000),
        ("7KB", 7000),
        ("1T", 10**12),
        ("2 GiB", 2**31),
    ],
)
def test_sizes(text: str, size: int) -> None:
    found = parse_bytes(text)
    assert found == size
    assert type(found) is int


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "-5", "-5m", "0", "0s", "0.0h", "5 days", "1h30m", "1e3", "5M", "1,5h", "٣",
     "nan", "inf", "5 5", "1.", "5\n6"],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a duration such as 90s, 5m or 1h"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "0", "0GB", "4 gib", "1m", "4GIB", "1PB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a size such as 4GiB"):
        parse_bytes(text)


@given(number=st.integers(1, 10**15))
def test_plain_numbers_are_bytes_and_seconds(number: int) -> None:
    assert parse_bytes(str(number)) == number
    assert parse_seconds(str(number)) == float(number)
