"""Which lens foretells the measured damage: rankings of one model against held-out text.

    python bench/truth.py --model DIR [--gguf-file NAME] --text FILE --format w8a8-static --out JSON

Scores the model with the native metrics from both bases and with the rules of thumb, takes further reports
of the same model with `--report` (other frameworks' lenses), and measures every group alone and every
order's prefixes on the evaluation split (`quantspectrum truth`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantspectrum import stages
from quantspectrum.agreement import agree_files
from quantspectrum.artifacts import Truth
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.provenance import environment
from quantspectrum.stages import lens_sensitivity, truth

ISOLATE = ("kl", "mse_v2", "nll", "visibility", "sqnr", "hawq_v2")
FALLBACK = ("kl", "mse_v2")
HEURISTICS = ("heuristic:ends", "heuristic:down-proj", "heuristic:range", "heuristic:size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf-file")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--data", action="append", help="data specs in place of --text")
    parser.add_argument("--format", action="append")
    parser.add_argument("--metric", action="append", choices=ISOLATE, help="isolate (default: all)")
    parser.add_argument("--report", type=Path, action="append")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--eval-samples", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    loaded = load_model(
        ModelSpec(model=args.model, gguf_file=args.gguf_file, device=args.device, dtype=args.dtype)
    )
    data = stages.DataRequest(
        data=tuple(args.data or [f"text:{args.text}"]),
        calibration=args.samples,
        samples=args.samples,
        eval_samples=args.eval_samples,
        batch_size=args.batch_size,
        max_length=args.max_length,
    )
    result: dict[str, Any] = {
        "bench": "truth",
        "environment": environment(loaded.device).model_dump(mode="json"),
        "model": loaded.identity.model_dump(mode="json"),
        "data": data.model_dump(mode="json") | {"data": [named(spec) for spec in data.data]},
        "formats": {},
    }
    for fmt in args.format or ["w8a8-static", "w8a8", "w4a16"]:
        result["formats"][fmt] = of_format(loaded, data, fmt, args)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def named(spec: str) -> str:
    """A data spec without the folder its file is in."""
    kind, _, rest = spec.partition(":")
    return f"{kind}:{Path(rest).name}" if rest else kind


def of_format(
    loaded: Loaded, data: stages.DataRequest, fmt: str, args: argparse.Namespace
) -> dict[str, Any]:
    """Rankings, their agreement and the truth in one format."""
    ops = stages.OpsRequest()
    with tempfile.TemporaryDirectory() as work:
        directory = Path(work)
        paths: list[Path] = []
        for base, metrics in (("isolate", tuple(args.metric or ISOLATE)), ("fallback", FALLBACK)):
            for metric in metrics:
                scoring = stages.ScoringRequest(metric=(metric,), format=(fmt,))
                path = directory / f"{metric}.{base}.json"
                start = time.perf_counter()
                stages.sensitivity(
                    loaded,
                    {(metric, fmt): path},
                    data=data,
                    ops=ops,
                    scoring=scoring,
                    base=base,  # type: ignore[arg-type]
                    progress=silent,
                )
                print(f"{fmt} {metric} {base}: {time.perf_counter() - start:.1f} s", flush=True)
                paths.append(path)
        for lens in HEURISTICS:
            path = directory / f"{lens.replace(':', '-')}.json"
            lens_sensitivity(
                loaded, path, lens=lens, data=data, ops=ops, format_name=fmt, progress=silent
            )
            paths.append(path)
        paths += args.report or []
        start = time.perf_counter()
        found = truth(
            loaded,
            paths,
            directory / "truth.json",
            data=data,
            ops=ops,
            format_name=fmt,
            progress=silent,
        )
        print((directory / "truth.md").read_text(), flush=True)
        return {
            "truth_seconds": time.perf_counter() - start,
            "truth": summary(found),
            "agreement": [
                {"a": p.a, "b": p.b, "spearman": p.spearman.model_dump()}
                for p in agree_files(paths).pairs
                if p.unit == "group" and p.component == "all"
            ],
        }


def summary(found: Truth) -> dict[str, Any]:
    """The record without what is long: provenance is the bench's own."""
    kept = found.model_dump(mode="json", exclude={"provenance"})
    for group in kept["groups"]:
        del group["ops"]
    return kept


def silent(_steps: int) -> Callable[[], None]:
    return lambda: None


if __name__ == "__main__":
    main()
