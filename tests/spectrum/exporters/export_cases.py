"""Spectra of tiny models, and workers that hand an exported configuration to its framework."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import models_tiny
from quantspectrum.artifacts import (
    Coverage,
    Op,
    OpScore,
    Profile,
    SensitivityReport,
    Spectrum,
    sha256_file,
    write_artifact,
)
from quantspectrum.formats import Format, preset
from quantspectrum.isolation import find_environment, run_worker, worker
from quantspectrum.models.loading import pick_device
from quantspectrum.models.ops import list_ops
from quantspectrum.provenance import Stopwatch
from quantspectrum.spectrum.build import build_spectrum
from quantspectrum.spectrum.exporters import export_profile

PROFILE = "half"
MODELS = {"llama": lambda: models_tiny.causal_lm("llama"), "qwen2_5_vl": models_tiny.qwen2_5_vl}


@dataclass(frozen=True)
class Case:
    """A saved model with a report and a spectrum of it, of which one half of the groups is quantized."""

    model: nn.Module
    directory: Path
    spectrum: Path
    report: Path
    table: Any

    @property
    def profile(self) -> Profile:
        return Spectrum.model_validate_json(self.spectrum.read_text()).profile(PROFILE)

    @property
    def chosen(self) -> set[str]:
        return set(self.profile.ops)

    @property
    def kept(self) -> set[str]:
        """Every op of the model that the profile leaves alone, candidate or not."""
        notes = (*self.table.candidates, *self.table.kept, *self.table.skipped)
        return {note.name for note in notes} - self.chosen

    def mix(self, fmt: Format, ending: str) -> None:
        """Give the profile's ops whose names end so another format, as one does by hand."""
        raw = json.loads(self.spectrum.read_text())
        raw["formats"][fmt.name] = fmt.model_dump(mode="json")
        ops = raw["profiles"][0]["ops"]
        changed = [op for op in ops if op.endswith(ending)]
        assert 0 < len(changed) < len(ops)
        ops.update(dict.fromkeys(changed, fmt.name))
        raw["damages"] = {}
        self.spectrum.write_text(json.dumps(raw))

    def export(self, target: str, **more: Any) -> str:
        """The text of the profile's configuration."""
        suffix = ".yaml" if target == "modelopt" else ".json"
        out = self.directory.parent / f"{target}{suffix}"
        _, text = export_profile(self.spectrum, PROFILE, target, out, report=self.report, **more)
        assert out.read_text() == text
        return text


def make_case(
    folder: Path, name: str, fmt: str | Format = "w8a8", *, share: float = 0.5, **choice: Any
) -> Case:
    """Save a model and write a report with made-up scores, and the spectrum of it."""
    model = MODELS[name]()
    loaded = models_tiny.loaded(model)
    table = list_ops(model, loaded.layout, **choice)
    found = fmt if isinstance(fmt, Format) else preset(fmt)
    report = SensitivityReport(
        lens="native:mse_v2",
        base="isolate",
        format=found,
        provenance=Stopwatch(pick_device("cpu")).provenance(loaded.identity),
        complete=True,
        coverage=Coverage(
            found=table.found,
            scored=len(table.candidates),
            kept=table.kept,
            skipped=table.skipped,
        ),
        ops=tuple(_scored(op, found) for op in table.candidates),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_artifact(folder / "report.json", report)
    spectrum = build_spectrum(
        report, report_sha256=sha256_file(folder / "report.json"), cuts={PROFILE: share}
    )
    write_artifact(folder / "spectrum.json", spectrum)
    models_tiny.save(model, folder / "model")
    return Case(
        model=model,
        directory=folder / "model",
        spectrum=folder / "spectrum.json",
        report=folder / "report.json",
        table=table,
    )


def _scored(op: Op, fmt: Format) -> OpScore:
    """A score that depends on the name alone, so that every part of a model has both kinds of ops."""
    score = int.from_bytes(hashlib.sha256(op.group.encode()).digest()[:4], "big") / 2**32
    known = {key: value for key, value in op.model_dump().items() if key in Op.model_fields}
    ranged = (-2.0, 2.0) if fmt.needs_calibration else None
    return OpScore(**known, score=score, n=2, rank=1, input_range=ranged)


def batches(name: str, count: int = 2) -> list[dict[str, Tensor]]:
    """Calibration samples of one model, of one length: nothing is padded."""
    make = models_tiny.image_batch if name == "qwen2_5_vl" else models_tiny.text_batch
    return [make((8,), seed=seed).inputs for seed in range(count)]


def ask(
    environment: str,
    script: str,
    case: Case,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: list[dict[str, Tensor]],
    **more: Any,
) -> dict[str, Any]:
    """What a framework made of a configuration: ``result`` of a worker of ``workers/``."""
    if find_environment(environment) is None:
        pytest.skip(f"needs the environment {environment}: quantspectrum doctor --install")
    scripts = tmp_path / "workers"
    scripts.mkdir()
    for file in (Path(__file__).parent / "workers").glob("*.py"):
        (scripts / file.name).write_text(file.read_text())
    (scripts / "_exchange.py").write_text((worker.WORKERS / "_exchange.py").read_text())
    monkeypatch.setattr(worker, "WORKERS", scripts)
    here = tmp_path / "work"
    here.mkdir()
    request: Mapping[str, Any] = {
        "model": str(case.directory),
        "class": type(case.model).__name__,
        "config": text,
        "batches": len(inputs),
        **more,
    }
    tensors = {
        f"{index}.{key}": value
        for index, batch in enumerate(inputs)
        for key, value in batch.items()
    }
    return run_worker(environment, script, request, here, tensors=tensors, timeout=500)
