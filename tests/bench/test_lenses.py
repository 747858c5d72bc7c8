"""bench/lenses.py: a call for some lenses leaves the rows of the others."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import models_tiny

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The bench on a tiny model; a lens answers that it failed, in its turn's words."""
    monkeypatch.syspath_prepend(BENCH)
    spec = importlib.util.spec_from_file_location("lenses_bench", BENCH / "lenses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "load_model", lambda _: models_tiny.loaded(models_tiny.causal_lm()))
    return module


def call(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, says: str, *more: str) -> None:
    def one(_loaded: Any, _path: Path, lens: str, fmt: str | None, options: Any, *_: Any) -> Any:
        if says == "cut" and lens == "inc:tune":
            raise KeyboardInterrupt
        return {"lens": lens, "options": options, "format": fmt, "error": says, "seconds": 1.0}

    monkeypatch.setattr(bench, "one", one)
    monkeypatch.setattr(sys, "argv", ["lenses.py", "--model", "tiny", "--data", "demo", *more])
    bench.main()


def told(out: Path) -> list[tuple[str, str]]:
    return [(row["lens"], row["error"]) for row in json.loads(out.read_text())["lenses"]]


def test_rows_of_other_lenses_are_kept_in_their_places(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "lenses.json"
    call(bench, monkeypatch, "first", "--out", str(out))
    names = [lens for lens, *_ in bench.CASES]
    assert told(out) == [(name, "first") for name in names]
    call(bench, monkeypatch, "second", "--out", str(out), "--lens", "modelopt:gradient")
    again = {"modelopt:gradient": "second"}
    assert told(out) == [(name, again.get(name, "first")) for name in names]
    with pytest.raises(KeyboardInterrupt):
        call(
            bench,
            monkeypatch,
            "cut",
            "--out",
            str(out),
            "--lens",
            "inc:tune",
            "--lens",
            "inc:mse_v2",
        )
    again["inc:mse_v2"] = "cut"
    assert told(out) == [(name, again.get(name, "first")) for name in names]
    made = json.loads(out.read_text())["lenses"][0]["made_by"]
    assert made.keys() == {"git_sha", "threads", "torch"}


def test_rows_of_another_model_or_data_are_not_mixed_in(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "lenses.json"
    call(bench, monkeypatch, "first", "--out", str(out))
    kept = out.read_text()
    with pytest.raises(SystemExit, match="another model or data"):
        call(bench, monkeypatch, "x", "--out", str(out), "--lens", "inc:tune", "--samples", "4")
    assert out.read_text() == kept
