r"""``kl``: KL divergence of the next-token distribution from the baseline's.

With :math:`p_t` the baseline's distribution after position *t* and :math:`q_t` that of a perturbed
model, :math:`\mathrm{kl} = \sum_t \sum_v p_{tv} \log(p_{tv} / q_{tv})` over a sample's text
positions (padding and image tokens left out), divided by their number. An op's score is the mean
over samples of

* base ``isolate``: the KL with only op *i* quantized;
* base ``fallback``: the KL with every candidate quantized less the KL with every one but op *i*.

In nats per token; higher is more sensitive. Computed in float32 from differences of logits, in a
form in which nothing cancels (:attr:`Difference.divergence`), so that the divergence of a single
well-behaved op is resolved too. Positions that hold image tokens predict nothing the model was
trained on; their KL is reported apart, as ``raw["image_kl"]`` per image token.

Source: the direction KL(baseline ‖ quantized) is that of llama.cpp's ``--kl-divergence`` and of
ModelOpt's ``auto_quantize(method="kl_div")``. Cost: one replay and one product with the output head
per op and batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantspectrum.sensitivity.metric import PerSample, Summary, finite, summary
from quantspectrum.sensitivity.outputs import Difference, Reference

__all__ = ["NAME", "measure", "reference_values", "summarize"]

NAME = "kl"


def reference_values(reference: Reference) -> dict[str, Tensor]:
    """``text_tokens`` and ``image_tokens`` per sample."""
    rows = reference.rows
    return {
        "text_tokens": rows.per_sample((~rows.image).float()),
        "image_tokens": rows.per_sample(rows.image.float()),
    }


def measure(difference: Difference) -> dict[str, Tensor]:
    """``kl`` and ``image_kl`` per sample: sums over text and over image positions, in nats."""
    rows = difference.reference.rows
    kl, _ = difference.divergence
    return {
        "kl": rows.per_sample(torch.where(rows.image, 0.0, kl)),
        "image_kl": rows.per_sample(torch.where(rows.image, kl, 0.0)),
    }


def summarize(op: PerSample, everything: PerSample | None, reference: PerSample) -> Summary:
    """Score of one op from its ``kl`` per sample; with ``everything``, base ``fallback``."""
    made = summary(
        op["kl"],
        everything["kl"] if everything is not None else None,
        reference["text_tokens"],
        names=("kl", "text_tokens"),
    )
    tokens = sum(reference["image_tokens"])
    if tokens:
        made.raw.update(finite(image_tokens=tokens, image_kl=sum(op["image_kl"]) / tokens))
    return made
