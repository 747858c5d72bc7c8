"""How long a model takes: prefill, then each further token."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from quantspectrum.artifacts import DecodeLatency
from quantspectrum.errors import told_when_full
from quantspectrum.models.loading import Loaded

__all__ = ["LatencyPlan", "forget_pictures", "measure_latency"]


@dataclass(frozen=True, kw_only=True)
class LatencyPlan:
    """What is timed: every batch size with every prompt length.

    Attributes:
        batch_sizes: Prompts at a time.
        prompt_tokens: Lengths of prompts.
        new_tokens: Tokens after each prompt.
        repeats: Passes whose median is taken, after one that warms up.
    """

    batch_sizes: tuple[int, ...] = (1,)
    prompt_tokens: tuple[int, ...] = (128,)
    new_tokens: int = 16
    repeats: int = 3

    def points(self) -> tuple[tuple[int, int], ...]:
        """Batch size and prompt length of each measurement."""
        return tuple((size, length) for size in self.batch_sizes for length in self.prompt_tokens)


@torch.inference_mode()
def measure_latency(
    loaded: Loaded, plan: LatencyPlan, batch_size: int, prompt_tokens: int
) -> DecodeLatency:
    """Median wall time of a prefill and of each token after it, on text of fixed length.

    Every repeat prefills ``prompt_tokens`` arbitrary tokens, then feeds the likeliest token back
    ``new_tokens`` times with the cache; a model that keeps none computes the whole text again for
    each. One repeat before them warms up and is not counted.

    Raises:
        UserError: The prompts do not fit into memory.
    """
    what = f"{batch_size} prompts of {prompt_tokens} tokens"
    with told_when_full(what, "give smaller --latency-batch-size or --latency-prompt-tokens"):
        prefills, steps = _repeats(loaded, plan, batch_size, prompt_tokens)
    return DecodeLatency(
        batch_size=batch_size,
        prompt_tokens=prompt_tokens,
        new_tokens=plan.new_tokens,
        repeats=plan.repeats,
        prefill_ms=statistics.median(prefills),
        per_token_ms=statistics.median(steps),
    )


def _repeats(
    loaded: Loaded, plan: LatencyPlan, batch_size: int, prompt_tokens: int
) -> tuple[list[float], list[float]]:
    vocabulary = loaded.config.get_text_config().vocab_size
    ids = torch.arange(batch_size * prompt_tokens, device=loaded.device) * 7919 % vocabulary
    ids = ids.reshape(batch_size, prompt_tokens)
    prefills, steps = [], []
    for repeat in range(plan.repeats + 1):
        prefill_ms, step_ms = _one_pass(loaded, ids, plan.new_tokens)
        if repeat:
            prefills.append(prefill_ms)
            steps.append(step_ms)
    return prefills, steps


def _one_pass(loaded: Loaded, ids: torch.Tensor, new_tokens: int) -> tuple[float, float]:
    forget_pictures(loaded)
    output, prefill_ms = _timed(loaded, lambda: loaded.model(input_ids=ids, use_cache=True))

    def decode() -> None:
        state, text = output, ids
        for _ in range(new_tokens):
            token = state.logits[:, -1:].argmax(-1)
            if (cache := getattr(state, "past_key_values", None)) is None:
                text = torch.cat([text, token], -1)
                state = loaded.model(input_ids=text)
            else:
                state = loaded.model(input_ids=token, past_key_values=cache, use_cache=True)

    _, decode_ms = _timed(loaded, decode)
    return prefill_ms, decode_ms / new_tokens


def forget_pictures(loaded: Loaded) -> None:
    """Models of the Qwen-VL family keep where the last batch's pictures shifted positions to."""
    for module in loaded.model.modules():
        if getattr(module, "rope_deltas", None) is not None:
            module.rope_deltas = None  # type: ignore[assignment]


def _timed(loaded: Loaded, work: Callable[[], Any]) -> tuple[Any, float]:
    _wait(loaded.device)
    start = time.perf_counter()
    result = work()
    _wait(loaded.device)
    return result, (time.perf_counter() - start) * 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
