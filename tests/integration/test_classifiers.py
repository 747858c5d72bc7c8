"""The whole way on classifiers of pictures and of texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import models_tiny
from quantspectrum.artifacts import Evaluation, RunRecord, read_artifact
from quantspectrum.cli import main

pytestmark = pytest.mark.slow

FEW = ("--calibration", "8", "--samples", "8", "--eval-samples", "20", "--device", "cpu", "--quiet")
PROFILES = ("mild", "medium", "aggressive", "max")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_tiny.save(models_tiny.family("vit"), tmp_path_factory.mktemp("vit") / "model")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, and beside it a file that names the class of each."""
    folder, chance = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for n in range(40):
        Image.fromarray(chance.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{n}.png")
        rows.append(json.dumps({"image": f"pictures/{n}.png", "answer": f"LABEL_{n % 5}"}))
    (folder.parent / "named.jsonl").write_text("\n".join(rows))
    return folder


def run(model: Path, data: str, out: Path, *more: str) -> int:
    return main(["run", str(model), "--data", data, "--out", str(out), *FEW, *more])


@pytest.mark.parametrize("named", [True, False])
def test_an_image_classifier_goes_the_whole_way(
    vit: Path, pictures: Path, tmp_path: Path, named: bool
) -> None:
    data = f"jsonl:{pictures.parent / 'named.jsonl'}" if named else f"images:{pictures}"
    out = tmp_path / "run"
    assert run(vit, data, out) == 0
    states = read_artifact(out / "run.json", RunRecord).stages.values()
    assert {one.state for one in states} == {"done"}
    base = read_artifact(out / "baseline/evaluation.json", Evaluation)
    assert base.loss.of == ("classes" if named else "baseline's classes")
    assert (base.accuracy is not None) == named
    assert [floor.name for floor in base.noise] == ["batch size 4", "bfloat16"]
    kl = []
    for name in PROFILES:
        found = read_artifact(out / f"evaluations/{name}.json", Evaluation)
        assert [one.kind for one in found.fidelity] == ["all", "image"]
        assert (found.flips is not None) == named
        kl.append(found.fidelity[0].kl_mean.value)
    assert 0 < kl[0] < kl[-1]
    text = (out / "report.md").read_text()
    said = "which the data name" if named else "the data name none"
    assert "This model gives each sample a class" in text
    assert said in text


def test_a_classifier_as_a_graph_is_evaluated_by_onnx_runtime(
    vit: Path, pictures: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install 'quantspectrum[onnx]'")
    pytest.importorskip("onnxscript", reason="needs pip install 'quantspectrum[onnx]'")
    data = ("--data", f"jsonl:{pictures.parent / 'named.jsonl'}", *FEW)
    out, graph = tmp_path / "run", tmp_path / "graph"
    assert main(["run", str(vit), "--out", str(out), *data, "--format", "w8a8-static"]) == 0
    chosen = ("--spectrum", str(out / "spectrum.json"), "--profile", "max", "--backend", "onnx")
    assert main(["quantize", str(vit), *chosen, *data, "--out", str(graph)]) == 0
    against = ("--baseline", str(out / "baseline/evaluation.json"))
    record = tmp_path / "graph.json"
    assert main(["evaluate", str(graph), *data, *against, "--out", str(record)]) == 0
    found = read_artifact(record, Evaluation)
    assert found.resources.kernel == "onnxruntime"
    assert found.resources.matmuls is not None
    assert any("uint8" in name for name in found.resources.matmuls)
    assert found.accuracy is not None
    simulated = read_artifact(out / "evaluations/max.json", Evaluation)
    assert found.loss.loss == pytest.approx(simulated.loss.loss, rel=2e-3)
    kl = found.fidelity[0].kl_mean.value
    assert kl == pytest.approx(simulated.fidelity[0].kl_mean.value, rel=0.5)


def test_a_text_classifier_goes_the_whole_way(tmp_path: Path) -> None:
    model = models_tiny.save(models_tiny.family("bert classifier"), tmp_path / "model")
    rows = [
        json.dumps({"question": f"Line {n} has {n * n} sheep.", "answer": f"label_{n % 3}"})
        for n in range(40)
    ]
    (tmp_path / "named.jsonl").write_text("\n".join(rows))
    assert run(model, f"jsonl:{tmp_path / 'named.jsonl'}", tmp_path / "run") == 0
    found = read_artifact(tmp_path / "run/evaluations/max.json", Evaluation)
    assert (found.loss.of, found.loss.tokens) == ("classes", 20)
    assert found.accuracy is not None
    assert found.flips is not None


def test_a_quality_budget_is_refused_before_anything_is_measured(
    vit: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(vit, f"images:{pictures}", out, "--max-quality", "kl 0.1") == 1
    assert "a quality budget is of tokens" in capsys.readouterr().err
    assert not (out / "sensitivity").exists()


def test_some_names_alone_are_refused(
    vit: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (pictures.parent / "named.jsonl").read_text().replace('"LABEL_3"', '"lynx"')
    (pictures.parent / "some.jsonl").write_text(rows)
    assert run(vit, f"jsonl:{pictures.parent / 'some.jsonl'}", tmp_path / "run") == 1
    told = capsys.readouterr().err
    assert "names no class of this model (its answer is 'lynx')" in told
    assert "Traceback" not in told
