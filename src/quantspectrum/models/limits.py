"""How long a text a model can take."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["max_tokens"]

_UNLIMITED = 1_000_000
"""Tokenizers without a limit of their own claim one beyond this."""


def max_tokens(model: nn.Module, processor: Any) -> int | None:
    """Most tokens, special ones included, that an encoder has positions for; ``None``: no limit.

    RoBERTa and its kin count positions from behind the padding token's.
    """
    limits: list[int | None] = []
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - offset)
    if not limits:
        limits = [getattr(getattr(model, "config", None), "max_position_embeddings", None)]
    limits.append(getattr(processor, "model_max_length", None))
    return min((n for n in limits if isinstance(n, int) and 0 < n < _UNLIMITED), default=None)
