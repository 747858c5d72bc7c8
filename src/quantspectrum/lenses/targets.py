"""The tokens that count, for frameworks that take labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError

__all__ = ["IGNORED", "label_tensors"]

IGNORED = -100
"""Label of a token whose loss does not count, as transformers has it."""


def label_tensors(lens: str, batches: Sequence[Batch], known: Sequence[str]) -> dict[str, Tensor]:
    """Labels of batches, (B, T), under ``score.INDEX.labels``: each token's own id, or ``IGNORED``.

    Args:
        lens: Its name, for the error.
        batches: Batches that are scored.
        known: What a model may predict for the lens, see :class:`Batch`.

    Raises:
        UserError: The model predicts something else.
    """
    found: dict[str, Tensor] = {}
    for index, batch in enumerate(batches):
        if batch.predicts not in known or "input_ids" not in batch.inputs:
            raise UserError(
                f"lens {lens} needs a model that predicts tokens ({' or '.join(known)}), this one "
                f"predicts {batch.predicts}; use the native lens"
            )
        tokens = batch.inputs["input_ids"] if batch.labels is None else batch.labels
        found[f"score.{index}.labels"] = torch.where(batch.target, tokens, IGNORED)
    return found
