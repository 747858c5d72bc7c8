"""Observing the range of every op's input on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError

__all__ = ["observe_ranges"]

Ranges = dict[str, tuple[float, float]]


@torch.inference_mode()
def observe_ranges(
    model: nn.Module, names: Sequence[str], batches: Iterable[Batch], device: torch.device
) -> Ranges:
    """Smallest and largest input of each op over the batches (min-max observer).

    Padding does not count: where an op's input has the batch's ``(batch, tokens)`` as its first
    dimensions, positions outside the attention mask are left out.

    Returns:
        Op name to ``(min, max)``. Ops the data never reaches are absent.

    Raises:
        UserError: An op saw a value that is not finite.
    """
    extremes: dict[str, tuple[Tensor, Tensor]] = {}
    with _observing(model, names, extremes) as set_mask:
        for batch in batches:
            inputs = batch.to(device).inputs
            set_mask(inputs.get("attention_mask"))
            model(**inputs, use_cache=False)
    ranges = {name: (low.item(), high.item()) for name, (low, high) in extremes.items()}
    for name, bounds in ranges.items():
        if not all(map(torch.isfinite, map(torch.tensor, bounds))):
            raise UserError(
                f"op {name} receives values that are not finite on the calibration data; "
                "check the checkpoint, or load it in another --dtype"
            )
    return ranges


@contextmanager
def _observing(
    model: nn.Module, names: Sequence[str], extremes: dict[str, tuple[Tensor, Tensor]]
) -> Iterator[Callable[[Tensor | None], None]]:
    mask: list[Tensor | None] = [None]

    def observe(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach()
            if mask[0] is not None and x.ndim == 3 and x.shape[:2] == mask[0].shape:
                x = x[mask[0].bool()]
            low, high = torch.aminmax(x)
            if name in extremes:
                low = torch.minimum(low, extremes[name][0])
                high = torch.maximum(high, extremes[name][1])
            extremes[name] = low, high

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(observe(name)) for name in names]
    try:
        yield lambda value: mask.__setitem__(0, value)
    finally:
        for handle in handles:
            handle.remove()
