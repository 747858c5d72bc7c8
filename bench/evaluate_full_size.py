"""Five variants of Qwen2.5-VL-3B at its true size, evaluated on 64 captions: where the time goes.

    python bench/evaluate_full_size.py --assets DIR --work DIR --out bench/results/evaluate_full_size.json

Weights are random (drawn on the GPU from the public configuration), so that times, bytes and
memory mean something and losses do not; `--model` takes true weights instead. The variants are
compressed-tensors checkpoints, W8A8 with dynamic activations, of the first fifth of the language
model's ops to all of them, written to `--work` (about 40 GB) and loaded from there. What is timed
begins when the baseline was evaluated and all variants lie on the disk: loading each into the
baseline's modules (as `run` does), its loss and divergences on the captions, the answers to the prompts, resources and statistics.

`--tiny` takes the embedded model and its scenes on whatever device there is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from full_size import build_model, text_captions

from quantspectrum import stages
from quantspectrum.artifacts import Evaluation
from quantspectrum.backends.compressed_tensors import write
from quantspectrum.demo import model_dir
from quantspectrum.evaluate.reload import load_variant
from quantspectrum.evaluate.session import EvaluationSession
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded, ModelSpec, load_model, pick_device
from quantspectrum.models.ops import list_ops
from quantspectrum.provenance import environment
from quantspectrum.simulation import OpPlan

VARIANTS = 5


def timed_load(model: Path) -> tuple[Loaded, float]:
    start = time.perf_counter()
    loaded = load_model(ModelSpec(model=str(model)))
    if loaded.device.type == "cuda":
        torch.cuda.synchronize()
    return loaded, time.perf_counter() - start


def write_variants(loaded: Loaded, work: Path) -> list[Path]:
    """Variants that quantize the first fifth, two fifths, … of the ops of the language model."""
    ops = [
        op.name
        for op in list_ops(loaded.model, loaded.layout).candidates
        if op.component == "language"
    ]
    made = []
    for number in range(1, VARIANTS + 1):
        chosen = ops[: len(ops) * number // VARIANTS]
        plans = {
            name: OpPlan(format=preset("w8a8"), scale_dtype=loaded.storage_dtype) for name in chosen
        }
        out = work / f"variant{number}"
        out.mkdir(parents=True, exist_ok=True)
        write(loaded, plans, out)
        made.append(out)
    return made


def evaluated(
    model: Path,
    out: Path,
    data: stages.DataRequest,
    session: EvaluationSession,
    baseline: Path,
    like: Loaded,
) -> tuple[Evaluation, float]:
    start = time.perf_counter()
    dtype = str(next(like.model.parameters()).dtype).removeprefix("torch.")
    loaded = load_variant(ModelSpec(model=str(model), dtype=dtype), like)
    assert loaded.model is like.model, "the variant did not fit the model it was made from"
    if loaded.device.type == "cuda":
        torch.cuda.synchronize()
    load_s = time.perf_counter() - start
    done = stages.evaluate(
        loaded,
        out,
        data=data,
        label=model.name,
        load_s=load_s,
        baseline=baseline,
        session=session,
    )
    return done, time.perf_counter() - start


def summary(done: Evaluation, wall_s: float) -> dict[str, Any]:
    whole = done.fidelity[0] if done.fidelity else None
    return {
        "wall_s": wall_s,
        "phases_s": done.phases_s,
        "disk_bytes": done.resources.disk_bytes,
        "weight_bytes": done.resources.weight_bytes,
        "kernel": done.resources.kernel,
        "latency": [one.model_dump() for one in done.resources.latency],
        "peak_device_bytes": done.resources.peak_device_bytes,
        "tokens": done.loss.tokens,
        "kl_kind": whole.kl_kind if whole else None,
        "kl_mean": whole.kl_mean.model_dump() if whole else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="true weights to use instead of random ones")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--eval-samples", type=int, default=64)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    building: dict[str, float] = {}
    model = model_dir() if args.tiny else args.model or args.work / "model"
    if not args.tiny and args.model is None:
        building = build_model(args.assets, model)
    data = stages.DataRequest(
        data=("demo",)
        if args.tiny
        else (
            f"coco:{args.assets / 'coco/captions_val2017.json'}",
            f"jsonl:{text_captions(args.assets, args.work / 'captions.jsonl')}",
        ),
        images=None if args.tiny else str(args.assets / "coco/images"),
        calibration=1,
        samples=1,
        eval_samples=args.eval_samples,
    )
    loaded, load_s = timed_load(model)
    session = stages.evaluation_session(loaded, data)
    base_path = args.work / "evaluations/baseline.json"
    start = time.perf_counter()
    base = stages.evaluate(
        loaded, base_path, data=data, label="baseline", load_s=load_s, session=session
    )
    base_s = time.perf_counter() - start
    start = time.perf_counter()
    variants = write_variants(loaded, args.work)
    writing_s = time.perf_counter() - start
    start = time.perf_counter()
    found = {}
    for path in variants:
        out = args.work / f"evaluations/{path.name}.json"
        done, wall_s = evaluated(path, out, data, session, base_path, loaded)
        found[path.name] = summary(done, wall_s)
        print(path.name, {k: round(v, 2) for k, v in (done.phases_s or {}).items()}, flush=True)
    result = {
        "bench": "evaluate_full_size",
        "environment": environment(pick_device("auto")).model_dump(mode="json"),
        "random_weights": not args.tiny and args.model is None,
        "tiny": args.tiny,
        "building": building,
        "writing_variants_s": writing_s,
        "baseline": summary(base, base_s),
        "noise": [
            {"name": one.name, "skipped": one.skipped}
            | ({"kl_mean": one.fidelity[0].kl_mean.value} if one.fidelity else {})
            for one in base.noise
        ],
        "variants": found,
        "variants_wall_s": time.perf_counter() - start,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(f"{VARIANTS} variants in {result['variants_wall_s']:.1f} s")


if __name__ == "__main__":
    main()
