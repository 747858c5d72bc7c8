"""Our `kl` and `visibility` against ModelOpt's `auto_quantize` (kl_div and gradient) on SmolLM2-135M.

    python bench/scan_modelopt.py --modelopt-python PATH --model DIR [--gguf-file NAME] --text FILE \
        --device cpu --out bench/results/scan_modelopt_cpu.json

The same weights, tokens and device for all; ModelOpt runs in its own environment
(bench/requirements/modelopt.txt) as a process of its own that times its scoring alone. ModelOpt scores groups
of ops that share a format, ours every op: the time for each scored unit is told beside the whole. With
`--random` the weights are random, of SmolLM2's shape, for timings where the real ones are not at hand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from quantspectrum.data.encode import Batch, encode
from quantspectrum.data.splits import make_splits
from quantspectrum.formats import preset
from quantspectrum.lenses.native import NativeRequest, score_ops
from quantspectrum.models import adapter_for
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.ops import list_ops
from quantspectrum.provenance import describe_model, environment
from quantspectrum.statistics import spearman

WORKER = Path(__file__).parent / "workers" / "modelopt_auto_quantize.py"


def random_smollm2(device: str, dtype: torch.dtype) -> Loaded:
    """A model of SmolLM2-135M's shape with random weights, and no tokenizer."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(device, dtype).eval().requires_grad_(False)
    adapter = adapter_for(config)
    return Loaded(
        model=model,
        processor=None,
        config=config,
        adapter=adapter,
        layout=adapter.layout(model),
        identity=describe_model(model, config, model_id="random-smollm2-135m", revision=None),
        device=torch.device(device),
        spec=ModelSpec(model="random-smollm2-135m"),
        storage_dtype=dtype,
    )


def batches_of(ids: torch.Tensor) -> list[Batch]:
    """One batch for each ``(samples, tokens)``; every token but the first is a target."""
    target = torch.ones_like(ids[0], dtype=torch.bool)
    target[:, 0] = False
    return [
        Batch(
            inputs={"input_ids": some, "attention_mask": torch.ones_like(some)},
            target=target,
            sample_ids=tuple(f"{number}-{i}" for i in range(len(some))),
            kinds=("text",) * len(some),
        )
        for number, some in enumerate(ids)
    ]


def token_ids(args: argparse.Namespace, loaded: Loaded) -> torch.Tensor:
    """``(batches, samples, tokens)``: passages cut to one length, or random tokens."""
    shape = (args.batches, args.batch_size, args.tokens)
    if args.random:
        return torch.randint(0, 49000, shape, generator=torch.Generator().manual_seed(1))
    splits = make_splits(
        (f"text:{args.text}",), images=None, calibration=1, selection=512, evaluation=1, seed=0
    )
    encoded = encode(splits.selection, loaded.processor, batch_size=1, max_length=args.tokens)
    rows = [
        b.inputs["input_ids"][0] for b in encoded if b.inputs["input_ids"].shape[1] == args.tokens
    ]
    wanted = args.batches * args.batch_size
    assert len(rows) >= wanted, f"only {len(rows)} passages of {args.tokens} tokens"
    return torch.stack(rows[:wanted]).reshape(shape)


def ours(loaded: Loaded, ids: torch.Tensor, metric: str) -> dict[str, Any]:
    """Our scores of every op, warm: kernels are compiled and libraries ready before it is timed."""
    table = list_ops(loaded.model, loaded.layout)
    batches = batches_of(ids)

    def once(some: list[Batch]) -> Any:
        request = NativeRequest(
            formats=(preset("w8a8"),),
            metrics=(metric,),
            base="isolate",
            calibration=some,
            selection=some,
            data=(),
            seed=0,
        )
        return score_ops(loaded, table, request, step=lambda: None)[0]

    once(batches_of(ids[:1, :1, :16]))
    if loaded.device.type == "cuda":
        once(batches)
        torch.cuda.synchronize()
    start = time.perf_counter()
    report = once(batches)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "units": len(report.ops),
        "seconds_per_unit": seconds / len(report.ops),
        "engine": report.engine.model_dump() if report.engine is not None else None,
        "load_average": os.getloadavg(),
        "scores": {op.name: op.score for op in report.ops},
    }


def theirs(python: str, model: Path, tokens: Path, method: str, device: str, dtype: str) -> Any:
    """ModelOpt's scores of every group, from its own process."""
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "scores.json"
        command = [python, str(WORKER), "--model", str(model), "--tokens", str(tokens)]
        command += ["--method", method, "--device", device, "--dtype", dtype, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return {"error": done.stderr.strip().splitlines()[-1:]}
        found = json.loads(out.read_text())
    units = len(found["groups"])
    return found | {"units": units, "seconds_per_unit": found["seconds"] / units}


def agreement(scores: dict[str, float], groups: dict[str, Any]) -> float | None:
    """Spearman over their groups; ours of a group is the sum over its ops."""
    pairs = [
        (sum(scores[m] for m in group["modules"] if m in scores), max(group["scores"]))
        for group in groups.values()
        if any(m in scores for m in group["modules"])
    ]
    return spearman([a for a, _ in pairs], [b for _, b in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--modelopt-python", required=True)
    parser.add_argument("--model")
    parser.add_argument("--gguf-file")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.random:
        loaded = random_smollm2(args.device, getattr(torch, args.dtype))
    else:
        loaded = load_model(
            ModelSpec(
                model=args.model, gguf_file=args.gguf_file, device=args.device, dtype=args.dtype
            )
        )
    ids = token_ids(args, loaded)
    with tempfile.TemporaryDirectory() as work:
        directory, tokens = Path(work) / "model", Path(work) / "tokens.safetensors"
        # Saved as plain weights, also where they came from a GGUF file.
        plain = type(loaded.model)(loaded.config)
        plain.load_state_dict(loaded.model.state_dict())
        plain.config.__dict__.pop("quantization_config", None)
        plain.save_pretrained(directory)
        save_file({"input_ids": ids}, tokens)
        result: dict[str, Any] = {
            "bench": "scan_modelopt",
            "environment": environment(loaded.device).model_dump(mode="json"),
            "model": loaded.identity.model_dump(mode="json"),
            "random_weights": args.random,
            "shape": list(ids.shape),
            "dtype": args.dtype,
            "ours": {metric: ours(loaded, ids, metric) for metric in ("kl", "visibility")},
            "theirs": {},
        }
        for method in ("gradient", "kl_div"):
            result["theirs"][method] = theirs(
                args.modelopt_python, directory, tokens, method, args.device, args.dtype
            )
    for metric, method in (("kl", "kl_div"), ("visibility", "gradient")):
        mine, other = result["ours"][metric], result["theirs"][method]
        if "error" in other:
            continue
        result[f"{metric} against {method}"] = {
            "times_faster": other["seconds"] / mine["seconds"],
            "times_faster_per_unit": other["seconds_per_unit"] / mine["seconds_per_unit"],
            "spearman_over_groups": agreement(mine["scores"], other["groups"]),
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    shown = {k: v for k, v in result.items() if " against " in k}
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
