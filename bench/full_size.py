"""Qwen2.5-VL-3B at its true size, every stage of `run`, with wall time and peak memory of each.

    python bench/full_size.py --assets DIR --work DIR --out bench/results/full_size.json

Weights are random (drawn on the GPU from the public configuration), so times, memory and sizes
mean something and losses do not. Give `--model` to take true weights instead. DIR of `--assets`
holds `models/qwen2.5-vl-3b-config`, `models/qwen2.5-vl-processor`, `coco/images` and
`coco/captions_val2017.json`: the model's config.json, its processor's files, COCO 2017 pictures
and their captions. `--work` needs about 40 GB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from quantspectrum.artifacts import Evaluation, Manifest, RunRecord, read_artifact
from quantspectrum.run import Run, RunRequest
from quantspectrum.stages import DataRequest

TEXT_CAPTIONS = 2000


def build_model(assets: Path, out: Path) -> dict[str, float]:
    """Draw random weights on the GPU and save them as a checkpoint with the real processor."""
    config = AutoConfig.from_pretrained(assets / "models/qwen2.5-vl-3b-config")
    torch.manual_seed(0)
    start = time.perf_counter()
    with torch.device("cuda"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    torch.cuda.synchronize()
    built = time.perf_counter()
    model.save_pretrained(out, max_shard_size="4GB")
    saved = time.perf_counter()
    size = sum(f.stat().st_size for f in out.glob("*.safetensors"))
    for file in (assets / "models/qwen2.5-vl-processor").iterdir():
        shutil.copy(file, out)
    del model
    torch.cuda.empty_cache()
    return {
        "build_s": built - start,
        "save_s": saved - built,
        "checkpoint_bytes": size,
        "save_bytes_per_s": size / (saved - built),
    }


def text_captions(assets: Path, out: Path) -> Path:
    """Some captions as text-only samples, of pictures the image folder does not have."""
    content = json.loads((assets / "coco/captions_val2017.json").read_text())
    shown = {p.name for p in (assets / "coco/images").iterdir()}
    hidden = [i["id"] for i in content["images"] if i["file_name"] not in shown]
    first: dict[int, str] = {}
    for entry in content["annotations"]:
        first.setdefault(entry["image_id"], entry["caption"])
    lines = [json.dumps({"text": first[i]}) for i in hidden[:TEXT_CAPTIONS] if i in first]
    out.write_text("\n".join(lines) + "\n")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="true weights to use instead of random ones")
    parser.add_argument("--base", choices=["isolate", "fallback"], default="isolate")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--eval-samples", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model = args.model or str(args.work / "model")
    building = {} if args.model else build_model(args.assets, Path(model))
    data = DataRequest(
        data=(
            f"coco:{args.assets / 'coco/captions_val2017.json'}",
            f"jsonl:{text_captions(args.assets, args.work / 'captions.jsonl')}",
        ),
        images=str(args.assets / "coco/images"),
        calibration=16,
        samples=args.samples,
        eval_samples=args.eval_samples,
        max_new_tokens=args.max_new_tokens,
    )
    directory = args.work / "run"
    start = time.perf_counter()
    run = Run(
        directory,
        RunRequest(model=model, data=data, format="w8a8", base=(args.base,)),
        progress=lambda _title, _steps: lambda: None,
        say=lambda stage: print(f"{time.perf_counter() - start:7.1f} s  {stage}", flush=True),
    )
    run.execute()
    wall_s = time.perf_counter() - start
    result = summary(directory, args.base) | {
        "random_weights": args.model is None,
        "building": building,
        "wall_s": wall_s,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(json.dumps(result["stages"], indent=1))


def summary(directory: Path, base: str) -> dict[str, Any]:
    """Stage times, sizes and the environment of a finished run."""
    record = read_artifact(directory / "run.json", RunRecord)
    sensitivity = json.loads((directory / f"sensitivity/native-mse_v2.{base}.json").read_text())
    variants = {
        path.parent.name: read_artifact(path, Manifest)
        for path in sorted(directory.glob("variants/*/manifest.json"))
    }
    baseline = read_artifact(directory / "baseline/evaluation.json", Evaluation)
    return {
        "bench": "full_size",
        "environment": record.environment.model_dump(mode="json"),
        "request": {
            k: v for k, v in record.request.items() if k not in ("model", "data", "images")
        },
        "stages": {name: state.model_dump() for name, state in record.stages.items()},
        "model": baseline.provenance.model.model_dump(mode="json"),
        "coverage": {k: sensitivity["coverage"][k] for k in ("found", "scored")}
        | {"skipped": sensitivity["coverage"]["skipped"], "complete": sensitivity["complete"]},
        "variants": {
            name: {
                "ops": len(m.profile.ops),
                "bytes": m.total_bytes,
                "baseline_bytes": m.baseline_bytes,
                "relative_l2_reloaded": m.verification.relative_l2 if m.verification else None,
            }
            for name, m in variants.items()
        },
        "report_html_bytes": (directory / "report.html").stat().st_size,
    }


if __name__ == "__main__":
    main()
