"""Our exhaustive scan against INC 3.7's own MSE_V2: same model, ops, data, format and machine.

    python bench/scan.py --inc-python env_inc/bin/python --out bench/results/scan.json

`quantspectrum doctor --install inc` makes INC's environment. Both sides score every Linear of
a random Qwen2 with everything else quantized (base `fallback`, format `inc`), with ranges from the
scored batch. INC's time is that of `calculate_op_sensitivity` alone; ours is everything a scoring
does, calibration included. Loading a model counts on neither side. The numbers are compared too.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from peers import machine, run_inc, text_batch, timed_scores
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import models_tiny

OPS_PER_LAYER = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inc-python", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ops", type=int, nargs="+", default=[14, 28, 56])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="of our side")
    args = parser.parse_args()
    runs = [compare(args.inc_python, ops // OPS_PER_LAYER, args.hidden, args) for ops in args.ops]
    result = {
        "bench": "scan",
        "machine": machine(),
        "hidden": args.hidden,
        "samples": [args.samples, args.tokens],
        "runs": runs,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def compare(inc_python: str, layers: int, hidden: int, args: argparse.Namespace) -> dict[str, Any]:
    """Both sides on a model of so many layers."""
    model = random_qwen2(layers, hidden)
    ids = torch.randint(
        0,
        model.config.vocab_size,
        (args.samples, args.tokens),
        generator=torch.Generator().manual_seed(1),
    )
    batch = text_batch(ids)
    report, ours = timed_scores(
        models_tiny.loaded(model),
        batch,
        fmt="inc",
        metric="mse_v2",
        base="fallback",
        repeats=args.repeats,
    )
    inc = run_inc(inc_python, model, [batch])
    residual = {op.name: op.raw["residual_sse"] for op in report.ops}
    theirs: dict[str, float] = inc["batches"][0]
    result = {
        "ops": len(theirs),
        "inc": {
            "seconds": inc["own_seconds"],
            **{key: inc[key] for key in ("load_average", "settings", "versions")},
        },
        "ours": ours,
        "ratio": inc["own_seconds"] / ours["seconds"],
        "largest_relative_difference": max(abs(residual[k] / theirs[k] - 1) for k in theirs),
        "same_order": sorted(residual, key=residual.__getitem__)
        == sorted(theirs, key=theirs.__getitem__),
    }
    assert residual.keys() == theirs.keys()
    print(
        f"{result['ops']} ops: INC {inc['own_seconds']:.1f} s, ours {ours['seconds']:.3f} s, "
        f"{result['ratio']:.0f} times; numbers within {result['largest_relative_difference']:.1e}, "
        f"same order: {result['same_order']}",
        flush=True,
    )
    return result


def random_qwen2(layers: int, hidden: int) -> Qwen2ForCausalLM:
    """A Qwen2 of four heads with random weights, in float32."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=models_tiny.VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=models_tiny.IM_END,
        pad_token_id=models_tiny.PAD,
    )
    return Qwen2ForCausalLM(config).eval().requires_grad_(False)


if __name__ == "__main__":
    main()
