"""How many ops of one block to replay together: by timing, where memory allows."""

from __future__ import annotations

import time

import torch

from quantspectrum.data.encode import Batch
from quantspectrum.sensitivity.engine import ReplayEngine, repeated

__all__ = ["MOST_SLOTS", "choose_slots"]

MOST_SLOTS = 8
"""Slot 0 and seven ops: a decoder block's."""

SATURATED_S = 0.25
"""A forward pass that takes longer is bound by arithmetic, which sharing does not spare."""

GAIN = 0.75
"""Sharing must cost less than this part of what it replaces."""


@torch.no_grad()
def choose_slots(engine: ReplayEngine, batch: Batch, device: torch.device) -> int:
    """Time a forward pass at the batch's size and at several times it.

    Returns:
        Slots a replay, slot 0 counted; 1 is no sharing.
    """
    if engine.whole is not None:
        return 1
    inputs = batch.to(device).inputs
    alone = _seconds(engine, inputs, device)
    if alone > SATURATED_S:
        return 1
    try:
        together = _seconds(engine, repeated(inputs, MOST_SLOTS), device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return 1
    return MOST_SLOTS if together < GAIN * alone * (MOST_SLOTS - 1) else 1


def _seconds(engine: ReplayEngine, inputs: dict[str, torch.Tensor], device: torch.device) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        engine.run(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
        if times[0] > SATURATED_S:
            break
    return min(times)
