"""What a run directory holds, read once for all of the report; only ``run.json`` must be there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from quantspectrum.artifacts import (
    Agreement,
    Artifact,
    Evaluation,
    Guard,
    Histograms,
    Manifest,
    Profile,
    QualitySearch,
    RunRecord,
    SensitivityReport,
    Spectrum,
    Truth,
    read_artifact,
    sha256_file,
)

__all__ = ["BASELINE", "RunFiles", "read_run"]

BASELINE = "baseline"

A = TypeVar("A", bound=Artifact)

_SEARCHES = ("quality.json", "spectrum.quality.json")
"""Where ``run`` keeps the record of a search, and ``spectrum`` beside the run's spectrum."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The records of one run.

    Attributes:
        run: What was asked and how far it came.
        baseline: Evaluation of the unquantized model.
        reports: Sensitivity reports by file name without ``.json``; the one the spectrum was made
            from comes first, the others follow as they were asked for, then by name.
        source: The report the spectrum was made from, where it is there unchanged.
        spectrum: The profiles.
        manifests: Written variants by profile name.
        evaluations: Evaluated variants by profile name.
        hashes: SHA-256 of each sensitivity report's file.
        histograms: Weights and inputs of the ops.
        agreement: How far the lenses agree, as ``quantspectrum agree`` wrote it.
        guard: The profiles beside rivals of equal size.
        guard_stale: The guard is of another spectrum than the run's.
        searches: Searches for a profile within a quality budget, by file name without ``.json``.
        truth: What quantizing really did on held-out data.
    """

    run: RunRecord
    baseline: Evaluation | None
    reports: dict[str, SensitivityReport]
    source: str | None
    spectrum: Spectrum | None
    manifests: dict[str, Manifest]
    evaluations: dict[str, Evaluation]
    hashes: dict[str, str] = field(default_factory=dict)
    histograms: Histograms | None = None
    agreement: Agreement | None = None
    guard: Guard | None = None
    guard_stale: bool = False
    searches: dict[str, QualitySearch] = field(default_factory=dict)
    truth: Truth | None = None

    def spectrum_of(self, report: str) -> Spectrum | None:
        """The spectrum, where it was made from that report."""
        return self.spectrum if report == self.source else None

    def profile(self, name: str) -> Profile | None:
        """Return the profile called ``name``, from the spectrum or else from its variant."""
        for profile in self.spectrum.profiles if self.spectrum else ():
            if profile.name == name:
                return profile
        manifest = self.manifests.get(name)
        return manifest.profile if manifest else None

    def profile_names(self) -> list[str]:
        """Profiles that quantize anything: the spectrum's in its order, then the others."""
        names = [p.name for p in self.spectrum.profiles] if self.spectrum else []
        others = (set(self.manifests) | set(self.evaluations)) - set(names)
        names += sorted(others, key=lambda name: (*self._aggression(name), name))
        empty = {p.name for p in (self.spectrum.profiles if self.spectrum else ()) if not p.ops}
        empty -= set(self.manifests) | set(self.evaluations)
        return [name for name in names if name != BASELINE and name not in empty]

    def _aggression(self, name: str) -> tuple[float, float]:
        """How small it is, largest first, then the share quantized; what is not known comes last."""
        profile, evaluation = self.profile(name), self.evaluations.get(name)
        manifest = self.manifests.get(name)
        size = evaluation.resources.disk_bytes if evaluation else None
        size = size or (manifest.total_bytes if manifest else None)
        return -size if size else 1.0, profile.share if profile else float("inf")


def read_run(run_dir: Path) -> RunFiles:
    """Read every record of a run directory.

    Raises:
        UserError: ``run.json`` is missing, or a record that is there cannot be read.
    """
    run = read_artifact(run_dir / "run.json", RunRecord)
    spectrum_path = run_dir / "spectrum.json"
    spectrum = _read(spectrum_path, Spectrum)
    guard = _read(run_dir / "guard.json", Guard)
    paths = {_name(path): path for path in sorted((run_dir / "sensitivity").glob("*.json"))}
    hashes = {name: sha256_file(path) for name, path in paths.items()}
    source = None
    if spectrum is not None:
        source = next((n for n, found in hashes.items() if found == spectrum.report_sha256), None)
    searches = {_name(run_dir / name): _read(run_dir / name, QualitySearch) for name in _SEARCHES}
    reports = {name: read_artifact(path, SensitivityReport) for name, path in paths.items()}
    order = sorted(reports, key=lambda name: (name != source, _asked(run, reports[name]), name))
    return RunFiles(
        run=run,
        baseline=_read(run_dir / "baseline" / "evaluation.json", Evaluation),
        reports={name: reports[name] for name in order},
        source=source,
        spectrum=spectrum,
        manifests={
            path.parent.name: read_artifact(path, Manifest)
            for path in sorted((run_dir / "variants").glob("*/manifest.json"))
        },
        evaluations={
            path.stem: read_artifact(path, Evaluation)
            for path in sorted((run_dir / "evaluations").glob("*.json"))
        },
        hashes=hashes,
        histograms=_read(run_dir / "histograms.json", Histograms),
        agreement=_read(run_dir / "agreement.json", Agreement),
        guard=guard,
        guard_stale=guard is not None
        and (spectrum is None or guard.spectrum_sha256 != sha256_file(spectrum_path)),
        searches={name: found for name, found in searches.items() if found is not None},
        truth=_read(run_dir / "truth.json", Truth),
    )


def _read(path: Path, kind: type[A]) -> A | None:
    """The record, where there is one."""
    return read_artifact(path, kind) if path.exists() else None


def _name(path: Path) -> str:
    return path.name.removesuffix(".json")


def _asked(run: RunRecord, report: SensitivityReport) -> tuple[int, ...]:
    """Where a report stands in what was asked: by base, then metric, then format."""
    asked = {"base": report.base, "metric": report.lens.partition(":")[2]}
    asked["format"] = report.format.name
    places = []
    for key, value in asked.items():
        given = run.request.get(key)
        names = list(given) if isinstance(given, (list, tuple)) else [given]
        places.append(names.index(value) if value in names else len(names))
    return tuple(places)
