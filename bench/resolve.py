"""Solving another budget from stored reports of the full-size Qwen2.5-VL-3B in five formats.

    python bench/resolve.py --config DIR --out bench/results/resolve.json

The ops are those of the model built from the public configuration on the meta device: true names,
shapes and fused groups of the language model, the vision tower and the merger. The scores are synthetic:
log-normal with heavy tails (sigma 3) as published scores of this model have, times a factor a format with
noise of its own, some below zero. Timed is all of `quantspectrum spectrum` after Python has started:
reading the reports, solving, checking and writing; and the solver alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import machine
from transformers import AutoConfig, AutoModelForImageTextToText

from quantspectrum import stages
from quantspectrum.artifacts import (
    Coverage,
    DataIdentity,
    LatencyEntry,
    LatencyTable,
    ModelIdentity,
    OpScore,
    Provenance,
    SensitivityReport,
    read_artifact,
    write_artifact,
)
from quantspectrum.formats import preset
from quantspectrum.models import adapter_for
from quantspectrum.models.ops import list_ops
from quantspectrum.provenance import environment
from quantspectrum.spectrum.build import build_spectrum
from quantspectrum.spectrum.costs import op_bytes
from quantspectrum.spectrum.rules import parse_budgets

FACTORS = {"w8a16": 0.1, "fp8": 0.6, "w8a8": 1.0, "w4a16": 8.0, "w4a8": 12.0}
"""Formats, and how much more than w8a8 each is made to hurt."""

BUDGETS = (
    *(f"b{share}=bytes:{share}%" for share in (45, 50, 55, 60, 65, 70, 80, 90)),
    *(f"t{share}=time:{share}%" for share in (30, 40, 50, 60, 70, 85)),
    *(f"l{share}=latency:{share}%" for share in (55, 70, 85)),
    *(f"d{exponent}=damage:1e{exponent}" for exponent in (-4, -3, -2, -1, 0)),
)
REPEATS = 3


def reports(config_dir: Path) -> list[SensitivityReport]:
    """A report of every format over the model's ops."""
    config = AutoConfig.from_pretrained(config_dir)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    ops = list_ops(model, adapter_for(config).layout(model)).candidates
    identity = ModelIdentity(
        id="qwen2.5-vl-3b, meta device",
        model_type=config.model_type,
        config_hash="synthetic",
        weights_fingerprint="synthetic",
        dtype="bfloat16",
        parameters=sum(p.numel() for p in model.parameters()),
    )
    data = DataIdentity(source="synthetic", split="selection", samples=32, sha256="synthetic")
    provenance = Provenance(
        created="synthetic",
        environment=environment(torch.device("cpu")),
        model=identity,
        data=(data,),
        wall_s=0.0,
    )
    draw = np.random.default_rng(0)
    sensitivity = np.exp(draw.normal(-9, 3, len(ops)))
    made = []
    for fmt, factor in FACTORS.items():
        scores = sensitivity * factor * np.exp(draw.normal(0, 0.5, len(ops)))
        scores += draw.normal(0, 1e-6, len(ops))
        order = np.argsort(-scores)
        scored = [
            OpScore(
                **ops[i].model_dump(),
                score=float(scores[i]),
                stderr=float(abs(scores[i]) * 0.1 + 1e-6),
                n=32,
                rank=rank,
            )
            for rank, i in enumerate(order, start=1)
        ]
        made.append(
            SensitivityReport(
                lens="native:kl",
                base="isolate",
                format=preset(fmt),
                provenance=provenance,
                complete=True,
                coverage=Coverage(found=len(ops), scored=len(ops)),
                ops=tuple(scored),
            )
        )
    return made


