"""Train the embedded demo model and write it, with its processor and metrics, to a directory.

    PYTHONPATH=src python tools/train_demo_model.py --out DIR --max-seconds 240

Meant for one GPU; ``--device cpu --max-seconds 60 --scenes 16`` exercises everything on a CPU.
Scenes are drawn, rendered and tokenized on the device, fresh for every step; held-out splits
are disjoint by content (see ``quantspectrum.demo.scenes``).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from demo_answers import exact_matches, generate_answers, wilson_interval
from demo_batches import IGNORED, Batch, Mixture, Pool, scene_pools
from demo_fast_path import FastPath, check_fast_path
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLForConditionalGeneration,
)

from quantspectrum.demo.build import build_config, build_generation_config, build_processor
from quantspectrum.demo.questions import QUESTION_KINDS
from quantspectrum.demo.samples import demo_samples

LOSS_WEIGHTS = {"caption": 1.0, "question": 1.0, "text": 0.5, "passage": 0.1}
EVALUATION_SCENES = 1024
POOL = 16384


@dataclass(frozen=True)
class Plan:
    """What was asked on the command line."""

    out: Path
    device: torch.device
    max_seconds: float
    steps: int
    seed: int
    scenes: int
    lr: float
    warmup: int
    init: Path | None
    answers: int


def parse(arguments: Sequence[str] | None = None) -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--max-seconds", type=float, default=240, help="training alone")
    parser.add_argument("--steps", type=int, default=10**9, help="stop here if earlier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=256, help="pictures a step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--init", type=Path, help="go on from this checkpoint's weights")
    parser.add_argument(
        "--answers", type=int, default=1000, help="questions of the last evaluation"
    )
    return Plan(**vars(parser.parse_args(arguments)))


def make_model(plan: Plan) -> Any:
    """A float32 model with fresh (or ``--init``) weights on the device."""
    torch.manual_seed(plan.seed)
    if plan.init is not None:
        model = AutoModelForImageTextToText.from_pretrained(plan.init, dtype=torch.float32)
    else:
        model = Qwen2_5_VLForConditionalGeneration(build_config()).float()
    return model.to(plan.device)


def make_optimizer(model: Any, plan: Plan) -> torch.optim.AdamW:
    """AdamW; only matrices decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    fused = plan.device.type == "cuda"
    return torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.98), fused=fused)


