"""Scans that are interrupted or killed say so, and go on where they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.models.ops import list_ops
from quantspectrum.spectrum.build import build_spectrum
from scans import BASES, TEXT, UNSEEN, Base, score, stop_at


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("stop", [1, 2, 5, 14, 15, 20, 28])
def test_an_interrupted_scan_reports_what_it_has(llama: nn.Module, stop: int, base: Base) -> None:
    report = score(llama, base=base, step=stop_at(stop))
    assert not report.complete
    assert report.stopped_by == "interrupted"
    candidates = list_ops(llama, models_tiny.loaded(llama).layout).candidates
    missing = {op.group for op in candidates[stop:]}
    scored = {op.name for op in report.ops}
    # Every whole group has its scores; half a group may have or not.
    assert scored >= {op.name for op in candidates if op.group not in missing}
    assert scored <= {op.name for op in candidates[:stop]}
    assert len(scored) == report.coverage.scored
    assert {op.n for op in report.ops} <= {2 if stop < 28 else 5}
    noted = [*report.coverage.kept, *report.coverage.skipped]
    listed = [op.name for op in report.ops] + [note.name for note in noted]
    assert len(set(listed)) == len(listed) == report.coverage.found == 15
    assert all("interrupted" in note.reason for note in report.coverage.skipped)
    assert models_tiny.forwards(llama) == {}
    assert models_tiny.hooks(llama) == 0


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("fmt", ["w8a8", "w8a8-static"])
@pytest.mark.parametrize("stop", [1, 5, 14, 20, 28])
def test_a_resumed_scan_equals_an_uninterrupted_one(
    llama: nn.Module, tmp_path: Path, stop: int, fmt: str, base: Base
) -> None:
    journal = tmp_path / "scan.journal.jsonl"
    expected = score(llama, fmt, base)
    assert not score(llama, fmt, base, journal=journal, step=stop_at(stop)).complete
    resumed = score(llama, fmt, base, journal=journal)
    assert resumed.complete
    assert resumed.ops == expected.ops
    assert resumed.coverage == expected.coverage


def measured(journal: Path) -> int:
    """How many ops and batches a journal holds."""
    if not journal.exists():
        return 0
    entries = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    return len({(e["batch"], e["op"]) for e in entries if "<" not in e["op"]})


def test_a_scan_interrupted_again_and_again_gets_there(llama: nn.Module, tmp_path: Path) -> None:
    journal = tmp_path / "scan.journal.jsonl"
    expected = score(llama, base="fallback").ops
    for known in range(0, 28, 3):
        assert measured(journal) == known
        # Steps for what is there already come first, then one for each of three new ops.
        report = score(llama, base="fallback", journal=journal, step=stop_at(known + 3))
    assert report.complete
    assert report.ops == expected


def test_a_killed_scan_resumes(llama: nn.Module, tmp_path: Path) -> None:
    """The journal ends in the middle of a line, as after a power cut."""
    journal = tmp_path / "scan.journal.jsonl"
    expected = score(llama, journal=journal).ops
    raw = journal.read_bytes()
    journal.write_bytes(raw[: len(raw) // 2])
    assert score(llama, journal=journal).ops == expected


def test_steps_are_ops_times_batches_when_resumed_too(llama: nn.Module, tmp_path: Path) -> None:
    journal = tmp_path / "scan.journal.jsonl"
    score(llama, journal=journal, step=stop_at(17))
    steps: list[int] = []
    score(llama, journal=journal, step=lambda: steps.append(1))
    assert len(steps) == 2 * 14


def shortened(batch: Batch) -> Batch:
    """The same samples cut to fewer tokens, as a smaller ``--max-length`` gives them."""
    return Batch(
        inputs={key: value[:, :4] for key, value in batch.inputs.items()},
        target=batch.target[:, :4],
        sample_ids=batch.sample_ids,
        kinds=batch.kinds,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"formats": "w8a8-static"},
        {"formats": ("w8a8", "w8a16")},
        {"metrics": ("kl",)},
        {"metrics": ("mse_v2", "kl")},
        {"seed": 8},
        {"base": "fallback"},
        {"selection": TEXT[:1]},
        {"selection": TEXT[::-1]},
        {"selection": [shortened(batch) for batch in TEXT]},
        {"model": models_tiny.causal_lm(seed=1)},
        {"model": models_tiny.causal_lm("qwen2")},
        {"table": ["q_proj", "k_proj", "v_proj"]},
    ],
    ids=[
        "format",
        "formats",
        "metric",
        "metrics",
        "seed",
        "base",
        "fewer",
        "order",
        "length",
        "weights",
        "family",
        "ops",
    ],
)
def test_the_journal_of_another_scan_is_refused(
    llama: nn.Module, tmp_path: Path, change: dict[str, Any]
) -> None:
    journal = tmp_path / "scan.journal.jsonl"
    score(llama, journal=journal, step=stop_at(3))
    model = change.pop("model", llama)
    if "table" in change:
        layout = models_tiny.loaded(model).layout
        change["table"] = list_ops(model, layout, include=change["table"])
    with pytest.raises(UserError, match="was made for another"):
        score(model, journal=journal, **change)


def test_ranges_from_samples_cut_shorter_are_another_scan(llama: nn.Module, tmp_path: Path) -> None:
    journal = tmp_path / "scan.journal.jsonl"
    score(llama, "w8a8-static", journal=journal, step=stop_at(3))
    with pytest.raises(UserError, match="was made for another"):
        score(
            llama,
            "w8a8-static",
            journal=journal,
            calibration=[shortened(batch) for batch in UNSEEN],
        )


def test_interrupting_does_not_tear_fused_ops_apart(llama: nn.Module) -> None:
    """Where a serving engine merges ops, a profile made from part of a scan has all or none."""
    table = list_ops(llama, models_tiny.loaded(llama).layout)
    members: dict[str, set[str]] = {}
    for op in table.candidates:
        members.setdefault(op.group, set()).add(op.name)
    torn = []
    for stop in range(1, 15):
        report = score(llama, step=stop_at(stop))
        try:
            spectrum = build_spectrum(report, report_sha256="")
        except UserError:
            # Refusing such a report keeps the promise too.
            continue
        for profile in spectrum.profiles:
            torn += [
                (stop, profile.name, group)
                for group, names in members.items()
                if 0 < len(names & set(profile.ops)) < len(names)
            ]
    assert torn == []
