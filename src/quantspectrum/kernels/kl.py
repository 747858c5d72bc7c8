r"""The sum that Kullback-Leibler divergences of nearby predictions are computed from.

With baseline probabilities :math:`p`, a change :math:`\delta` of the logits (or of their
logarithms: what is common to a row cancels) and its mean :math:`m = \sum_v p_v \delta_v`,

.. math:: \mathrm{KL}(p \| q) = \log \sum_v p_v e^{\delta_v - m}
          = \operatorname{log1p} \sum_v p_v \, (e^{d_v} - 1 - d_v), \qquad d_v = \delta_v - m,

since :math:`\sum_v p_v d_v = 0`. No term is negative and none is the difference of two larger
numbers, so that divergences far below the float32 epsilon come out right. An error of the mean
enters squared, an error of :math:`\sum_v p_v` as a factor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantspectrum import kernels
from quantspectrum.kernels.language import jit, launch, tl, triton

__all__ = ["centred_exponential_excess"]

SERIES_BELOW = 0.5  # Where nine terms of the series are exact to float32.
CHUNK = 2**24  # Elements of an eager temporary: 64 MiB of float32.
CACHED = 2**19  # The same on a CPU: 2 MiB, as every pass over more than the caches hold waits.
BLOCK = 2048
PROGRAMS = 1024  # Rows are split for at least so many, to fill a GPU.


def centred_exponential_excess(log_p: Tensor, delta: Tensor, mean: Tensor) -> Tensor:
    """For each row the sum of ``p * (exp(d) - 1 - d)``; ``log1p`` of it is the divergence.

    Args:
        log_p: Logarithms of the baseline's probabilities ``(N, V)``, float16, bfloat16 or float32.
        delta: Change of the logits ``(N, V)``, of the same types.
        mean: Mean of ``delta`` under the baseline ``(N,)``, float32.

    Returns:
        ``(N,)``, float32, in nats once ``log1p`` is applied. Where ``p`` is 0, ``d`` does not
        count, whatever it is.
    """
    if kernels.takes(delta) and kernels.takes(log_p):
        return _fused(log_p, delta, mean)
    most = CACHED if delta.device.type == "cpu" else CHUNK
    rows = max(1, most // max(1, delta.shape[1]))
    sums = [
        _eager(*part)
        for part in zip(log_p.split(rows), delta.split(rows), mean.split(rows), strict=True)
    ]
    return torch.cat(sums)


def _eager(log_p: Tensor, delta: Tensor, mean: Tensor) -> Tensor:
    d = delta.float() - mean.float()[:, None]
    series = torch.full_like(d, 1 / 362880)
    for factorial in (40320, 5040, 720, 120, 24, 6, 2):
        series.mul_(d).add_(1 / factorial)
    series.mul_(d).mul_(d)
    p = log_p.float().exp()
    if d.device.type == "cpu" and bool((d.abs() < SERIES_BELOW).all()):
        # What one op changes, nearly always: all finite, and nothing for the exponential to add.
        return series.mul_(p).sum(1)
    excess = torch.where(d.abs() < SERIES_BELOW, series, torch.expm1(d) - d)
    return torch.where(p == 0, 0.0, excess.mul_(p)).sum(1)


def _fused(log_p: Tensor, delta: Tensor, mean: Tensor) -> Tensor:
    log_p, delta = log_p.contiguous(), delta.contiguous()
    rows, columns = delta.shape
    if not delta.numel():
        return torch.zeros(rows, dtype=torch.float32, device=delta.device)
    # A power of two, as the kernel is compiled for each length of a part.
    parts = triton.next_power_of_2(triton.cdiv(PROGRAMS, rows))
    parts = min(parts, triton.cdiv(columns, BLOCK))
    span = triton.cdiv(triton.cdiv(columns, parts), BLOCK) * BLOCK
    sums = torch.empty((rows, parts), dtype=torch.float32, device=delta.device)
    means = mean.float().contiguous()
    numbers = (columns, parts, SERIES_BELOW, span, BLOCK)
    launch(_kernel, (rows, parts), (log_p, delta, means, sums), numbers)
    return sums.sum(1)


@jit
def _kernel(
    log_p, delta, mean, sums, columns, parts, series_below, span: tl.constexpr, block: tl.constexpr
):
    """A program sums ``span`` elements of one row."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    middle = tl.load(mean + row)
    total = tl.zeros((block,), tl.float32)
    for start in range(0, span, block):
        column = part * span + start + tl.arange(0, block)
        place = row * columns + column
        inside = column < columns
        d = tl.load(delta + place, mask=inside, other=0.0).to(tl.float32) - middle
        p = tl.exp(tl.load(log_p + place, mask=inside, other=float("-inf")).to(tl.float32))
        series = 1 / 40320 + d * (1 / 362880)
        series = 1 / 120 + d * (1 / 720 + d * (1 / 5040 + d * series))
        series = d * d * (1 / 2 + d * (1 / 6 + d * (1 / 24 + d * series)))
        excess = tl.where(tl.abs(d) < series_below, series, (tl.exp(d) - 1.0) - d)
        total += tl.where(p == 0.0, 0.0, p * excess)
    tl.store(sums + row * parts + part, tl.sum(total, axis=0))
