"""The latency table: the ops' linears timed on this machine, by the best kernel that is there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quantspectrum.artifacts import AbsentKernel, LatencyEntry, LatencyTable, Op
from quantspectrum.errors import UserError, in_one_line, told_when_full
from quantspectrum.formats import Format
from quantspectrum.models.loading import Loaded
from quantspectrum.provenance import Stopwatch
from quantspectrum.quantizer import fake_quantize, fake_quantize_input, fake_quantize_weight
from quantspectrum.spectrum.kernels import (
    Absent,
    Kernel,
    high_precision,
    kernel_for,
    static_input_qparams,
)
from quantspectrum.spectrum.legality import HIGH

__all__ = ["MAX_RELATIVE_L2", "measure_latency"]

MAX_RELATIVE_L2 = 0.02
"""Largest accepted distance of a kernel's result from the float32 product of the same numbers.

A bfloat16 result is rounded to 0.4 %; a wrong scale or order of codes is far more than the bound.
"""

_WARM_UP = 3
_FLUSH_BYTES = 256 * 2**20


def measure_latency(
    loaded: Loaded,
    candidates: Sequence[Op],
    *,
    formats: Sequence[Format],
    rows: Sequence[int],
    repeats: int,
    progress: Callable[[int], Callable[[], None]],
) -> LatencyTable:
    """Median times of every distinct shape, format and count of rows.

    Before each repeat a buffer larger than the caches is written, so that weights are read from
    memory, as they are in a model of many layers. Inputs and weights are random: times do not
    depend on them.

    Args:
        loaded: The model: its device and type are what is timed.
        candidates: The ops whose shapes are timed.
        formats: Formats beside high precision.
        rows: Rows of the input.
        repeats: Timed repeats, after a warm-up.
        progress: Given the number of steps, returns what is called after each.

    Raises:
        UserError: There is no candidate, or there are more rows than memory holds.
    """
    if not candidates:
        raise UserError("no op is a candidate; widen --include")
    watch = Stopwatch(loaded.device)
    dtype = getattr(torch, loaded.identity.dtype)
    shapes = list(dict.fromkeys(op.shape for op in candidates))
    asked: list[Format | None] = [None, *formats]
    step = progress(len(shapes) * len(rows) * len(asked))
    timer = _Timer(loaded.device, repeats)
    entries: list[LatencyEntry] = []
    absent: list[AbsentKernel] = []
    for shape in shapes:
        for count in rows:
            for fmt in asked:
                with told_when_full(f"{count} rows of inputs", "give fewer --rows"):
                    made = _entry(shape, count, fmt, dtype, timer)
                (entries if isinstance(made, LatencyEntry) else absent).append(made)  # type: ignore[arg-type]
                step()
    return LatencyTable(
        provenance=watch.provenance(loaded.identity),
        dtype=loaded.identity.dtype,
        threads=torch.get_num_threads(),
        entries=tuple(entries),
        absent=tuple(absent),
    )


@torch.inference_mode()
def _entry(
    shape: tuple[int, ...], rows: int, fmt: Format | None, dtype: torch.dtype, timer: _Timer
) -> LatencyEntry | AbsentKernel:
    name = HIGH if fmt is None else fmt.name
    if len(shape) != 2:
        return _absent(shape, name, rows, "a convolution, which is not timed")
    x, weight = _random(shape, rows, dtype, timer.device)
    try:
        kernel = high_precision(weight) if fmt is None else kernel_for(fmt, weight, x)
        found = kernel.run(x)
    except Absent as reason:
        return _absent(shape, name, rows, str(reason))
    except (RuntimeError, NotImplementedError) as error:
        return _absent(shape, name, rows, f"the kernel refuses: {in_one_line(error, 200)}")
    distance = _distance(found, x, weight, fmt, kernel.scale_dtype)
    # A comparison with NaN is false, so that NaN fails here too.
    if not distance <= MAX_RELATIVE_L2:
        return _absent(
            shape, name, rows, f"{kernel.name} is wrong here: relative L2 {distance:.2e}"
        )
    times = timer.times(kernel, x)
    low, median, high = (_quantile(times, q) for q in (0.25, 0.5, 0.75))
    return LatencyEntry(
        shape=shape,
        format=name,
        rows=rows,
        kernel=kernel.name,
        median_s=median,
        low_s=low,
        high_s=high,
        n=len(times),
        relative_l2=distance,
    )


def _absent(shape: tuple[int, ...], fmt: str, rows: int, reason: str) -> AbsentKernel:
    return AbsentKernel(shape=shape, format=fmt, rows=rows, reason=reason)


def _random(
    shape: tuple[int, ...], rows: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """An input and a weight, from a generator of their own."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, shape[1], generator=generator)
    weight = torch.randn(shape, generator=generator) / math.sqrt(shape[1])
    return x.to(device, dtype), weight.to(device, dtype)


def _distance(
    found: Tensor, x: Tensor, weight: Tensor, fmt: Format | None, scale_dtype: torch.dtype
) -> float:
    """``||found - expected|| / ||expected||`` against fake-quantized operands in float32."""
    x, weight = x.float(), weight.float()
    if fmt is not None:
        weight = fake_quantize_weight(weight, fmt.weight, scale_dtype)
    if fmt is not None and (act := fmt.activation) is not None:
        x = (
            fake_quantize_input(x, act)
            if act.dynamic
            else fake_quantize(x, *static_input_qparams(x, act), act)
        )
    expected = x @ weight.T
    return float((found.float() - expected).norm() / expected.norm())


def _quantile(values: Sequence[float], q: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(q))


class _Timer:
    """Times a kernel on a device, each repeat with cold caches."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device = device
        self._repeats = repeats
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)

    def times(self, kernel: Kernel, x: Tensor) -> list[float]:
        """Seconds of each repeat."""
        for _ in range(_WARM_UP):
            kernel.run(x)
        return [self._one(kernel, x) for _ in range(self._repeats)]

    def _one(self, kernel: Kernel, x: Tensor) -> float:
        self._flush.zero_()
        if self.device.type != "cuda":
            start = time.perf_counter()
            kernel.run(x)
            return time.perf_counter() - start
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        # While the buffer is being written the launches queue up, so that none is waited for.
        begin.record()
        kernel.run(x)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3
