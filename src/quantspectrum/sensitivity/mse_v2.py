r"""``mse_v2``: squared error of the model's output, the metric INC's MSE_V2 strategy ranks by.

With the reference logits :math:`y`, the logits :math:`\hat y` of a perturbed model and
:math:`\mathrm{sse}(\hat y) = \sum_{t,v} (\hat y_{tv} - y_{tv})^2` over a sample's tokens (padding
left out) and the vocabulary, an op's score is the mean over samples of

* base ``isolate``: :math:`\mathrm{sse}(\hat y^{(i)}) / \sum y^2`, where only op *i* is quantized;
* base ``fallback``: :math:`(\mathrm{sse}(\hat y) - \mathrm{sse}(\hat y^{(-i)})) / \sum y^2`, where
  :math:`\hat y` has every candidate quantized and :math:`\hat y^{(-i)}` every one but op *i*: how
  much of the whole damage goes away when op *i* alone falls back to high precision.

Both are relative squared errors without a unit; higher is more sensitive. A ``fallback`` score
below zero means that the model got worse when the op was restored.

Relation to INC: ``neural_compressor/adaptor/torch_utils/util.py: get_mse_order_per_fp32`` (INC up
to 3.7) measures :math:`\mathrm{sse}(\hat y^{(-i)})`, summed over the batch and at the output of the
last op of its tuning configuration, and ranks ascending: the smaller what is left, the more
sensitive the op. That number is ``raw["residual_sse"]`` here; it and the ``fallback`` score give
the same order when every sample weighs the same. INC counts padding tokens, returns the order
without the numbers, and lets ranks of the first batch count zero; this does not.

Cost: one replay per op and batch, from the block that holds the op.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["NAME", "NOT_FINITE", "measure", "signal", "summarize"]

NAME = "mse_v2"

NOT_FINITE = 1e30
"""Relative squared error given to a sample whose perturbed output is not finite."""

Values = dict[str, list[float]]


def signal(reference: Tensor, mask: Tensor) -> list[float]:
    """Sum of squared reference logits per sample; ``mask`` is ``(batch, tokens)``."""
    return [_sum_of_squares(row[keep]) for row, keep in zip(reference, mask, strict=True)]


def measure(reference: Tensor, perturbed: Tensor, mask: Tensor) -> Values:
    """Sum of squared differences per sample, ``{"sse": [...]}``; logits ``(batch, tokens, V)``.

    Samples are taken one by one so that the float32 difference of a whole batch never exists.
    """
    rows = zip(reference, perturbed, mask, strict=True)
    return {"sse": [_sum_of_squares(b[m].float() - a[m].float()) for a, b, m in rows]}


def _sum_of_squares(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float32).double().square())


def _relative(sse: float, signal: float) -> float:
    return sse / signal if math.isfinite(sse) else NOT_FINITE


def summarize(
    base: Literal["isolate", "fallback"],
    op: Sequence[float],
    everything: Sequence[float] | None,
    signals: Sequence[float],
) -> tuple[float, float | None, dict[str, float]]:
    """Score, standard error and raw numbers of one op from its per-sample ``sse``.

    Args:
        base: Which of the two formulas above.
        op: The op's ``sse`` per sample.
        everything: ``sse`` with every candidate quantized (base ``fallback``), else ``None``.
        signals: Sum of squared reference logits per sample.
    """
    raw = {"sse": math.fsum(op)} if base == "isolate" else {"residual_sse": math.fsum(op)}
    values = [_relative(sse, s) for sse, s in zip(op, signals, strict=True)]
    if base == "fallback":
        assert everything is not None
        raw["total_sse"] = math.fsum(everything)
        whole = [_relative(sse, s) for sse, s in zip(everything, signals, strict=True)]
        values = [total - rest for total, rest in zip(whole, values, strict=True)]
    raw["signal"] = math.fsum(signals)
    raw = {key: number for key, number in raw.items() if math.isfinite(number)}
    pairs = zip(op, everything or op, strict=True)
    if lost := sum(not all(map(math.isfinite, pair)) for pair in pairs):
        raw["samples_not_finite"] = float(lost)
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None, raw
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, math.sqrt(variance / n), raw
