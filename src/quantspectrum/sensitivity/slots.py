"""How many ops of one block to replay together: by timing, where memory allows."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from quantspectrum.data.encode import Batch
from quantspectrum.sensitivity.capture import repeated
from quantspectrum.sensitivity.engine import ReplayEngine

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

EXTRA_BYTES = 4 * 2**30
"""Device memory that sharing may take. A slot of a replay takes what a batch more takes in a plain
pass: that is measured by :func:`choose_slots`, and held to by ``tests/sensitivity``."""

TIMING = 2 + 2 * TRIAL + 4
"""Forward passes that finding out takes: of one batch, of ``TRIAL``, and :meth:`can_share`'s."""

FEWEST = 2 * 2 * TIMING
"""Replays of a scan that is worth it: each is half a pass on average, and sharing spares about half
of them at best."""

IDLE = 1.5
"""On a GPU, a pass that takes this many times its launching keeps the GPU busy by itself."""


@torch.no_grad()
def choose_slots(engine: ReplayEngine, batch: Batch, device: torch.device, replays: int) -> int:
    """Time a forward pass at the batch's size and at several times it.

    The model computes as it does when called: with everything quantized for base ``fallback``.

    Args:
        engine: What replays.
        batch: The batch to try.
        device: Where it is run.
        replays: Replays that the scan is to make; for few nothing is timed.

    Returns:
        Slots a replay, slot 0 counted; 1 is no sharing.
    """
    if engine.whole is not None or replays < FEWEST:
        return 1
    inputs = batch.to(device).inputs
    _timed(engine, inputs, device)
    launching, alone = _timed(engine, inputs, device)
    if alone > SATURATED_S or (device.type == "cuda" and alone > IDLE * launching):
        return 1
    try:
        together, extra = _together(engine, repeated(inputs, TRIAL), device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return 1
    fits = extra * MOST_SLOTS / TRIAL <= EXTRA_BYTES
    pays = fits and together < GAIN * TRIAL * alone
    return MOST_SLOTS if pays and engine.can_share(batch) else 1


def _together(
    engine: ReplayEngine, inputs: dict[str, Tensor], device: torch.device
) -> tuple[float, int]:
    """Seconds of a forward pass of several batches, and device memory it takes while it runs."""
    before = 0
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    _, seconds = _timed(engine, inputs, device)
    if seconds < SATURATED_S:
        _, seconds = _timed(engine, inputs, device)
    extra = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    return seconds, extra


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
