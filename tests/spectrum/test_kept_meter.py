"""A meter's readings survive an interruption and are measured no second time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantspectrum.errors import UserError
from quantspectrum.spectrum import kept_meter
from quantspectrum.spectrum.kept_meter import KeptMeter
from quantspectrum.spectrum.meter import Ops, Reading

PROFILES: list[Ops] = [{str(n): "w8a8"} for n in range(5)]


def meter(asked: list[Ops], fail_at: int | None = None) -> Any:
    """What measures each profile as its own name, twice, and fails once it was asked so many."""

    def measure(profiles: Sequence[Ops], *, step: Callable[[], None]) -> list[Reading]:
        found = []
        for ops in profiles:
            if len(asked) == fail_at:
                raise KeyboardInterrupt
            asked.append(ops)
            step()
            number = float(next(iter(ops)))
            found.append(Reading(values={"kl": (number, 0.1)}, not_finite=int(number)))
        return found

    return SimpleNamespace(measure=measure, batches=[None])


def test_what_was_measured_before_the_interruption_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_meter, "CHUNK", 2)
    path, request = tmp_path / "truth.journal.jsonl", {"format": "w8a8"}
    first: list[Ops] = []
    with (
        pytest.raises(KeyboardInterrupt),
        KeptMeter(meter(first, fail_at=3), path, request) as kept,
    ):
        kept.measure(PROFILES)
    second: list[Ops] = []
    steps: list[None] = []
    with KeptMeter(meter(second), path, request) as kept:
        found = kept.measure(PROFILES, step=lambda: steps.append(None))
    assert second == PROFILES[2:]
    assert len(steps) == len(PROFILES)
    assert found == [
        Reading(values={"kl": (float(n), 0.1)}, not_finite=n) for n in range(len(PROFILES))
    ]


def test_a_profile_that_is_asked_twice_is_measured_once(tmp_path: Path) -> None:
    asked: list[Ops] = []
    with KeptMeter(meter(asked), tmp_path / "j.jsonl", {}) as kept:
        one, other = kept.measure([PROFILES[1], PROFILES[1]])
    assert one == other
    assert asked == [PROFILES[1]]


def test_readings_of_another_request_are_refused(tmp_path: Path) -> None:
    with KeptMeter(meter([]), tmp_path / "j.jsonl", {"format": "w8a8"}) as kept:
        kept.measure(PROFILES[:1])
    with pytest.raises(UserError, match="another model, data, format"):
        KeptMeter(meter([]), tmp_path / "j.jsonl", {"format": "w4a16"})
