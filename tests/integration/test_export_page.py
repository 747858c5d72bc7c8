"""docs/export.md: its commands and its code run in the order shown, on a model that needs no download.

Code runs in the environment of the framework that its heading names, with the files the commands wrote.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import models_tiny
from integration.docs_commands import ROOT
from integration.test_docs import ADDED, write_data
from quantspectrum.artifacts import Spectrum, read_artifact
from quantspectrum.cli import build_parser, main
from quantspectrum.isolation import find_environment
from quantspectrum.spectrum.exporters import EXPORTERS

PAGE = (ROOT / "docs/export.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = dict(
    re.findall(r"^## [^\n(]+\(`([\w-]+)`\)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
)

ELSEWHERE = {
    "inc": "inc",
    "modelopt": "modelopt",
    "torchao": "torchao",
    "autoround": "inc-autoround",
}
"""Environment of each target that is not installed beside this program."""


def commands(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    assert all(line.startswith("$ quantspectrum ") for line in lines), lines
    return [shlex.split(line)[2:] for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model called MODEL and everything that the commands before the sections write."""
    work = tmp_path_factory.mktemp("page")
    models_tiny.save(models_tiny.causal_lm("llama"), work / "MODEL")
    write_data(work)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        (block,) = [
            text for kind, text in BLOCK.findall(PAGE.split("\n## ")[0]) if kind == "console"
        ]
        for command in commands(block):
            assert main([*command, *ADDED[command[0]]]) == 0
    return work


def test_every_target_has_a_section_and_a_row() -> None:
    assert list(SECTIONS) == list(EXPORTERS)
    assert re.findall(r"^\| `([a-z][\w-]+)` \|", PAGE, re.MULTILINE) == list(EXPORTERS)


@pytest.mark.slow
@pytest.mark.parametrize("target", EXPORTERS)
def test_commands_and_code_run(
    target: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    if target == "onnxruntime":
        pytest.importorskip("onnxscript", reason="needs the extra onnx")
    blocks = BLOCK.findall(SECTIONS[target])
    assert {kind for kind, _ in blocks} == {"console", "python"}
    for kind, text in blocks:
        if kind == "python":
            run_code(text, target, folder)
            continue
        (command,) = commands(text)
        assert main([*command, "--quiet"]) == 0, capsys.readouterr().err
        asked = build_parser().parse_args(command)
        profile = read_artifact(Path(asked.spectrum), Spectrum).profile(asked.profile)
        assert f"{len(profile.ops)} ops quantized" in capsys.readouterr().out


def run_code(text: str, target: str, folder: Path) -> None:
    python = Path(sys.executable)
    if target in ELSEWHERE:
        found = find_environment(ELSEWHERE[target])
        if found is None:
            pytest.skip(
                f"needs the environment {ELSEWHERE[target]}: quantspectrum doctor --install"
            )
        python = found
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-c", text], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written: dict[str, Callable[[], bool]] = {
        "inc": (folder / "inc-model/best_model.pt").is_file,
        "onnxruntime": (folder / "model.onnx").is_file,
        "autoround": lambda: any((folder / "autoround-model").rglob("config.json")),
    }
    assert written.get(target, lambda: True)()
