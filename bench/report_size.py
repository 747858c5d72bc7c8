"""Seconds and bytes of the report of a full-size run, made of synthetic records.

    python bench/report_size.py --out bench/results/report_size.json

The run has what a run of Qwen2.5-VL-3B-Instruct has: 414 scored ops, five variants, 64 samples,
several lenses, and histograms of every op. Prompts carry no pictures.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "report"))
import report_runs as runs

from quantspectrum.artifacts import (
    OCTAVES,
    Histogram,
    Histograms,
    OpHistograms,
    SensitivityReport,
    read_artifact,
    write_artifact,
)
from quantspectrum.provenance import environment
from quantspectrum.report import write_report

LENSES = ("kl", "nll", "sqnr", "hawq_v2", "visibility")


def write(run: Path) -> int:
    """Write the run; returns its scored ops."""
    runs.write_full_run(run)
    first = read_artifact(run / "sensitivity/native-mse_v2.fallback.json", SensitivityReport)
    for seed, lens in enumerate(LENSES):
        other = runs.detailed(runs.report(seed=seed, lens=f"native:{lens}", base="isolate"))
        write_artifact(run / f"sensitivity/native-{lens}.isolate.json", other)
    for path in (run / "baseline/evaluation.json", *(run / "evaluations").glob("*.json")):
        text = json.loads(path.read_text(encoding="utf-8"))
        for prompt in text["prompts"]:
            prompt["image"] = None
        path.write_text(json.dumps(text), encoding="utf-8")
    extra = runs.evaluation("mixed", 0.003, 2)
    write_artifact(run / "evaluations" / "mixed.json", extra.model_copy(update={"prompts": ()}))
    chance = random.Random(0)

    def bins() -> Histogram:
        counts = [0] * OCTAVES
        for i in range(6, 30):
            counts[i] = chance.randint(0, 10**7)
        return Histogram(counts=tuple(counts), zeros=12, negative=10**7, low=-3.0, high=3.1)

    record = Histograms(
        provenance=first.provenance,
        samples=8,
        ops={op.name: OpHistograms(weight=bins(), inputs=bins()) for op in first.ops},
    )
    write_artifact(run / "histograms.json", record)
    return len(first.ops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bench/results/report_size.json"))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        run = Path(work) / "run"
        ops = write(run)
        seconds = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            comparison = write_report(run)
            seconds.append(time.perf_counter() - start)
        result = {
            "ops": ops,
            "variants": len(comparison.rows),
            "samples": comparison.baseline.samples if comparison.baseline else 0,
            "sensitivity_reports": len(list((run / "sensitivity").glob("*.json"))),
            "html_bytes": (run / "report.html").stat().st_size,
            "markdown_bytes": (run / "report.md").stat().st_size,
            "seconds_median": statistics.median(seconds),
            "seconds_all": seconds,
            "environment": environment(torch.device("cpu")).model_dump(mode="json"),
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print({key: value for key, value in result.items() if key != "environment"})


if __name__ == "__main__":
    main()
