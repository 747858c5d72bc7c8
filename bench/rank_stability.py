"""How far rankings depend on the number of samples, and cheap metrics agree with measured ones.

    python bench/rank_stability.py --model DIR [--gguf-file NAME] --text FILE --out JSON

Scores every op on nested sets of samples (the first 8, 32 and 128 by default) and gives Spearman's rank
correlation between sets for each metric, and between metrics on the largest set.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

from quantspectrum.data.encode import encode
from quantspectrum.data.splits import identity, make_splits
from quantspectrum.formats import preset
from quantspectrum.lenses.native import NativeRequest, score_ops
from quantspectrum.models.loading import ModelSpec, load_model
from quantspectrum.models.ops import list_ops
from quantspectrum.provenance import environment
from quantspectrum.statistics import spearman


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf-file")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--format", default="w8a8-static")
    parser.add_argument("--metric", action="append")
    parser.add_argument("--samples", type=int, action="append")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    metrics = tuple(args.metric or ("kl", "mse_v2", "nll", "visibility", "sqnr"))
    counts = args.samples or [8, 32, 128]
    loaded = load_model(
        ModelSpec(model=args.model, gguf_file=args.gguf_file, device=args.device, dtype=args.dtype)
    )
    table = list_ops(loaded.model, loaded.layout)
    splits = make_splits(
        (f"text:{args.text}",),
        images=None,
        calibration=32,
        selection=max(counts),
        evaluation=1,
        seed=0,
    )
    scores: dict[str, dict[int, list[float]]] = {metric: {} for metric in metrics}
    seconds: dict[int, float] = {}
    ties: dict[str, dict[int, float]] = {metric: {} for metric in metrics}
    for count in counts:
        calibration, selection = (
            encode(part, loaded.processor, batch_size=args.batch_size, max_length=args.max_length)
            for part in (splits.calibration, splits.selection[:count])
        )
        request = NativeRequest(
            formats=(preset(args.format),),
            metrics=metrics,
            base="isolate",
            calibration=calibration,
            selection=selection,
            data=(identity(splits.selection[:count], splits.source, "selection"),),
            seed=0,
        )
        start = time.perf_counter()
        reports = score_ops(loaded, table, request, step=lambda: None)
        seconds[count] = time.perf_counter() - start
        for metric, report in zip(metrics, reports, strict=True):
            by_name = {op.name: op.score for op in report.ops}
            scores[metric][count] = [by_name[op.name] for op in table.candidates]
            if metric == "visibility":
                raw = {op.name: op.raw["elementwise"] for op in report.ops}
                elementwise = scores.setdefault("visibility, elementwise", {})
                elementwise[count] = [raw[op.name] for op in table.candidates]
            tied = [op.tied_with_next for op in report.ops[:-1]]
            ties[metric][count] = sum(t is True for t in tied) / len(tied)
        print(count, f"{seconds[count]:.1f} s", flush=True)
    result: dict[str, Any] = {
        "bench": "rank_stability",
        "environment": environment(loaded.device).model_dump(mode="json"),
        "model": loaded.identity.model_dump(mode="json"),
        "format": args.format,
        "ops": len(table.candidates),
        "max_length": args.max_length,
        "seconds": seconds,
        "tied_neighbours": ties,
        "between_samples": {
            metric: {
                f"{a} vs {b}": spearman(found[a], found[b])
                for a, b in itertools.combinations(counts, 2)
            }
            for metric, found in scores.items()
        },
        "between_metrics": {
            f"{a} vs {b}": spearman(scores[a][max(counts)], scores[b][max(counts)])
            for a, b in itertools.combinations(scores, 2)
        },
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(json.dumps({k: result[k] for k in ("between_samples", "between_metrics")}, indent=1))


if __name__ == "__main__":
    main()
