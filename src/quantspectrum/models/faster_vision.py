"""Qwen2.5-VL's vision tower, computed the same and faster, for scans that run it hundreds of times.

transformers attends window after window: sixteen photographs make some five hundred small kernels a
block, and launching them takes longer than the arithmetic. Here windows of one length form a batch,
queries and keys are rotated in one pass, and products whose sizes do not suit the matrix units are
padded. Window boundaries and position ids, which depend on the sizes of the pictures alone, are worked
out once for each batch: working them out waits for the GPU. The numbers are the same up to the order of
additions.
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

from quantspectrum import kernels
from quantspectrum.kernels.linear import linear, suits
from quantspectrum.kernels.rotary import rotated
from quantspectrum.models.faster_decoder import faster_decoder
from quantspectrum.models.placement import inner_forward_slot
from quantspectrum.patching import replaced_attribute

__all__ = ["faster_vision"]

REMEMBERED = ("get_vision_position_ids", "get_vision_attention_seqlens", "get_vision_window_index")
"""What the tower's module works out from the sizes of the pictures."""


@contextmanager
def faster_vision(model: nn.Module) -> Iterator[None]:
    """Compute a Qwen2.5-VL's pictures faster while entered.

    Modules that do not look like Qwen's windowed attention, or run another attention than
    ``sdpa``, are left alone.
    """
    groups = _Groups()
    tower = model.get_submodule("model.visual")
    with faster_decoder(model), ExitStack() as stack:
        for module in tower.modules():
            slot = inner_forward_slot(module)
            if _is_windowed(module):
                stack.enter_context(replaced_attribute(module, slot, _forward(module, groups)))
            elif type(module) is nn.Linear and not suits(module.weight):
                stack.enter_context(replaced_attribute(module, slot, _padded(module)))
        family = sys.modules[type(tower).__module__]
        for name in REMEMBERED:
            if hasattr(family, name):
                remembering = _remembering(getattr(family, name))
                stack.enter_context(replaced_attribute(family, name, remembering))
        inner = model.get_submodule("model")
        if hasattr(inner, "compute_3d_position_ids"):
            found: Any = inner.compute_3d_position_ids
            remembering = _remembering(found, but=("inputs_embeds",))
            stack.enter_context(replaced_attribute(inner, "compute_3d_position_ids", remembering))
        yield


def _remembering(function: Callable[..., Any], but: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The function, called again only for other arguments: tensors are told apart by identity.

    ``but`` names arguments on which the result does not depend.
    """
    recent: list[tuple[list[Any], Any]] = []

    def same(known: list[Any], given: list[Any]) -> bool:
        return len(known) == len(given) and all(
            a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)
            for a, b in zip(known, given, strict=True)
        )

    def remembering(*args: Any, **kwargs: Any) -> Any:
        counted = sorted((k, v) for k, v in kwargs.items() if k not in but)
        given = [*args, *(part for item in counted for part in item)]
        for known, result in recent:
            if same(known, given):
                return result
        result = function(*args, **kwargs)
        recent.insert(0, (given, result))
        del recent[2:]
        return result

    return remembering


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
        order, back, counts = groups.of(cu_seqlens)
        qkv = module.qkv(hidden_states)
        if kernels.takes(qkv):
            states = rotated(qkv, order, *position_embeddings, module.num_heads)
        else:
            query, key, value = qkv.reshape(rows, 3, module.num_heads, -1).unbind(1)
            query, key = rotate(query, key, *position_embeddings)
            states = torch.stack((query, key, value)).index_select(1, order)
        outputs, start = [], 0
        for count, length in counts:
            end = start + count * length
            q, k, v = (
                states[:, start:end].reshape(3, count, length, *states.shape[2:]).transpose(2, 3)
            )
            attended = scaled_dot_product_attention(q, k, v, scale=module.scaling)
            outputs.append(attended.transpose(1, 2).reshape(count * length, -1))
            start = end
        found: Tensor = module.proj(torch.cat(outputs).index_select(0, back))
        return found

    return forward
