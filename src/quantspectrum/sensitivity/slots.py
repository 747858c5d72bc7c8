"""How many ops of one block to replay together: by timing, where memory allows."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from quantspectrum.data.encode import Batch
from quantspectrum.sensitivity.engine import ReplayEngine, repeated

__all__ = ["MOST_SLOTS", "choose_slots"]

MOST_SLOTS = 8
"""Slot 0 and seven ops: a decoder block's."""

TRIAL = 4
"""Batch sizes tried against one."""

GAIN = 0.78
"""Sharing pays when ``TRIAL`` batches together take less than this part of ``TRIAL`` times one:
eight slots serve seven ops, and a tenth should be won."""

SATURATED_S = 0.3
"""A forward pass that takes longer is bound by arithmetic, which sharing does not spare."""

IDLE = 1.5
"""On a GPU, a pass that takes this many times its launching keeps the GPU busy by itself."""


@torch.no_grad()
def choose_slots(engine: ReplayEngine, batch: Batch, device: torch.device) -> int:
    """Time a forward pass at the batch's size and at several times it.

    The model computes as it does when called: with everything quantized for base ``fallback``.

    Returns:
        Slots a replay, slot 0 counted; 1 is no sharing.
    """
    if engine.whole is not None:
        return 1
    inputs = batch.to(device).inputs
    _timed(engine, inputs, device)
    launching, alone = _timed(engine, inputs, device)
    if alone > SATURATED_S or (device.type == "cuda" and alone > IDLE * launching):
        return 1
    more = repeated(inputs, TRIAL)
    try:
        _, together = _timed(engine, more, device)
        if together < SATURATED_S:
            _, together = _timed(engine, more, device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return 1
    return MOST_SLOTS if together < GAIN * TRIAL * alone else 1


def _timed(
    engine: ReplayEngine, inputs: dict[str, Tensor], device: torch.device
) -> tuple[float, float]:
    """Seconds until a forward pass is launched, and until it is done."""
    start = time.perf_counter()
    engine.run(inputs)
    launched = time.perf_counter() - start
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return launched, time.perf_counter() - start
