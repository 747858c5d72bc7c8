"""Time against ops and against tokens, memory against ops, of a scan on the CPU.

    python bench/growth.py --out bench/results/growth.json

A Llama of random weights, hidden size 256, in float32; every point is a process of its own, so that its
peak memory is its own. `mse_v2`, base `isolate`, format `w8a8`. Ops are spread evenly over one model of 16
layers; tokens grow with the number of samples.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peers import machine, text_batch, timed_scores
from transformers import LlamaConfig, LlamaForCausalLM

from quantspectrum.models import adapter_for
from quantspectrum.models.loading import Loaded, ModelSpec
from quantspectrum.models.ops import list_ops
from quantspectrum.provenance import describe_model

LAYERS = 16
OPS = (14, 28, 56, 112)
SAMPLES = (2, 4, 8, 16)
DEFAULT_OPS, DEFAULT_SAMPLES, TOKENS = 28, 8, 64


def point(ops: int, samples: int) -> dict[str, Any]:
    """One scan: ops, tokens, seconds of scoring and of a forward pass, peak resident memory."""
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    adapter = adapter_for(config)
    loaded = Loaded(
        model=model,
        processor=None,  # type: ignore[arg-type]
        config=config,
        adapter=adapter,
        layout=adapter.layout(model),
        identity=describe_model(model, config, model_id="random-llama", revision=None),
        device=torch.device("cpu"),
        spec=ModelSpec(model="random-llama"),
        storage_dtype=torch.float32,
    )
    ids = torch.randint(0, 4096, (samples, TOKENS), generator=torch.Generator().manual_seed(1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    table = list_ops(model, loaded.layout)
    every = len(table.candidates) // ops
    report, timing = timed_scores(
        loaded,
        text_batch(ids),
        fmt="w8a8",
        metric="mse_v2",
        base="isolate",
        repeats=3,
        table=replace(table, candidates=table.candidates[::every]),
    )
    with torch.no_grad():
        start = time.perf_counter()
        for _ in range(3):
            model(input_ids=ids, use_cache=False)
        forward = (time.perf_counter() - start) / 3
    return {
        "ops": len(report.ops),
        "tokens": ids.numel(),
        "seconds": timing["seconds"],
        "forward_s": forward,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rss_before_bytes": before,
        "weight_bytes": sum(p.numel() * 4 for p in model.parameters()),
        "slots": report.engine.slots if report.engine is not None else None,
        "load_average": os.getloadavg(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--point", type=int, nargs=2, help="used by the bench itself")
    args = parser.parse_args()
    if args.point:
        print(json.dumps(point(*args.point)))
        return

    def measured(ops: int, samples: int) -> Any:
        command = [sys.executable, __file__, "--point", str(ops), str(samples)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(found["ops"], found["tokens"], f"{found['seconds']:.2f} s", flush=True)
        return found

    result = {
        "bench": "growth",
        "machine": machine(),
        "ops": [measured(ops, DEFAULT_SAMPLES) for ops in OPS],
        "tokens": [measured(DEFAULT_OPS, samples) for samples in SAMPLES],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
