"""Interrupted anywhere, whatever was asked for, a scan ends as one that was left alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import models_tiny
from quantspectrum.artifacts import SensitivityReport
from quantspectrum.sensitivity import journal as journals
from quantspectrum.sensitivity import measurement, scan
from quantspectrum.sensitivity.engine import ReplayEngine
from scans import MIXED, score_all, stop_at

pytestmark = pytest.mark.slow

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "static": {"formats": "w8a8-static", "base": "fallback"},
    "metrics": {"metrics": ("kl", "mse_v2", "nll"), "base": "fallback"},
    "passes": {"metrics": ("sqnr", "mse_v2", "visibility", "hawq_v2"), "probes": 2},
    "formats": {"formats": ("w8a8", "w4a16"), "metrics": ("mse_v2", "sqnr")},
    "parts": {"attribute": True, "base": "fallback"},
    "second": {"base": "fallback", "rescore": 2},
    "limited": {"max_ops": 5},
    "slots": {"slots": 4},
    "slots, everything": {
        "slots": 8,
        "base": "fallback",
        "formats": ("w8a8", "fp8"),
        "metrics": ("kl", "mse_v2"),
        "attribute": True,
        "rescore": 1,
    },
}

Reports = list[SensitivityReport]


def told(reports: Reports) -> list[Any]:
    """All that reports say of the model, and nothing of how long it took."""
    return [
        (r.lens, r.format, r.ops, r.coverage, r.rescored, r.complete, r.stopped_by, r.estimator)
        for r in reports
    ]


@contextmanager
def interrupted_at(count: int) -> Iterator[None]:
    """Raise when a forward pass, or a part of one, is run for the ``count``-th time."""
    calls = itertools.count(1)

    def counting(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*args: Any) -> Tensor:
            if next(calls) == count:
                raise KeyboardInterrupt
            return own(*args)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in ("run", "_enter"):
            patch.setattr(ReplayEngine, name, counting(getattr(ReplayEngine, name)))
        yield


@pytest.fixture
def model() -> nn.Module:
    return models_tiny.causal_lm()


@pytest.mark.parametrize("case", CASES)
def test_interrupted_at_any_step(model: nn.Module, tmp_path: Path, case: str) -> None:
    steps: list[int] = []
    more = CASES[case]
    expected = told(score_all(model, step=lambda: steps.append(1), **more))
    every = len(steps)
    # Every step of the small scans; in the others prime distances come to all kinds of places.
    distance = {"plain": 1, "slots": 1, "slots, everything": 23}.get(case, 5)
    for stop in range(1, every + 1, distance):
        path = tmp_path / f"{stop}.journal.jsonl"
        partial = score_all(model, journal=path, step=stop_at(stop), **more)
        assert {report.stopped_by for report in partial} == {"interrupted"}
        assert told(score_all(model, journal=path, **more)) == expected, stop


@pytest.mark.parametrize("case", CASES)
def test_interrupted_in_any_forward_pass(model: nn.Module, tmp_path: Path, case: str) -> None:
    more = CASES[case]
    expected = told(score_all(model, **more))
    distance = 1 if not more else 7
    for count in itertools.count(1, distance):
        path = tmp_path / f"{count}.journal.jsonl"
        with interrupted_at(count):
            partial = score_all(model, journal=path, **more)
        if partial[0].stopped_by is None:
            assert count > 7
            break
        assert not any(report.complete for report in partial)
        assert told(score_all(model, journal=path, **more)) == expected, count
        assert models_tiny.forwards(model) == {}
        assert models_tiny.hooks(model) == 0


@pytest.mark.parametrize("case", ["metrics", "slots, everything"])
def test_interrupted_again_and_again(model: nn.Module, tmp_path: Path, case: str) -> None:
    more, path = CASES[case], tmp_path / "scan.journal.jsonl"
    expected = told(score_all(model, **more))
    for stop in itertools.count(5, 23):
        reports = score_all(model, journal=path, step=stop_at(stop), **more)
        if reports[0].stopped_by is None:
            break
    assert told(reports) == expected


@pytest.mark.parametrize("case", ["passes", "second", "slots, everything"])
def test_killed_in_the_middle_of_a_line(model: nn.Module, tmp_path: Path, case: str) -> None:
    more, path = CASES[case], tmp_path / "scan.journal.jsonl"
    expected = told(score_all(model, journal=path, **more))
    raw = path.read_bytes()
    for part in range(1, 10):
        path.write_bytes(raw[: len(raw) * part // 10])
        assert told(score_all(model, journal=path, **more)) == expected, part


def test_a_finished_scan_is_not_measured_again(model: nn.Module, tmp_path: Path) -> None:
    more, path = CASES["slots, everything"], tmp_path / "scan.journal.jsonl"
    expected = told(score_all(model, journal=path, **more))
    before = path.read_bytes()
    with interrupted_at(1):
        assert told(score_all(model, journal=path, **more)) == expected
    assert path.read_bytes() == before


@pytest.mark.parametrize("stop", [1, 8, 27, 30, 51])
def test_pictures_and_texts(vl: nn.Module, tmp_path: Path, stop: int) -> None:
    more: dict[str, Any] = {
        "selection": MIXED,
        "metrics": ("mse_v2", "kl", "visibility"),
        "slots": 4,
    }
    path = tmp_path / "scan.journal.jsonl"
    expected = told(score_all(vl, **more))
    partial = score_all(vl, journal=path, step=stop_at(stop), **more)
    assert partial[0].stopped_by == "interrupted"
    assert told(score_all(vl, journal=path, **more)) == expected


def test_results_that_wait_on_the_device_are_not_lost(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched in bursts, they are written when the scan ends for whatever reason."""
    monkeypatch.setattr(scan, "FETCH_SECONDS", 3600.0)
    path = tmp_path / "scan.journal.jsonl"
    score_all(model, journal=path, step=stop_at(9))
    entries = journals.Journal(path, _request(path))
    assert len(entries) == 9 + 1
    assert told(score_all(model, journal=path)) == told(score_all(model))


def test_a_choice_by_timing_is_kept(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timed again it could come out otherwise, and with it the last digits."""
    path, answers = tmp_path / "scan.journal.jsonl", iter([4, 1])
    monkeypatch.setattr(measurement, "choose_slots", lambda *_args: next(answers))
    score_all(model, journal=path, slots=None, step=stop_at(9))
    (report,) = score_all(model, journal=path, slots=None)
    assert report.engine is not None
    assert report.engine.slots == 4
    assert told([report]) == told(score_all(model, slots=4))


def _request(path: Path) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(path.read_text().splitlines()[0])["request"]
    return found
