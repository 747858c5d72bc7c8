"""Environments of other frameworks: found, named by a variable, made as a whole or not at all."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from quantspectrum.errors import UserError
from quantspectrum.isolation import (
    ENVIRONMENTS,
    environments,
    find_environment,
    install_environment,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTSPECTRUM_HOME", str(tmp_path))
    for name in ENVIRONMENTS:
        monkeypatch.delenv(f"QUANTSPECTRUM_ENV_{name.upper().replace('-', '_')}", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_every_environment_has_pinned_requirements(name: str) -> None:
    lines = (environments.REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    wanted = [line.split("#")[0].strip() for line in lines]
    wanted = [line for line in wanted if line]
    assert wanted
    assert [line for line in wanted if "==" not in line] == []


def test_a_variable_names_an_interpreter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = home / "python"
    monkeypatch.setenv("QUANTSPECTRUM_ENV_INC", str(python))
    with pytest.raises(UserError, match=r"QUANTSPECTRUM_ENV_INC is .* no file"):
        find_environment("inc")
    python.touch()
    assert find_environment("inc") == python


def test_an_unknown_one_is_told() -> None:
    with pytest.raises(UserError, match=r"unknown environment 'tensorrt'; there are: .*inc"):
        install_environment("tensorrt", say=print)


@pytest.mark.parametrize("failing", ["venv", "--requirement", "--no-deps", "import"])
def test_an_unfinished_one_is_not_left(
    home: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True)
            (Path(command[-1]) / "bin" / "python").touch()
        failed = any(failing in part for part in command)
        return subprocess.CompletedProcess(command, int(failed), "", "ERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match=r"cannot make the environment 'inc'.*ERROR: no network"):
        install_environment("inc", say=print)
    assert find_environment("inc") is None


def _must_not(*_: Any, **__: Any) -> None:
    pytest.fail("there is nothing to do")


def test_what_is_there_is_not_made_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = home / "environments" / "inc" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr(subprocess, "run", _must_not)
    said: list[str] = []
    assert install_environment("inc", say=said.append) == python
    assert "already there" in said[0]
