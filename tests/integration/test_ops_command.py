from __future__ import annotations

import json
from pathlib import Path

import pytest

import models_tiny
from quantspectrum.cli import main
from quantspectrum.models.ops import list_ops


@pytest.mark.parametrize("family", models_tiny.FAMILIES)
def test_the_ops_of_every_kind_of_model_are_listed(
    tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models_tiny.family(family)
    saved = models_tiny.save(model, tmp_path / "tiny")
    capsys.readouterr()
    assert main(["ops", str(saved), "--device", "cpu", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    table = list_ops(model, models_tiny.loaded(model).layout)
    for word in ("candidates", "kept", "skipped"):
        expected = [entry.model_dump(mode="json") for entry in getattr(table, word)]
        assert listed[word] == expected
