"""``run --backend-option``: refused before anything runs, kept with the run, handed to the backend."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
import report_runs as runs

from quantspectrum import stages
from quantspectrum.artifacts import RunRecord, StageState, read_artifact, write_artifact
from quantspectrum.backends import onnx
from quantspectrum.cli import main
from quantspectrum.commands import variants
from quantspectrum.demo import model_dir
from quantspectrum.errors import UserError
from quantspectrum.isolation import ENVIRONMENTS
from quantspectrum.models import loading
from quantspectrum.run import Run, RunRequest, runner


def command(out: Path, *more: str) -> list[str]:
    return ["run", str(model_dir()), "--out", str(out), "--quiet", "--data", "demo", *more]


@pytest.mark.parametrize(
    ("backend", "option", "told"),
    [
        ("inc", "iters", "--backend-option iters: give NAME=VALUE"),
        ("inc", "steps=3", "backend inc has no option 'steps'; it has iters: "),
        ("inc", "iters=many", "iters=many: give a whole number, 0 or more"),
        ("modelopt", "iters=3", "backend modelopt has no option 'iters'; it has none"),
        ("compressed-tensors", "iters=3", "of frameworks' backends; compressed-tensors has none"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    backend: str,
    option: str,
    told: str,
) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("nothing was to run")

    monkeypatch.setattr(loading, "load_model", never)
    out = tmp_path / "run"
    assert main(command(out, "--backend", backend, "--backend-option", option)) == 1
    error = capsys.readouterr().err.strip()
    assert told in error
    assert "\n" not in error
    assert not out.exists()
    # The same of one variant, before the model is loaded.
    one = ["quantize", str(model_dir()), "--spectrum", "none.json", "--profile", "mild", "--quiet"]
    one += ["--out", str(out), "--backend", backend, "--backend-option", option]
    assert main(one) == 1
    assert told in capsys.readouterr().err


def test_a_value_of_onnx_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["quantize", "nowhere", "--spectrum", "none.json", "--profile", "mild", "--quiet"]
    one += ["--out", str(tmp_path / "v"), "--backend", "onnx"]
    assert main([*one, "--backend-option", "reduce_range=maybe"]) == 1
    assert "reduce_range=maybe: give yes, no or auto" in capsys.readouterr().err


@pytest.fixture
def absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment is there, and loading a model fails the test."""
    for name in ENVIRONMENTS:
        monkeypatch.delenv(f"QUANTSPECTRUM_ENV_{name.upper().replace('-', '_')}", raising=False)
    monkeypatch.setenv("QUANTSPECTRUM_HOME", str(tmp_path / "home"))

    def never(*_: Any, **__: Any) -> None:
        pytest.fail("nothing was to be loaded")

    monkeypatch.setattr(runner, "load_model", never)
    monkeypatch.setattr(variants, "load", never)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    ("backend", "environment"),
    [("inc", "inc-autoround"), ("modelopt", "modelopt"), ("inc-static", "inc")],
)
def test_an_absent_environment_is_told_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str, environment: str
) -> None:
    out = tmp_path / "run"
    one = ["quantize", str(model_dir()), "--spectrum", "none.json", "--profile", "mild", "--quiet"]
    asked = [[*one, "--out", str(out), "--backend", backend]]
    # No run evaluates what INC's pickles hold.
    asked += [command(out, "--backend", backend)] if backend != "inc-static" else []
    for argv in asked:
        assert main(argv) == 1
        error = capsys.readouterr().err.strip()
        assert f"the environment '{environment}'" in error
        assert f"quantspectrum doctor --install {environment}" in error
        assert "\n" not in error
        assert not out.exists()


@pytest.mark.usefixtures("absent")
def test_an_absent_package_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx, "PACKAGES", ("onnx", "nowhere_to_be_found"))
    one = ["quantize", str(model_dir()), "--spectrum", "none.json", "--profile", "mild", "--quiet"]
    assert main([*one, "--out", str(tmp_path / "v"), "--backend", "onnx"]) == 1
    error = capsys.readouterr().err.strip()
    assert "backend onnx needs nowhere_to_be_found" in error
    assert "pip install 'quantspectrum[onnx]'" in error
    assert "\n" not in error


@pytest.mark.usefixtures("absent")
def test_a_run_with_all_its_variants_needs_no_environment(tmp_path: Path) -> None:
    out = tmp_path / "run"
    request = RunRequest(model=str(model_dir()), device="cpu", backend="inc")
    names = request.stage_names()
    stages = {name: StageState(state="done") for name in names}
    record = runs.run_record(request=request.options(), stages=stages)
    write_artifact(out / "run.json", record)
    Run(out, request, progress=_silent, say=print)
    last = next(name for name in names if name.startswith("quantize:"))
    stages[last] = StageState(state="failed")
    write_artifact(out / "run.json", record.model_copy(update={"stages": stages}))
    with pytest.raises(UserError, match="doctor --install inc-autoround"):
        Run(out, request, progress=_silent, say=print)


def _silent(_title: str, _steps: int) -> Any:
    return lambda: None


def test_a_run_keeps_its_options_and_hands_them_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTSPECTRUM_ENV_INC_AUTOROUND", sys.executable)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(stages, "quantize", lambda *_, **more: asked.update(more))
    options = ("iters=20",)
    request = RunRequest(
        model=str(model_dir()), device="cpu", backend="inc", backend_option=options
    )
    work = Run(tmp_path / "run", request, progress=_silent, say=print)
    work._quantize("mild")
    assert (asked["backend"], asked["options"]) == ("inc", options)
    record = read_artifact(tmp_path / "run" / "run.json", RunRecord)
    assert record.request["backend_option"] == ["iters=20"]
    # The same run goes on; once it holds anything, one with another setting does not.
    (tmp_path / "run" / "variants").mkdir()
    (tmp_path / "run" / "variants" / "any").touch()
    Run(tmp_path / "run", request, progress=_silent, say=print)
    other = request.model_copy(update={"backend_option": ("iters=30",)})
    with pytest.raises(UserError, match="another backend_option"):
        Run(tmp_path / "run", other, progress=_silent, say=print)


def test_a_run_from_before_the_option_goes_on(tmp_path: Path) -> None:
    request = RunRequest(model=str(model_dir()), device="cpu")
    Run(tmp_path / "run", request, progress=_silent, say=print)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["request"]["backend_option"]
    path.write_text(json.dumps(record))
    Run(tmp_path / "run", request, progress=_silent, say=print)
