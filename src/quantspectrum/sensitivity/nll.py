r"""``nll``: change of the loss.

With :math:`\ell_t = -\log q_t(x_{t+1})` the negative log-likelihood of the token that comes next, an
op's score is the mean over samples of the change of the mean :math:`\ell` over the sample's target
tokens:

* base ``isolate``: with only op *i* quantized, less the baseline's;
* base ``fallback``: with every candidate quantized, less with every one but op *i*.

In nats per token; higher is more sensitive, and an op that happens to help scores below zero. The
change is computed as a difference of logits in float32, not as a difference of two losses.

Unlike ``kl`` it depends on the labels: it is what a user finally sees, and far noisier. Cost: as
``kl``, which it shares when both are asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantspectrum.sensitivity.metric import PerSample, Summary, summary
from quantspectrum.sensitivity.outputs import Difference, Reference

__all__ = ["NAME", "measure", "reference_values", "summarize"]

NAME = "nll"


def reference_values(reference: Reference) -> dict[str, Tensor]:
    """``targets``: number of tokens whose loss counts, per sample."""
    rows = reference.rows
    return {"targets": rows.per_sample((rows.label >= 0).float())}


def measure(difference: Difference) -> dict[str, Tensor]:
    """``nll_change`` per sample: sum over target tokens, in nats."""
    rows = difference.reference.rows
    _, gained = difference.divergence
    return {"nll_change": rows.per_sample(torch.where(rows.label >= 0, -gained, 0.0))}


def summarize(op: PerSample, everything: PerSample | None, reference: PerSample) -> Summary:
    """Score of one op from its ``nll_change`` per sample; with ``everything``, ``fallback``."""
    return summary(
        op["nll_change"],
        everything["nll_change"] if everything is not None else None,
        reference["targets"],
        names=("nll_change", "targets"),
    )
