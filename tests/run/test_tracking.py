"""A run in MLflow's local file store."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
import report_runs as runs

from quantspectrum.cli import main
from quantspectrum.report import compare_run
from quantspectrum.run.tracking import figures_of

needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed"
)


@needs_mlflow
def test_figures_and_files_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    store = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(store)
    run = runs.write_full_run(tmp_path / "run")
    assert main(["compare", str(run), "--track", "mlflow"]) == 0
    client = mlflow.MlflowClient(store)
    (experiment,) = [e for e in client.search_experiments() if e.name == "quantspectrum"]
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.data.metrics == pytest.approx(figures_of(compare_run(run)))
    assert logged.data.metrics["mild/loss_change"] == pytest.approx(
        compare_run(run).rows[0].paired.value  # type: ignore[union-attr]
    )
    assert logged.data.params["eval_samples"] == "64"
    names = {file.path for file in client.list_artifacts(logged.info.run_id)}
    assert {"report.html", "report.md", "run.json", "sensitivity", "evaluations"} <= names


def test_without_it_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    run = runs.write_full_run(tmp_path / "run")
    assert main(["compare", str(run), "--track", "mlflow"]) == 1
    assert "pip install" in capsys.readouterr().err
    assert not (run / "report.html").exists()
