"""How long a model takes: prefill, then each further token."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from quantspectrum.artifacts import DecodeLatency
from quantspectrum.models.loading import Loaded

__all__ = ["measure_latency"]


@torch.inference_mode()
def measure_latency(
    loaded: Loaded,
    *,
    batch_size: int,
    prompt_tokens: int = 128,
    new_tokens: int = 16,
    repeats: int = 3,
) -> DecodeLatency:
    """Median wall time of a prefill and of each token after it, on text of fixed length.

    Every repeat prefills ``prompt_tokens`` arbitrary tokens, then feeds the likeliest token back
    ``new_tokens`` times with the cache. One repeat before them warms up and is not counted.
    """
    vocabulary = loaded.config.get_text_config().vocab_size
    ids = torch.arange(batch_size * prompt_tokens, device=loaded.device) * 7919 % vocabulary
    ids = ids.reshape(batch_size, prompt_tokens)
    prefills, steps = [], []
    for repeat in range(repeats + 1):
        prefill_ms, step_ms = _one_pass(loaded, ids, new_tokens)
        if repeat:
            prefills.append(prefill_ms)
            steps.append(step_ms)
    return DecodeLatency(
        batch_size=batch_size,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        prefill_ms=statistics.median(prefills),
        per_token_ms=statistics.median(steps),
    )


def _one_pass(loaded: Loaded, ids: torch.Tensor, new_tokens: int) -> tuple[float, float]:
    output, prefill_ms = _timed(loaded, lambda: loaded.model(input_ids=ids, use_cache=True))

    def decode() -> None:
        state = output
        for _ in range(new_tokens):
            token = state.logits[:, -1:].argmax(-1)
            state = loaded.model(
                input_ids=token, past_key_values=state.past_key_values, use_cache=True
            )

    _, decode_ms = _timed(loaded, decode)
    return prefill_ms, decode_ms / new_tokens


def _timed(loaded: Loaded, work: Callable[[], Any]) -> tuple[Any, float]:
    _wait(loaded.device)
    start = time.perf_counter()
    result = work()
    _wait(loaded.device)
    return result, (time.perf_counter() - start) * 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
