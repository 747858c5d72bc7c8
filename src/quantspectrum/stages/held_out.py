"""What the stages that measure profiles share: reports, spectra and samples that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantspectrum.artifacts import (
    DataIdentity,
    SensitivityReport,
    Spectrum,
    read_artifact,
    sha256_file,
)
from quantspectrum.data.sample import Sample
from quantspectrum.data.splits import Splits, identity
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded
from quantspectrum.spectrum.meter import Meter, Plans, plans_for
from quantspectrum.stages.requests import DataRequest

__all__ = ["check_held_out", "meter_on", "pair", "plans_of", "used_samples"]


def pair(report_path: Path, spectrum_path: Path) -> tuple[SensitivityReport, Spectrum]:
    """A report and the spectrum made from it.

    Raises:
        UserError: The spectrum was made from another report.
    """
    report = read_artifact(report_path, SensitivityReport)
    spectrum = read_artifact(spectrum_path, Spectrum)
    if spectrum.report_sha256 != sha256_file(report_path):
        raise UserError(
            f"{spectrum_path} was not made from {report_path}; give the report it was made from, or "
            "make the spectrum again"
        )
    return report, spectrum


def check_held_out(report: SensitivityReport, splits: Splits) -> bool:
    """Whether the evaluation split is known to hold nothing that the ranking was made on.

    It is where the ranking's samples are the very selection split of this draw, which is disjoint
    from it. Of a ranking made on data of another source nothing is known.

    Raises:
        UserError: The source is the same, but other samples of it were drawn.
    """
    mine = identity(splits.selection, splits.source, "selection")
    for used in report.provenance.data:
        if used.split == "selection" and used.source == mine.source:
            if used.sha256 == mine.sha256:
                return True
            raise UserError(
                f"the ranking of {report.lens} was made on other samples of the same data, which may be among those "
                "that are to be held out; give the --data, --calibration, --samples, "
                "--eval-samples and --seed that the report was made with"
            )
    return False


def plans_of(loaded: Loaded, spectrum: Spectrum, splits: Splits, data: DataRequest) -> Plans:
    """A plan for every candidate in every format of a spectrum, see :func:`.meter.plans_for`."""
    return plans_for(loaded, spectrum, lambda: data.encode(loaded, splits.calibration))


def meter_on(
    loaded: Loaded,
    plans: Plans,
    samples: Sequence[Sample],
    data: DataRequest,
    metrics: tuple[str, ...] = ("kl", "nll"),
) -> Meter:
    """What measures profiles on samples; answers are judged where the model writes any."""
    return Meter(
        loaded,
        plans,
        data.encode(loaded, samples),
        metrics=metrics,
        asked=samples if loaded.generates else (),
        batch_size=data.batch_size,
        max_new_tokens=data.max_new_tokens,
    )


def used_samples(
    splits: Splits, data: DataRequest, samples: int | None = None
) -> tuple[DataIdentity, DataIdentity]:
    """Identities of the selection samples, and of the evaluation samples that were measured."""
    held_out = splits.evaluation[: samples or data.samples]
    return (
        identity(splits.selection, splits.source, "selection"),
        identity(held_out, splits.source, "evaluation"),
    )