def group_losses(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Mean cross-entropy over each group's target tokens."""
    targets = batch.labels[:, 1:]
    flat = logits[:, :-1].float().flatten(0, 1)
    losses = functional.cross_entropy(
        flat, targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    losses = losses.view(targets.shape)
    count = (targets != IGNORED).float()
    return {name: losses[r].sum() / count[r].sum() for name, r in batch.groups.items()}


def batches(plan: Plan, mixture: Mixture) -> Iterator[Batch]:
    """Endless fresh training batches."""
    for scenes in scene_pools("train", plan.seed, POOL, plan.device):
        pool = Pool.of(scenes)
        for start in range(0, len(scenes) - mixture.total + 1, mixture.total):
            yield pool.batch(start, mixture)


def learning_rate(plan: Plan, step: int, seconds: float) -> float:
    """Linear warm-up, then cosine to 1 % over steps or time, whichever is further on."""
    done = min(1.0, max(step / plan.steps, seconds / plan.max_seconds))
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
    return plan.lr * min(1.0, (step + 1) / plan.warmup) * cosine


def half(device: torch.device) -> torch.autocast:
    """bfloat16 arithmetic on a GPU, float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def right_rows(fast: FastPath, batch: Batch) -> dict[str, float]:
    """Rate of rows of each group whose every target token is the likeliest one.

    With the right answer as context, this equals the exact-match rate of greedy decoding.
    """
    with torch.no_grad(), half(batch.tokens.device):
        guess = fast(batch)[:, :-1].argmax(-1)
    targets = batch.labels[:, 1:]
    right = ((guess == targets) | (targets == IGNORED)).all(1).float()
    rates = {name: float(right[r].mean()) for name, r in batch.groups.items() if name != "passage"}
    answers = right[batch.groups["question"]]
    for index, name in enumerate(QUESTION_KINDS):
        rates[name] = float(answers[batch.kind == index].mean())
    return rates


def step_once(fast: FastPath, optimizer: torch.optim.AdamW, batch: Batch) -> dict[str, Tensor]:
    """One update; returns the losses of the groups."""
    with half(batch.tokens.device):
        logits = fast(batch)
    losses = group_losses(logits, batch)
    loss = torch.stack([LOSS_WEIGHTS[name] * value for name, value in losses.items()]).sum()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(fast.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return losses


def train(fast: FastPath, plan: Plan) -> dict[str, Any]:
    """Train for the planned time and return the log."""
    mixture = Mixture(plan.scenes, plan.scenes * 3 // 8, plan.scenes // 8)
    held_out = Mixture(*[min(EVALUATION_SCENES, 4 * plan.scenes)] * 3)
    scenes = next(scene_pools("evaluation", plan.seed + 1, 64 * held_out.total, plan.device))
    check = Pool.of(scenes, turns=1).batch(0, held_out)
    optimizer = make_optimizer(fast.model, plan)
    stream, log = batches(plan, mixture), []
    start, step, every = time.monotonic(), 0, 250 if plan.device.type == "cuda" else 10
    while step < plan.steps and (seconds := time.monotonic() - start) < plan.max_seconds:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan, step, seconds)
        losses = step_once(fast, optimizer, next(stream))
        step += 1
        if step % every == 0 or step == 20:
            entry: dict[str, Any] = {"step": step, "seconds": round(time.monotonic() - start, 1)}
            entry |= {name: round(value.item(), 4) for name, value in losses.items()}
            if step % (4 * every) == 0:
                rates = right_rows(fast, check)
                entry["right"] = {name: round(rate, 4) for name, rate in rates.items()}
            log.append(entry)
            print(json.dumps(entry), flush=True)
    if plan.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - start
    rates = right_rows(fast, check)
    print(json.dumps({"held out": rates}), flush=True)
    return {
        "steps": step,
        "seconds": round(seconds, 1),
        "steps_per_second": round(step / seconds, 2),
        "pictures": step * mixture.scenes,
        "log": log,
    }


def save(model: Any, out: Path) -> None:
    """Write model (bfloat16), processor and generation settings."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = build_generation_config()
    model.to(torch.bfloat16).save_pretrained(out)
    build_processor().save_pretrained(out)
    for file in out.iterdir():
        file.chmod(0o644)


def evaluate(directory: Path, plan: Plan) -> dict[str, Any]:
    """Exact match of greedy answers to held-out samples, through the real processor.

    The checkpoint is read back; arithmetic is float32 (the weights are bfloat16).
    """
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
    model = model.to(plan.device).eval()
    processor = AutoProcessor.from_pretrained(directory)
    result = {}
    sizes = {"question": plan.answers, "caption": plan.answers // 2, "text": plan.answers // 2}
    for kind, count in sizes.items():
        samples = demo_samples("evaluation", count, kinds=(kind,))
        answers = generate_answers(model, processor, samples, batch_size=250)
        matches = exact_matches(samples, answers)
        result[kind] = rate_record(matches)
        if kind == "question":
            kinds = [sample.id.split("-")[-1] for sample in samples]
            result["by_question"] = {
                name: rate_record([m for m, k in zip(matches, kinds, strict=True) if k == name])
                for name in sorted(set(kinds))
            }
    return result


def rate_record(matches: Sequence[bool]) -> dict[str, Any]:
    """Exact-match rate with its n and 95 % interval."""
    low, high = wilson_interval(sum(matches), len(matches))
    rate = sum(matches) / len(matches)
    return {"n": len(matches), "rate": rate, "interval95": [round(low, 4), round(high, 4)]}


def environment(device: torch.device) -> dict[str, str]:
    """Versions and the device's name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return versions | {"python": platform.python_version(), "device": name}


def main() -> None:
    """Check, train, save, evaluate."""
    plan = parse()
    # The reference forward's convolution would otherwise use tf32 and blur the comparison.
    torch.backends.cudnn.allow_tf32 = False
    model = make_model(plan)
    fast = FastPath(model)
    small = Mixture(scenes=3, text=2, passage=2)
    pool = Pool.of(next(scene_pools("train", plan.seed, 256, plan.device)))
    error = check_fast_path(fast, pool.batch(0, small))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters; fast forward agrees to {error:.1e}", flush=True)
    training = train(fast, plan)
    save(model, plan.out)
    metrics = {
        "parameters": parameters,
        "seed": plan.seed,
        "scenes_per_step": plan.scenes,
        "learning_rate": plan.lr,
        "continued": plan.init is not None,
        "fast_path_error": error,
        "environment": environment(plan.device),
        "training": training,
    }
    # Written before the evaluation too: a fault there must not cost the training's record.
    write_json(plan.out / "metrics.json", metrics)
    metrics["evaluation"] = evaluate(plan.out, plan)
    write_json(plan.out / "metrics.json", metrics)
    print(json.dumps(metrics["evaluation"]))


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as indented JSON."""
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
