"""Taking up a run: what another request may replace, and what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantspectrum.artifacts import RunRecord, read_artifact
from quantspectrum.cli import main
from quantspectrum.demo import model_dir
from quantspectrum.errors import UserError
from quantspectrum.run.request import RunRequest
from quantspectrum.run.states import RunStates


def states(directory: Path, **asked: Any) -> RunStates:
    return RunStates(directory, RunRequest(model="m", **asked), say=lambda _stage: None)


def fail() -> None:
    raise UserError("too few samples")


def test_a_run_that_got_nowhere_may_be_asked_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few"):
        states(tmp_path).do("baseline", fail)
    states(tmp_path, cut=("mild=10%",))
    record = read_artifact(tmp_path / "run.json", RunRecord)
    assert record.request["cut"] == ["mild=10%"]
    assert record.stages["baseline"].state == "pending"


@pytest.mark.parametrize("what", ["a stage", "a journal"])
def test_one_that_holds_work_may_not(tmp_path: Path, what: str) -> None:
    if what == "a stage":
        states(tmp_path).do("baseline", lambda: None)
    else:
        states(tmp_path)
        (tmp_path / "sensitivity").mkdir()
        (tmp_path / "sensitivity" / "some.journal").write_text("measured")
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UserError, match="another cut; choose another --out"):
        states(tmp_path, cut=("mild=10%",))
    assert (tmp_path / "run.json").read_bytes() == before


def test_data_that_were_too_few_are_asked_for_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.txt"
    few.write_text("One short line.\n")
    out = tmp_path / "run"
    ask = ["run", str(model_dir()), "--out", str(out), "--quiet", "--device", "cpu", "--data"]
    assert main([*ask, f"text:{few}"]) == 1
    assert "too few" in capsys.readouterr().err
    assert [path.name for path in out.rglob("*")] == ["run.json"]
    assert main([*ask, f"text:{tmp_path / 'nowhere.txt'}"]) == 1
    assert "nowhere.txt" in capsys.readouterr().err
