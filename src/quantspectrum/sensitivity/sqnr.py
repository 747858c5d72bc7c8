r"""``sqnr``: noise that quantizing an op adds to its own output, relative to that output.

With an op's output :math:`y` and its quantization error :math:`e` (weights and activations,
:func:`quantspectrum.simulation.op_error`), a sample's value is
:math:`\sum \|e\|^2 / \sum \|y\|^2` over its tokens, and the score is the mean over samples: noise to
signal, so that higher is more sensitive. ``raw["sqnr_db"]`` is
:math:`-10 \log_{10}` of the ratio of the sums, the usual signal-to-quantization-noise ratio.

It needs one forward pass for all ops and knows nothing of what comes after the op.
Source: the per-layer SQNR of AIMET's ``QuantAnalyzer`` and of PyTorch's Numeric Suite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from quantspectrum.data.encode import Batch
from quantspectrum.models.placement import inner_forward_slot
from quantspectrum.patching import replaced_attribute
from quantspectrum.sensitivity.metric import PassContext, PerSample, Summary, summary
from quantspectrum.sensitivity.outputs import Rows, check_finite
from quantspectrum.sensitivity.samples import SampleSums
from quantspectrum.simulation import op_error

__all__ = ["NAME", "absent", "collect", "score"]

NAME = "sqnr"


@torch.no_grad()
def collect(context: PassContext, batch: Batch, index: int) -> dict[str, dict[str, list[float]]]:
    """``noise`` and ``signal`` of each op per sample."""
    del index
    sums = SampleSums(batch, context.device)
    found: dict[str, dict[str, Tensor]] = {}

    def observed(name: str, module: nn.Module, own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(x: Tensor) -> Any:
            y = own(x)
            error = op_error(module, context.plans[name], x)
            found[name] = {
                "noise": sums.sum(name, error.float().square().sum(-1)),
                "signal": sums.sum(name, y.float().square().sum(-1)),
            }
            return y

        return forward

    with ExitStack() as stack:
        for name in context.plans:
            module = context.model.get_submodule(name)
            slot = inner_forward_slot(module)
            forward = observed(name, module, getattr(module, slot))
            stack.enter_context(replaced_attribute(module, slot, forward))
        inputs = batch.to(context.device).inputs
        values = context.engine.run(inputs)
    rows = Rows.of(batch, inputs, values, context.layout)
    check_finite(rows, batch.sample_ids, rows.pick(values))
    return {op: {key: values.tolist() for key, values in v.items()} for op, v in found.items()}


def absent(samples: int) -> dict[str, list[float]]:
    """Nothing: without an input an op has no noise and no signal."""
    del samples
    return {}


def score(op: PerSample) -> Summary:
    """Mean noise-to-signal ratio."""
    made = summary(op["noise"], None, op["signal"], names=("noise", "signal"))
    noise, signal = made.raw.get("noise", math.inf), made.raw.get("signal", 0.0)
    if 0 < noise < math.inf and signal > 0:
        made.raw["sqnr_db"] = 10 * math.log10(signal / noise)
    return made
