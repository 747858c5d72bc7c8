"""Scores and times of NVIDIA ModelOpt's `auto_quantize`. Runs in ModelOpt's environment only.

    python modelopt_auto_quantize.py --model DIR --inputs FILE.safetensors --method kl_div --out FILE
    python modelopt_auto_quantize.py --random --samples 16 --tokens 512 --device cuda --out FILE

The inputs file holds `input_ids`, (samples, tokens). `--random` builds SmolLM2-135M from its
public configuration with random weights and tokens, for timing where no checkpoint is. See
`bench/requirements/modelopt.txt` for the environment. Nothing of quantspectrum is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

Batch = dict[str, Tensor]

SMOLLM2_135M: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
"""config.json of HuggingFaceTB/SmolLM2-135M-Instruct; its rope theta changes no time."""

EFFECTIVE_BITS = 12.0
"""What the search that follows the scoring must meet; it changes no score."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path)
    source.add_argument("--random", action="store_true")
    parser.add_argument("--inputs", type=Path, help="needed with --model")
    parser.add_argument("--samples", type=int, default=4, help="with --random")
    parser.add_argument("--tokens", type=int, default=128, help="with --random")
    parser.add_argument("--method", choices=["gradient", "kl_div"], default="gradient")
    parser.add_argument("--format", default="INT8_DEFAULT_CFG", help="a preset of ModelOpt's")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.model and not args.inputs:
        parser.error("--model needs --inputs")
    torch.manual_seed(0)
    if args.random:
        model: nn.Module = LlamaForCausalLM(LlamaConfig(**SMOLLM2_135M))
        ids = torch.randint(0, SMOLLM2_135M["vocab_size"], (args.samples, args.tokens))
    else:
        model = AutoModelForCausalLM.from_pretrained(args.model, use_safetensors=True)
        ids = load_file(args.inputs)["input_ids"]
    model = model.to(args.device, getattr(torch, args.dtype)).eval()
    batches = [{"input_ids": rows.to(args.device)} for rows in ids.split(args.batch_size)]
    result = measure(model, batches, args.method, args.format)
    result |= {"random_weights": args.random, "dtype": args.dtype, "samples": list(ids.shape)}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(model: nn.Module, batches: list[Batch], method: str, fmt: str) -> dict[str, Any]:
    """Score every group of ops in one format against high precision."""
    cuda = next(model.parameters()).is_cuda

    def forward_step(model: nn.Module, batch: Batch) -> Any:
        if method == "kl_div":
            return model(**batch, use_cache=False).logits
        return model(**batch, labels=batch["input_ids"], use_cache=False)

    forward_s = timed_forward(model, batches)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    load_before = os.getloadavg()
    start = time.perf_counter()
    _, state = mtq.auto_quantize(
        model,
        constraints={"effective_bits": EFFECTIVE_BITS},
        quantization_formats=[getattr(mtq, fmt)],
        data_loader=batches,
        forward_step=forward_step,
        loss_func=(lambda output, _batch: output.loss) if method == "gradient" else None,
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
        disabled_layers=["*lm_head*"],
        method=method,
        verbose=False,
    )
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    groups = {
        name: {
            "ops": list(found["module_names"]),
            "scores": dict(
                zip(map(str, found["formats"]), map(float, found["scores"]), strict=True)
            ),
        }
        for name, found in state["candidate_stats"].items()
    }
    return {
        "tool": "ModelOpt auto_quantize",
        "method": method,
        "format": fmt,
        "versions": {p: version(p) for p in ("nvidia-modelopt", "torch", "transformers")},
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "forward_s": forward_s,
        "seconds": seconds,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_cuda_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "groups": groups,
    }


@torch.no_grad()
def timed_forward(model: nn.Module, batches: list[Batch]) -> float:
    """Seconds of a warm forward pass over all batches, to compare machines by."""
    for _ in range(2):
        start = time.perf_counter()
        for batch in batches:
            model(**batch, use_cache=False)
        if batches[0]["input_ids"].is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    main()
