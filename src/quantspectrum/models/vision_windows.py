"""Windowed vision attention with the windows of equal length computed together.

transformers runs Qwen2.5-VL's vision attention window after window: sixteen photographs make some
five hundred small kernels a block, and the launching of them takes longer than the arithmetic. Here
windows of one length form a batch. The numbers are the same up to the order of additions; only
kernels for whole batches are used, so each window is attended to by itself as before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from quantspectrum.kernels.linear import linear, suits
from quantspectrum.models.placement import inner_forward_slot
from quantspectrum.patching import replaced_attribute

__all__ = ["grouped_windows"]


@contextmanager
def grouped_windows(tower: nn.Module) -> Iterator[None]:
    """Compute a vision tower's attention in batches of windows while entered.

    Linear layers whose sizes do not suit the matrix units are padded too.

    Modules that do not look like Qwen's windowed attention, or run another attention than
    ``sdpa``, are left alone.
    """
    groups = _Groups()
    with ExitStack() as stack:
        for module in tower.modules():
            if _is_windowed(module):
                slot = inner_forward_slot(module)
                stack.enter_context(replaced_attribute(module, slot, _forward(module, groups)))
            elif type(module) is nn.Linear and not suits(module.weight):
                slot = inner_forward_slot(module)
                stack.enter_context(replaced_attribute(module, slot, _padded(module)))
        yield


def _is_windowed(module: nn.Module) -> bool:
    config = getattr(module, "config", None)
    return (
        type(module).__name__.endswith("VisionAttention")
        and isinstance(getattr(module, "qkv", None), nn.Linear)
        and isinstance(getattr(module, "proj", None), nn.Linear)
        and getattr(config, "_attn_implementation", None) == "sdpa"
        and hasattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb_vision")
    )


def _padded(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    return lambda x: linear(x, module.weight, module.bias)


class _Groups:
    """Which rows belong together; found once for each set of window boundaries."""

    def __init__(self) -> None:
        self._recent: list[tuple[Tensor, tuple[Tensor, Tensor, list[tuple[int, int]]]]] = []

    def of(self, bounds: Tensor) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """An order of the rows, its inverse, and how many windows of what length follow in it."""
        for known, made in self._recent:
            if known is bounds:
                return made
        made = self._make(bounds)
        self._recent = [(bounds, made), *self._recent[:3]]
        return made

    def _make(self, bounds: Tensor) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        edges = bounds.tolist()
        by_length: dict[int, list[int]] = {}
        for start, end in pairwise(edges):
            if end > start:
                by_length.setdefault(end - start, []).append(start)
        parts = [
            (torch.tensor(starts)[:, None] + torch.arange(length)).flatten()
            for length, starts in by_length.items()
        ]
        order = torch.cat(parts).to(bounds.device)
        counts = [(len(starts), length) for length, starts in by_length.items()]
        return order, torch.argsort(order), counts


def _forward(module: Any, groups: _Groups) -> Callable[..., Tensor]:
    rotate = sys.modules[type(module).__module__].apply_rotary_pos_emb_vision

    def forward(
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        **_other: Any,
    ) -> Tensor:
        rows = hidden_states.shape[0]
        qkv = module.qkv(hidden_states).reshape(rows, 3, module.num_heads, -1)
        query, key, value = qkv.permute(1, 0, 2, 3).unbind(0)
        query, key = rotate(query, key, *position_embeddings)
        order, back, counts = groups.of(cu_seqlens)
        states = [x.index_select(0, order) for x in (query, key, value)]
        outputs, start = [], 0
        for count, length in counts:
            end = start + count * length
            q, k, v = (x[start:end].unflatten(0, (count, length)).transpose(1, 2) for x in states)
            attended = scaled_dot_product_attention(q, k, v, scale=module.scaling)
            outputs.append(attended.transpose(1, 2).reshape(count * length, -1))
            start = end
        found: Tensor = module.proj(torch.cat(outputs).index_select(0, back))
        return found

    return forward
