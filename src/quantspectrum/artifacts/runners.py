"""What a library's own kernels did with a variant: times, and which kernels they were."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from quantspectrum.artifacts.base import Record

__all__ = ["DecodeLatency", "RunnerName", "RunnerRun"]

RunnerName = Literal["onnxruntime", "torchao", "vllm"]


class DecodeLatency(Record):
    """Median times over repeats after a warm-up: prefill in ms, then ms per generated token."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    prefill_ms: float
    per_token_ms: float


class RunnerRun(Record):
    """A model timed by a library whose kernels multiply integers where its weights are integers.

    Attributes:
        runner: The library.
        versions: Its version, and those of what it computes with.
        device: ``cpu`` or ``cuda``.
        device_name: The processor that ran it, as it calls itself.
        dtype: High-precision type of what is not quantized.
        weights: What was multiplied with: the variant's own codes, or unquantized weights.
        kernels: What was seen to run, or was chosen, to how often: the products of one forward pass
            or the layers, as ``notes`` say.
        latency: One entry per batch size and prompt length.
        load_s: Time to load the model, compiling apart.
        peak_host_bytes: Peak memory of the process that ran it.
        peak_device_bytes: Most device memory allocated by it; ``None`` on the CPU.
        notes: What must be known to read the figures.
    """

    runner: RunnerName
    versions: dict[str, str]
    device: str
    device_name: str
    dtype: str
    weights: str
    kernels: dict[str, int]
    latency: tuple[DecodeLatency, ...]
    load_s: float
    peak_host_bytes: int | None = None
    peak_device_bytes: int | None = None
    notes: tuple[str, ...] = Field(default=())
