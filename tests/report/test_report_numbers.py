"""How numbers are written."""

from __future__ import annotations

import pytest

from quantspectrum.artifacts import RankInterval
from quantspectrum.report import numbers


@pytest.mark.parametrize(
    ("value", "stderr", "expected"),
    [
        (1.98412, 0.0203, "1.984 ± 0.020"),
        (-0.5, 0.25, "−0.50 ± 0.25"),
        (12345.6, 120.0, "12346 ± 120"),
        (-1.58e-5, 5.4e-6, "−1.58e-5 ± 5.4e-6"),
        (1.4e-9, 2.2e-7, "0 ± 2.2e-7"),
        (0.0000158, 0.000054, "0.000016 ± 0.000054"),
        (2.0, 0.0, "2.000 ± 0.000"),
        (1e-9, 1e-12, "1.0000e-9 ± 1.0e-12"),
        (2.5, None, "2.500"),
        (None, None, "—"),
    ],
)
def test_with_error(value: float | None, stderr: float | None, expected: str) -> None:
    assert numbers.with_error(value, stderr) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.013, "1.30e-2"), (-2.0, "−2.00e0"), (0.0, "0"), (9.999e-3, "1.00e-2"), (None, "—")],
)
def test_score(value: float | None, expected: str) -> None:
    assert numbers.score(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999_600, "1.00 MB"),
        (12_340_000, "12.3 MB"),
        (7_509_000_000, "7.51 GB"),
        (5_000_000_000_000_000, "5000 TB"),
        (None, "—"),
    ],
)
def test_size(value: int | None, expected: str) -> None:
    assert numbers.size(value) == expected


def test_signs_and_zeros() -> None:
    assert numbers.signed(0.0123, 0.002) == "+0.0123"
    assert numbers.signed(-0.0123, 0.002) == "−0.0123"
    assert numbers.signed(-1e-9, 0.1) == "0.00"
    assert numbers.signed_percent(-0.00001) == "0.00 %"
    assert numbers.signed_percent(0.0041) == "+0.41 %"
    assert numbers.signed_points(-0.094) == "−9.4"
    assert numbers.signed_points(0.0) == "0.0"
    assert numbers.percent(0.15) == "15 %"
    assert numbers.percent(0.155) == "15.5 %"
    assert numbers.relative(0.1, 2.0) == "+5.00 %"
    assert numbers.relative(0.1, 0.0) == "+0.1000 nats"
    assert numbers.relative(0.001, numbers.LEAST_LOSS) == "+10.00 %"
    assert numbers.relative(0.001, numbers.LEAST_LOSS * 0.999) == "+0.001000 nats"
    assert numbers.relative(2.26e-5, 3.62e-5) == "+2.26e-5 nats"


def test_intervals() -> None:
    found = RankInterval(value=-0.5, low=-0.75, high=0.0)
    assert numbers.between(found, numbers.correlation) == "−0.75 to 0.00"
    assert numbers.with_interval(found, numbers.correlation) == "−0.50 (−0.75 to 0.00)"
    assert numbers.between(RankInterval(value=0.5), numbers.correlation) == "—"
    assert numbers.with_interval(RankInterval(value=0.5), numbers.correlation) == "0.50"
    assert numbers.with_interval(RankInterval(value=None), numbers.correlation) == "undefined"
    assert [numbers.yes_no(known) for known in (True, False, None)] == ["yes", "no", "unknown"]


def test_counts_and_times() -> None:
    assert numbers.count(12345) == "12,345"
    assert numbers.count(None) == "—"
    assert numbers.plural(1, "op") == "1 op"
    assert numbers.plural(2000, "op") == "2,000 ops"
    assert [numbers.plural(n, "batch") for n in (1, 2)] == ["1 batch", "2 batches"]
    assert [numbers.duration(t) for t in (None, 3.21, 312.5, 7265)] == [
        "—",
        "3.2 s",
        "5 min",
        "2 h 01 min",
    ]
