from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantspectrum.errors import UserError
from quantspectrum.sensitivity.journal import Journal

REQUEST = {"model": "tiny", "ops": ["a", "b"], "format": {"bits": 8}}
Limit = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.journal.jsonl"


@pytest.fixture
def filled(path: Path) -> Path:
    with Journal(path, REQUEST) as journal:
        journal.add(0, "a", {"sse": [0.1 + 0.2, 1e-300]})
        journal.add(0, "b", {"sse": [float("inf"), 2.0]})
        journal.add(1, "a", {"unreached": [1.0]})
    return path


def test_measurements_are_kept_in_memory_without_a_file() -> None:
    with Journal(None, REQUEST) as journal:
        assert (0, "a") not in journal
        journal.add(0, "a", {"sse": [1.0]})
        assert (0, "a") in journal
        assert journal[0, "a"] == {"sse": [1.0]}
        assert len(journal) == 1


def test_measurements_come_back_exactly(filled: Path) -> None:
    with Journal(filled, REQUEST) as journal:
        assert len(journal) == 3
        assert journal[0, "a"] == {"sse": [0.1 + 0.2, 1e-300]}
        assert journal[0, "b"] == {"sse": [float("inf"), 2.0]}
        assert journal[1, "a"] == {"unreached": [1.0]}


def test_not_a_number_comes_back_as_such(path: Path) -> None:
    with Journal(path, REQUEST) as journal:
        journal.add(0, "a", {"sse": [float("nan")]})
    with Journal(path, REQUEST) as journal:
        (value,) = journal[0, "a"]["sse"]
    assert value != value


def test_the_order_of_keys_in_the_request_does_not_matter(filled: Path) -> None:
    turned = dict(reversed(list(REQUEST.items())))
    assert len(Journal(filled, turned)) == 3


def test_more_is_appended(filled: Path) -> None:
    with Journal(filled, REQUEST) as journal:
        journal.add(1, "b", {"sse": [3.0]})
    with Journal(filled, REQUEST) as journal:
        assert len(journal) == 4


def test_a_measurement_is_on_disk_at_once(path: Path) -> None:
    journal = Journal(path, REQUEST)
    journal.add(0, "a", {"sse": [1.0]})
    # Not closed: as if killed here.
    lines = path.read_text().splitlines()
    assert json.loads(lines[-1]) == {"batch": 0, "op": "a", "values": {"sse": [1.0]}}
    with journal:
        pass


def test_the_request_is_on_disk_from_the_start(path: Path) -> None:
    with Journal(path, REQUEST):
        assert json.loads(path.read_text()) == {"request": REQUEST}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000))
def test_a_file_cut_anywhere_loses_one_line_at_most(filled: Path, cut: int) -> None:
    whole = Path(f"{filled}.whole")
    if not whole.exists():
        whole.write_bytes(filled.read_bytes())
    raw = whole.read_bytes()
    kept = raw[: cut % (len(raw) + 1)]
    filled.write_bytes(kept)
    with Journal(filled, REQUEST) as journal:
        assert len(journal) == max(0, kept.count(b"\n") - 1)
        journal.add(9, "z", {"sse": [1.0]})
    with Journal(filled, REQUEST) as journal:
        assert (9, "z") in journal
        assert len(journal) == max(0, kept.count(b"\n") - 1) + 1


def test_bytes_that_are_no_text_at_the_end_are_left_out(filled: Path) -> None:
    filled.write_bytes(filled.read_bytes() + b'{"batch": 1, "op": "b\xff\xfe\x00')
    with Journal(filled, REQUEST) as journal:
        assert len(journal) == 3


@pytest.mark.parametrize(
    "other",
    [
        {},
        {**REQUEST, "model": "other"},
        {**REQUEST, "ops": ["b", "a"]},
        {**REQUEST, "format": {"bits": 4}},
        {**REQUEST, "more": 1},
    ],
)
def test_another_request_is_refused_and_nothing_lost(
    filled: Path, other: dict[str, object]
) -> None:
    before = filled.read_bytes()
    with pytest.raises(UserError, match=rf"{filled} was made for another .*delete it or choose"):
        Journal(filled, other)
    assert filled.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    ["not json", "{", "[1, 2]", "3", "null", '{"batch": 0}', '{"batch": 0, "op": "a"}'],
)
def test_a_damaged_line_in_the_middle_is_named(filled: Path, damage: str) -> None:
    lines = filled.read_text().splitlines()
    filled.write_text("\n".join([*lines[:2], damage, *lines[2:], ""]))
    before = filled.read_bytes()
    with pytest.raises(UserError, match=rf"{filled}, line 3: .*delete it"):
        Journal(filled, REQUEST)
    assert filled.read_bytes() == before


def test_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a/b/journal.jsonl"
    with Journal(path, REQUEST) as journal:
        journal.add(0, "a", {"sse": [1.0]})
    assert path.is_file()


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file/journal.jsonl"
    with pytest.raises(UserError, match=f"cannot write {path}: .*choose another --out"):
        Journal(path, REQUEST)


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        Journal(tmp_path, REQUEST)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to the superuser")
def test_a_file_that_may_not_be_read_is_refused(filled: Path) -> None:
    filled.chmod(0)
    with pytest.raises(UserError, match=str(filled)):
        Journal(filled, REQUEST)


def add(path: Path, values: dict[str, list[float]]) -> None:
    with Journal(path, REQUEST) as journal:
        journal.add(1, "b", values)


def test_a_full_disk_keeps_what_was_measured(filled: Path, file_size_limit: Limit) -> None:
    limit = file_size_limit(filled.stat().st_size + 20)
    with (
        limit,
        pytest.raises(UserError, match=f"cannot write {filled}: .*free space and run again"),
    ):
        add(filled, {"sse": [1.0] * 100})
    with Journal(filled, REQUEST) as journal:
        assert len(journal) == 3
        assert (1, "b") not in journal


def test_a_full_disk_when_going_on_keeps_what_was_measured(
    filled: Path, file_size_limit: Limit
) -> None:
    before = filled.read_bytes()
    with file_size_limit(len(before) // 2), pytest.raises(UserError, match=str(filled)):
        add(filled, {"sse": [1.0]})
    assert filled.read_bytes().startswith(before)
