"""Where the figures come from: stages, environment, records, and the command that made them."""

from __future__ import annotations

import shlex
from typing import Any

from quantspectrum.artifacts import Environment, Provenance, RunRecord
from quantspectrum.report.inputs import RunFiles
from quantspectrum.report.numbers import ABSENT, count, duration, size
from quantspectrum.report.tables import Table, columns

__all__ = ["command_line", "environment_table", "failures", "provenance_table", "stages_table"]


def command_line(run: RunRecord) -> str:
    """Shell command that asks for the same run: ``MODEL`` first, then an option for each key.

    ``None`` and ``False`` are left out, ``True`` is a bare option, a list repeats the option.
    """
    words = ["quantspectrum", "run"]
    if run.request.get("model") is not None:
        words.append(str(run.request["model"]))
    for key, value in run.request.items():
        if key != "model":
            words += _option(f"--{key.replace('_', '-')}", value)
    words += ["--out", "RUN"] if "out" not in run.request else []
    return shlex.join(words)


def _option(flag: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [word for item in values for word in (flag, str(item))]


def failures(run: RunRecord) -> list[str]:
    """One sentence for each stage that failed, and one for all that were not carried out."""
    said = [
        f"The stage {name} failed: {stage.error or 'no reason was recorded'}"
        for name, stage in run.stages.items()
        if stage.state == "failed"
    ]
    open_stages = [n for n, stage in run.stages.items() if stage.state in ("pending", "running")]
    if open_stages:
        said.append(f"Not done, so missing from this report: {', '.join(open_stages)}.")
    return said


def stages_table(run: RunRecord) -> Table:
    """State, time and memory of each stage."""
    return Table(
        caption="Stages of this run.",
        columns=columns(
            "Stage",
            "State",
            "Time",
            "Peak device memory",
            "Error",
            text=("Stage", "State", "Error"),
        ),
        rows=tuple(
            (
                name,
                stage.state,
                duration(stage.wall_s),
                size(stage.peak_device_bytes),
                stage.error or ABSENT,
            )
            for name, stage in run.stages.items()
        ),
    )


def environment_table(environment: Environment) -> Table:
    """Where the run took place."""
    rows = [
        ("quantspectrum", environment.tool_version),
        ("git commit", environment.git_sha or "not recorded"),
        ("Python", environment.python),
        ("Platform", environment.platform),
        ("Device", f"{environment.device} ({environment.device_name})"),
        ("CPUs", count(environment.cpus)),
        *sorted(environment.packages.items()),
    ]
    return Table(
        caption="Environment of the run.",
        columns=columns("What", "Version", text=("What", "Version")),
        rows=tuple(rows),
    )


def provenance_table(files: RunFiles) -> Table:
    """Model, data, time and memory behind each record."""
    found: list[tuple[str, Provenance]] = []
    if files.baseline is not None:
        found.append(("baseline/evaluation.json", files.baseline.provenance))
    found += [(f"sensitivity/{name}.json", r.provenance) for name, r in files.reports.items()]
    found += [(f"variants/{n}/manifest.json", m.provenance) for n, m in files.manifests.items()]
    found += [(f"evaluations/{n}.json", e.provenance) for n, e in files.evaluations.items()]
    titles = (
        "Record",
        "Created",
        "Model",
        "Weights",
        "Data",
        "Device",
        "Seed",
        "Time",
        "Peak memory",
    )
    return Table(
        caption=(
            "Records behind this report. Weights and data are the first 12 digits of their "
            "SHA-256; peak memory is the device's, or the host's where there is no device."
        ),
        columns=columns(
            *titles, text=("Created", "Model", "Data", "Device"), names=("Record", "Weights")
        ),
        rows=tuple((name, *_provenance_cells(provenance)) for name, provenance in found),
    )


def _provenance_cells(provenance: Provenance) -> tuple[str, ...]:
    model = provenance.model
    data = "; ".join(
        f"{d.split}: {d.source}, n = {count(d.samples)}, {d.sha256[:12]}" for d in provenance.data
    )
    peak = provenance.peak_device_bytes
    return (
        provenance.created,
        f"{model.id} @ {model.revision}" if model.revision else model.id,
        model.weights_fingerprint[:12],
        data or ABSENT,
        provenance.environment.device_name,
        str(provenance.seed),
        duration(provenance.wall_s),
        size(peak if peak is not None else provenance.peak_host_bytes),
    )
