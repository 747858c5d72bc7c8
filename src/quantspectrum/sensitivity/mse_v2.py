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

Cost: one replay per op and batch, from the block that holds the op. The logits themselves are not
needed: the error is a quadratic form of the head's input (:meth:`Head.squared_norm`).
"""

from __future__ import annotations

from torch import Tensor

from quantspectrum.sensitivity.metric import PerSample, Summary, summary
from quantspectrum.sensitivity.outputs import Difference, Reference

__all__ = ["NAME", "measure", "reference_values", "summarize"]

NAME = "mse_v2"


def reference_values(reference: Reference) -> dict[str, Tensor]:
    """``signal``: sum of squared reference logits per sample."""
    return {"signal": reference.rows.per_sample(reference.squared_norm())}


def measure(difference: Difference) -> dict[str, Tensor]:
    """``sse``: sum of squared differences of the logits per sample."""
    rows = difference.reference.rows
    return {"sse": rows.per_sample(difference.squared_error())}


def summarize(op: PerSample, everything: PerSample | None, reference: PerSample) -> Summary:
    """Score of one op from its ``sse`` per sample; with ``everything``, base ``fallback``."""
    return summary(
        op["sse"],
        everything["sse"] if everything is not None else None,
        reference["signal"],
        names=("sse", "signal"),
    )