def latency_table(made: list[SensitivityReport]) -> LatencyTable:
    """Times made up from bytes, with a fixed part: the solver's work is that of measured ones."""
    entries = {}
    for op in made[0].ops:
        for report in (None, *made):
            fmt = report.format if report is not None else None
            seconds = 4e-6 + op_bytes(op, fmt, "bfloat16") / 2.5e12
            name = "bf16" if fmt is None else fmt.name
            entries[op.shape, name] = LatencyEntry(
                shape=op.shape,
                format=name,
                rows=1,
                kernel="synthetic",
                median_s=seconds,
                low_s=seconds,
                high_s=seconds,
                n=1,
                relative_l2=0.0,
            )
    return LatencyTable(
        provenance=made[0].provenance,
        dtype="bfloat16",
        threads=1,
        entries=tuple(entries.values()),
        absent=(),
    )


def against_cut(report: SensitivityReport, share: int) -> dict[str, Any]:
    """One format under a budget of bytes, by the program and by the ranking: the smallest cut within."""
    groups = len({op.group for op in report.ops})
    cuts = {f"c{count}": count / groups for count in range(groups + 1)}
    spectrum = build_spectrum(
        report,
        report_sha256="x",
        cuts=cuts,
        budgets=parse_budgets([f"solved=bytes:{share}%"]),
    )
    solved = spectrum.profile("solved")
    limit = share / 100 * report.provenance.model.parameters * 2
    fitting = [p for p in spectrum.profiles if p.name != "solved" and p.predicted_bytes <= limit]
    cut = min(fitting, key=lambda profile: profile.groups)
    return {
        "bytes_share": share,
        "solved_damage": solved.predicted_damage,
        "solved_bytes": solved.predicted_bytes,
        "cut_damage": cut.predicted_damage,
        "cut_bytes": cut.predicted_bytes,
        "cut_groups": cut.groups,
        "solved_groups": solved.groups,
    }


def timed(work: Any) -> tuple[float, Any]:
    """Seconds of the median of the repeats, and what was made."""
    times, found = [], None
    for _ in range(REPEATS):
        start = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - start)
    return statistics.median(times), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    made = reports(args.config)
    table = latency_table(made)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        paths = [Path(work) / f"{report.format.name}.json" for report in made]
        for path, report in zip(paths, made, strict=True):
            write_artifact(path, report)
        write_artifact(Path(work) / "latency.json", table)
        stored = [read_artifact(path, SensitivityReport) for path in paths]
        for text in BUDGETS:
            stage_s, spectrum = timed(
                lambda text=text: stages.spectrum(
                    paths,
                    Path(work) / "s.json",
                    budgets=[text],
                    latency=Path(work) / "latency.json",
                )
            )
            solve_s, _ = timed(
                lambda text=text: build_spectrum(
                    stored,
                    report_sha256=["x"] * len(stored),
                    cuts={},
                    budgets=parse_budgets([text]),
                    latency=table,
                )
            )
            (profile,) = spectrum.profiles
            rows.append(
                {
                    "budget": text,
                    "stage_s": stage_s,
                    "solve_s": solve_s,
                    "value": profile.optimum.value,
                    "bound": profile.optimum.bound,
                    "proved": profile.optimum.proved,
                    "minimises": profile.optimum.minimises,
                    "predicted_damage": profile.predicted_damage,
                    "predicted_bytes": profile.predicted_bytes,
                    "formats": {
                        fmt: sum(f == fmt for f in profile.ops.values()) for fmt in FACTORS
                    },
                }
            )
            print(f"{text:<20} stage {stage_s:.3f} s, solving {solve_s:.3f} s, {profile.rule}")
        size = (Path(work) / "s.json").stat().st_size
    ops = made[0].ops
    single = [
        against_cut(next(one for one in stored if one.format.name == "w8a8"), share)
        for share in (60, 65, 70, 80, 90)
    ]
    result = {
        "bench": "resolve",
        "machine": machine(),
        "ops": len(ops),
        "language_ops": sum(op.component == "language" for op in ops),
        "groups": len({op.group for op in ops}),
        "formats": list(FACTORS),
        "repeats": REPEATS,
        "spectrum_bytes": size,
        "worst_stage_s": max(row["stage_s"] for row in rows),
        "worst_solve_s": max(row["solve_s"] for row in rows),
        "budgets": rows,
        "one_format_against_the_cut": single,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
