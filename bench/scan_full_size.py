"""Sensitivity of every op of a full-size Qwen2.5-VL-3B on one GPU: times, memory, and where it goes.

    python bench/scan_full_size.py --assets DIR --out bench/results/scan_full_size.json

Weights are random, drawn on the GPU from the public configuration, so that times and memory mean
something and scores do not. Text is random tokens, 32 samples of 128; pictures are real ones through
the real processor. DIR of `--assets` is as in bench/full_size.py. Each scan is made in this process
after a warm-up pass; its time is that of scoring alone, loading left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from quantspectrum.data.encode import Batch, encode
from quantspectrum.data.splits import make_splits
from quantspectrum.formats import preset
from quantspectrum.lenses.native import NativeRequest, score_ops
from quantspectrum.models import adapter_for
from quantspectrum.models.loading import Loaded, ModelSpec
from quantspectrum.models.ops import OpTable, list_ops
from quantspectrum.provenance import describe_model, environment
from quantspectrum.sensitivity.engine import ReplayEngine

LANGUAGE = "*.language_model.*"
VOCABULARY = 150_000
GIB = 2**30


def random_model(assets: Path) -> Loaded:
    """The 3B with random weights on the GPU, and the real processor."""
    config = AutoConfig.from_pretrained(assets / "models/qwen2.5-vl-3b-config")
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.eval().requires_grad_(False)
    adapter = adapter_for(config)
    return Loaded(
        model=model,
        processor=AutoProcessor.from_pretrained(assets / "models/qwen2.5-vl-processor"),
        config=model.config,
        adapter=adapter,
        layout=adapter.layout(model),
        identity=describe_model(model, config, model_id="random-qwen2.5-vl-3b", revision=None),
        device=torch.device("cuda"),
        spec=ModelSpec(model="random-qwen2.5-vl-3b"),
        storage_dtype=torch.bfloat16,
    )


def text_batch(samples: int, tokens: int) -> Batch:
    """Random tokens, every one but the first a target."""
    ids = torch.randint(
        0, VOCABULARY, (samples, tokens), generator=torch.Generator().manual_seed(1)
    )
    target = torch.ones_like(ids, dtype=torch.bool)
    target[:, 0] = False
    return Batch(
        inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        target=target,
        sample_ids=tuple(f"random-{i}" for i in range(samples)),
        kinds=("text",) * samples,
    )


def image_batches(loaded: Loaded, assets: Path, samples: int, batch_size: int) -> list[Batch]:
    """Real pictures and their captions through the real processor."""
    splits = make_splits(
        (f"coco:{assets / 'coco/captions_val2017.json'}",),
        images=assets / "coco/images",
        calibration=1,
        selection=samples,
        evaluation=1,
        seed=0,
    )
    return encode(splits.selection, loaded.processor, batch_size=batch_size, max_length=1024)


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Result of a call, its wall time and the peak of allocated device memory."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    figures = {
        "seconds": time.perf_counter() - start,
        "peak_gib": torch.cuda.max_memory_allocated() / GIB,
    }
    return result, figures


def scan(
    loaded: Loaded, table: OpTable, batches: list[Batch], metric: str, base: str, **more: Any
) -> dict[str, Any]:
    """Score all ops of the table once; times and memory."""
    request = NativeRequest(
        formats=tuple(preset(name) for name in more.pop("formats", ("w8a8",))),
        metrics=tuple(metric.split("+")),
        base=base,
        calibration=batches,
        selection=batches,
        data=(),
        seed=0,
        **more,
    )
    reports, figures = measured(lambda: score_ops(loaded, table, request, step=lambda: None))
    report = reports[0]
    rows = sum(int(batch.inputs["attention_mask"].sum()) for batch in batches)
    return figures | {
        "metric": metric,
        "base": base,
        "ops": len(report.ops),
        "tokens": rows,
        "scored": report.coverage.scored,
        "complete": report.complete,
        "engine": report.engine.model_dump() if report.engine is not None else None,
    }


def forward_floor(
    loaded: Loaded, batches: list[Batch], ops: list[str], *, every: int = 1
) -> dict[str, float]:
    """Forward passes as transformers runs them and as scans do, and replays of every op unperturbed.

    Half a forward pass an op is the floor of any scan that replays suffixes with transformers' own
    forward. Only each ``every``-th op is replayed.
    """
    inputs = [batch.to(loaded.device).inputs for batch in batches]

    def passes() -> None:
        for some in inputs:
            loaded.model(**some, use_cache=False)

    with torch.no_grad():
        passes()
        _, plain = measured(lambda: [passes() for _ in range(3)])
        with loaded.layout.faster():
            engine = ReplayEngine(loaded.model, loaded.layout, ops, loaded.device)
            passes()
            _, faster = measured(lambda: [passes() for _ in range(3)])
            captures = [engine.capture(batch) for batch in batches]

            def replays() -> None:
                for capture in captures:
                    for op in ops[::every]:
                        if op in capture.before:
                            engine.replay(capture, op)

            _, replay = measured(replays)
    return {
        "forward_s": plain["seconds"] / 3,
        "forward_peak_gib": plain["peak_gib"],
        "faster_forward_s": faster["seconds"] / 3,
        "half_forwards_s": plain["seconds"] / 3 / 2 * len(ops),
        "unperturbed_replays_s": replay["seconds"] * every,
    }


def precision(loaded: Loaded, batches: list[Batch]) -> list[dict[str, float]]:
    """Relative L2 of bfloat16 logits from float32 ones, as transformers and as scans compute them.

    Converts the model to float32, so that it is the last part.
    """

    def logits(batch: Batch, dtype: torch.dtype) -> torch.Tensor:
        inputs = batch.to(loaded.device).inputs
        inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        found: torch.Tensor = loaded.model(**inputs, use_cache=False).logits.float().cpu()
        return found

    with torch.no_grad():
        plain = [logits(batch, torch.bfloat16) for batch in batches]
        with loaded.layout.faster():
            faster = [logits(batch, torch.bfloat16) for batch in batches]
        loaded.model.float()
        exact = [logits(batch, torch.float32) for batch in batches]
    return [
        {
            "plain_to_float32": float((a - c).norm() / c.norm()),
            "faster_to_float32": float((b - c).norm() / c.norm()),
            "faster_to_plain": float((a - b).norm() / c.norm()),
        }
        for a, b, c in zip(plain, faster, exact, strict=True)
    ]


def kernels(loaded: Loaded, batch: Batch, ops: list[str], base: str) -> dict[str, Any]:
    """Device time by kernel over replays of some ops, from the profiler."""
    from torch.profiler import ProfilerActivity, profile

    table = list_ops(loaded.model, loaded.layout, include=(LANGUAGE,))
    chosen = OpTable(
        candidates=tuple(op for op in table.candidates if op.name in ops or base == "fallback"),
        kept=table.kept,
        skipped=table.skipped,
    )
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        figures = scan(loaded, chosen, [batch], "mse_v2+kl", base, max_ops=None, slots=1)
    events = [e for e in profiler.key_averages() if e.self_device_time_total > 0]
    events = [e for e in events if str(e.device_type).endswith("CUDA")]
    events.sort(key=lambda e: -e.self_device_time_total)
    total = sum(e.self_device_time_total for e in events)
    return {
        "wall_s": figures["seconds"],
        "device_s": total / 1e6,
        "top": [
            {"kernel": e.key[:90], "share": e.self_device_time_total / total, "calls": e.count}
            for e in events[:18]
        ],
    }


def growth(loaded: Loaded, language: OpTable) -> dict[str, Any]:
    """Time against tokens and against ops, memory against ops."""
    tokens = [
        scan(loaded, language, [text_batch(samples, 128)], "mse_v2", "isolate", slots=1)
        for samples in (4, 8, 16, 32)
    ]
    ops = []
    for count in (36, 84, 168, 252):
        spread = language.candidates[:: max(1, len(language.candidates) // count)][:count]
        some = OpTable(candidates=tuple(spread), kept=language.kept, skipped=language.skipped)
        ops.append(scan(loaded, some, [text_batch(32, 128)], "mse_v2", "isolate", slots=1))
    return {"tokens": tokens, "ops": ops}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", help="parts to run (default: all)")
    args = parser.parse_args()
    loaded, building = measured(lambda: random_model(args.assets))
    language = list_ops(loaded.model, loaded.layout, include=(LANGUAGE,))
    everything = list_ops(loaded.model, loaded.layout)
    names = [op.name for op in language.candidates]
    text = [text_batch(32, 128)]
    parts: dict[str, Callable[[], Any]] = {
        "floor": lambda: forward_floor(loaded, text, names),
        "mse_v2 isolate": lambda: scan(loaded, language, text, "mse_v2", "isolate"),
        "mse_v2 fallback": lambda: scan(loaded, language, text, "mse_v2", "fallback"),
        "kl isolate": lambda: scan(loaded, language, text, "kl", "isolate"),
        "kl fallback": lambda: scan(loaded, language, text, "kl", "fallback"),
        "mse_v2+kl+nll isolate": lambda: scan(loaded, language, text, "mse_v2+kl+nll", "isolate"),
        "visibility": lambda: scan(loaded, language, text, "visibility", "isolate"),
        "sqnr": lambda: scan(loaded, language, text, "sqnr", "isolate"),
        "hawq_v2": lambda: scan(
            loaded, language, [text_batch(16, 128), text_batch(16, 128)], "hawq_v2", "isolate"
        ),
        "hawq_v2, few tokens": lambda: scan(
            loaded, language, [text_batch(4, 128)], "hawq_v2", "isolate"
        ),
        "images": lambda: images(loaded, everything, args.assets),
        "few tokens, alone": lambda: scan(
            loaded, language, [text_batch(1, 64)], "mse_v2", "isolate", slots=1
        ),
        "few tokens, together": lambda: scan(
            loaded, language, [text_batch(1, 64)], "mse_v2", "isolate", slots=8
        ),
        "growth": lambda: growth(loaded, language),
        "kernels isolate": lambda: kernels(loaded, text[0], names[::36], "isolate"),
        "precision": lambda: precision(
            loaded, [text_batch(4, 128), *image_batches(loaded, args.assets, 4, 4)]
        ),
    }
    result: dict[str, Any] = {
        "bench": "scan_full_size",
        "environment": environment(torch.device("cuda")).model_dump(mode="json"),
        "parameters": loaded.identity.parameters,
        "model_gib": torch.cuda.memory_allocated() / GIB,
        "building": building,
        "parts": {},
    }
    # Kernels are compiled and libraries initialised before anything is timed; the time it takes is told.
    _, result["warm_up"] = measured(
        lambda: scan(
            loaded,
            OpTable(candidates=language.candidates[:7], kept=(), skipped=()),
            [text_batch(32, 128)],
            "mse_v2+kl",
            "isolate",
        )
    )
    for name, work in parts.items():
        if args.only and name not in args.only:
            continue
        try:
            result["parts"][name] = work()
        except (RuntimeError, AssertionError, torch.OutOfMemoryError) as error:
            result["parts"][name] = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        print(name, json.dumps(result["parts"][name])[:400], flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def images(loaded: Loaded, table: OpTable, assets: Path) -> dict[str, Any]:
    """All ops, vision too, on sixteen real pictures with their captions."""
    batches = image_batches(loaded, assets, 16, 8)
    patches = sum(int(b.inputs["image_grid_thw"].prod(-1).sum()) for b in batches)
    names = [op.name for op in table.candidates]
    floor = forward_floor(loaded, batches, names, every=9)
    return scan(loaded, table, batches, "mse_v2", "isolate") | {"patches": patches, "floor": floor}


if __name__ == "__main__":
    main()
