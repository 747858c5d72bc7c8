"""ModelOpt's own per-group scores: runs in the environment of bench/requirements/modelopt.txt alone.

    python modelopt_auto_quantize.py --model DIR --tokens FILE --method kl_div --out JSON

DIR is a causal language model saved by transformers, FILE a safetensors file whose `input_ids` are
`(batches, samples, tokens)`. Writes scores by group and the seconds that `mtq.auto_quantize` took, loading
left out. Imports nothing of quantspectrum.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import modelopt
import modelopt.torch.quantization as mtq
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--method", choices=["gradient", "kl_div"], required=True)
    parser.add_argument("--format", default="INT8_SMOOTHQUANT_CFG")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).to(args.device).eval()
    batches = [
        {"input_ids": ids, "labels": ids}
        for ids in load_file(args.tokens)["input_ids"].to(args.device)
    ]

    def forward_step(network: Any, batch: dict[str, torch.Tensor]) -> Any:
        output = network(**batch)
        # kl_div compares raw logits; gradient wants the output that the loss is taken of.
        return output.logits if args.method == "kl_div" else output

    synchronize = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    _, state = mtq.auto_quantize(
        model,
        constraints={"effective_bits": 10.0},
        quantization_formats=[getattr(mtq, args.format)],
        data_loader=batches,
        forward_step=forward_step,
        loss_func=(lambda output, _batch: output.loss) if args.method == "gradient" else None,
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
        disabled_layers=["*lm_head*"],
        method=args.method,
        verbose=False,
    )
    synchronize()
    seconds = time.perf_counter() - start
    groups = {
        name: {
            "modules": [str(module) for module in stats["module_names"]],
            "scores": [float(score) for score in stats["scores"]],
            "formats": [str(fmt) for fmt in stats["formats"]],
        }
        for name, stats in state["candidate_stats"].items()
    }
    result = {
        "method": args.method,
        "format": args.format,
        "seconds": seconds,
        "groups": groups,
        "device": args.device,
        "dtype": args.dtype,
        "load_average": os.getloadavg(),
        "versions": {
            "modelopt": modelopt.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
