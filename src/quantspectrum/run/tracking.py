"""``--track mlflow``: a run's figures and its files as an MLflow run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantspectrum.errors import UserError, in_one_line

if TYPE_CHECKING:
    from quantspectrum.report import Comparison

__all__ = ["check_tracker", "figures_of", "track"]

EXPERIMENT = "quantspectrum"

LARGEST = 64_000_000
"""Bytes of a file beyond which it is not uploaded; checkpoints never are."""


def check_tracker(name: str | None) -> None:
    """Fail before anything is measured where the tracker is not installed.

    Raises:
        UserError: It is not installed.
    """
    if name is not None:
        _mlflow()


def _mlflow() -> Any:
    try:
        import mlflow
    except ImportError:
        raise UserError(
            "--track mlflow needs MLflow, which is not installed: pip install 'quantspectrum[mlflow]'"
        ) from None
    return mlflow


def figures_of(comparison: Comparison) -> dict[str, float]:
    """Every figure of the comparison as ``PROFILE/FIGURE``; what was not measured is absent."""
    found: dict[str, float | int | None] = {}
    for row in (comparison.baseline, *comparison.rows):
        if row is None:
            continue
        named: dict[str, float | int | None] = {
            "disk_bytes": row.disk_bytes,
            "predicted_bytes": row.predicted_bytes,
            "predicted_damage": row.predicted_damage,
            "groups": row.groups,
            "share": row.share,
            "loss": row.loss,
            "loss_stderr": row.loss_stderr,
            "accuracy": row.accuracy,
        }
        if row.paired is not None:
            named |= {"loss_change": row.paired.value, "loss_change_low": row.paired.low}
            named |= {"loss_change_high": row.paired.high}
        if (whole := row.over()) is not None:
            named |= {"kl_mean": whole.kl_mean.value, "kl_floor": whole.kl_mean.floor}
            named |= {"kl_low": whole.kl_mean.low, "kl_high": whole.kl_mean.high}
            named |= {"same_top": whole.same_top.value}
        found |= {f"{_name(row.profile)}/{key}": value for key, value in named.items()}
    return {key: float(value) for key, value in found.items() if value is not None}


def _name(text: str) -> str:
    """A name with the characters that MLflow accepts."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "_-. " else "_" for c in text)


def track(run: Path, comparison: Comparison, request: dict[str, Any]) -> str:
    """Log figures, settings and files (records and reports, no checkpoints) to MLflow.

    The store is MLflow's own choice: ``MLFLOW_TRACKING_URI``, or else its default.

    Returns:
        Id of the MLflow run.

    Raises:
        UserError: MLflow is not installed, or refuses.
    """
    mlflow = _mlflow()
    try:
        mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run(run_name=run.resolve().name) as active:
            told = {key: str(value)[:500] for key, value in request.items() if value is not None}
            mlflow.log_params(told)
            mlflow.log_metrics(figures_of(comparison))
            for path in _files(run):
                folder = path.parent.relative_to(run).as_posix()
                mlflow.log_artifact(str(path), None if folder == "." else folder)
            return str(active.info.run_id)
    except mlflow.exceptions.MlflowException as error:
        raise UserError(f"MLflow refused: {in_one_line(error)}") from error


def _files(run: Path) -> list[Path]:
    patterns = (
        *("*.json", "*.md", "*.html", "sensitivity/*.json", "baseline/*.json"),
        *("evaluations/*.json", "variants/*/manifest.json"),
    )
    found = [path for pattern in patterns for path in sorted(run.glob(pattern))]
    return [path for path in found if path.stat().st_size <= LARGEST]
