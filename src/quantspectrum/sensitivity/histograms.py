"""Histograms of the weights and inputs of every op, in one pass over a few samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantspectrum.artifacts.histograms import LOWEST, OCTAVES, Histogram, OpHistograms
from quantspectrum.data.encode import Batch
from quantspectrum.models.outputs import call_options
from quantspectrum.models.placement import weight_of
from quantspectrum.sensitivity.calibration import seen_by_ops

__all__ = ["OctaveCounter", "op_histograms"]

CHUNK = 2**24
"""Values counted at once: bounds the memory of a large tensor's float32 copy."""


class OctaveCounter:
    r"""Counts magnitudes by octave, whatever batches they come in.

    With :math:`|x| = m 2^e`, :math:`m \in [1/2, 1)` (``torch.frexp``, exact), *x* is in bin
    :math:`e - 1 + 28`, limited to the first and last of 48. Nothing leaves the device before
    :meth:`histogram`. Values that are not finite are left out.
    """

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._counts: Tensor | None = None
        self._bounds: tuple[Tensor, Tensor] | None = None

    def observe(self, x: Tensor) -> None:
        """Count the values of ``x``, any shape."""
        flat = x.detach().flatten()
        for start in range(0, len(flat), CHUNK):
            self._observe(flat[start : start + CHUNK].float())

    def _observe(self, x: Tensor) -> None:
        finite = x.isfinite()
        _, exponent = torch.frexp(x)
        bins = (exponent.long() - 1 - LOWEST).clamp(0, OCTAVES - 1)
        # Two more places: zeros, and what is not finite.
        bins = torch.where(x == 0, OCTAVES, bins)
        bins = torch.where(finite, bins, OCTAVES + 1)
        counts = torch.cat(
            [torch.bincount(bins, minlength=OCTAVES + 2), ((x < 0) & finite).sum().reshape(1)]
        )
        low = torch.where(finite, x, math.inf).min()
        high = torch.where(finite, x, -math.inf).max()
        if self._counts is not None and self._bounds is not None:
            counts = counts + self._counts
            low, high = torch.minimum(low, self._bounds[0]), torch.maximum(high, self._bounds[1])
        self._counts, self._bounds = counts, (low, high)

    def histogram(self) -> Histogram | None:
        """What was counted; ``None`` where nothing finite was."""
        if self._counts is None or self._bounds is None:
            return None
        *counts, zeros, _not_finite, negative = self._counts.tolist()
        if not sum(counts) + zeros:
            return None
        return Histogram(
            counts=tuple(counts),
            zeros=zeros,
            negative=negative,
            low=self._bounds[0].item(),
            high=self._bounds[1].item(),
        )


@torch.no_grad()
def op_histograms(
    model: nn.Module, names: Sequence[str], batches: Sequence[Batch], device: torch.device
) -> dict[str, OpHistograms]:
    """Count every op's weight once, and its input over the batches; padding does not count.

    The input of an op that the batches never reach has no histogram.
    """
    counters = {name: OctaveCounter() for name in names}
    with seen_by_ops(model, names, lambda name, x: counters[name].observe(x)) as set_mask:
        for batch in batches:
            fields = batch.to(device).inputs
            set_mask(fields.get("attention_mask"))
            model(**fields, **call_options(model))
    return {
        name: OpHistograms(weight=_weight(model, name), inputs=counter.histogram())
        for name, counter in counters.items()
    }


def _weight(model: nn.Module, name: str) -> Histogram | None:
    counter = OctaveCounter()
    counter.observe(weight_of(model.get_submodule(name)))
    return counter.histogram()
