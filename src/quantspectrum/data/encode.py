"""Samples as batches of model inputs, with the tokens whose loss counts marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from quantspectrum.data.sample import Sample
from quantspectrum.data.tokens import Encoded, SampleEncoder
from quantspectrum.errors import UserError

if TYPE_CHECKING:
    from quantspectrum.data.tokens import Processor

__all__ = ["Batch", "Kind", "encode", "encode_prompts"]

Kind = Literal["text", "image+text"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of one kind, padded to one length.

    Attributes:
        inputs: What ``model(**inputs)`` takes. Per token: ``input_ids`` and ``attention_mask``,
            (B, T), and what else the processor gives; ``pixel_values`` and
            ``image_grid_thw`` with the pictures of all samples along dimension 0.
        target: (B, T) bool: the tokens whose loss counts. These are positions of labels: the
            logits that predict the token at ``t`` are those at ``t - 1``. All false for prompts.
        sample_ids: The samples, row by row.
        kinds: Text alone or with a picture, row by row.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    sample_ids: tuple[str, ...]
    kinds: tuple[Kind, ...]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device``."""
        return Batch(
            inputs={name: values.to(device) for name, values in self.inputs.items()},
            target=self.target.to(device),
            sample_ids=self.sample_ids,
            kinds=self.kinds,
        )


def encode(
    samples: Sequence[Sample],
    processor: Processor,
    *,
    batch_size: int,
    max_length: int | None = None,
) -> list[Batch]:
    """Encode samples for scoring their targets, padded on the right.

    A sample with a prompt becomes a chat turn and its answer, which ends with the token that ends
    a turn; a processor without a chat template gets the prompt on a line of its own, and no end
    token. A sample without a prompt is plain text with the tokenizer's usual special tokens.

    Args:
        samples: What to encode; none gives no batches.
        processor: A processor, or the tokenizer of a text-only model.
        batch_size: Largest number of samples in a batch.
        max_length: Most tokens of a sample. Only targets are cut, never a prompt or a picture.

    Returns:
        Batches on the CPU, each of one kind, text first; the longest samples come first.

    Raises:
        UserError: A picture cannot be read or is for a model that takes text alone, or a
            sample has nothing to score within ``max_length``.
    """
    if max_length is not None and max_length < 2:
        raise UserError(f"max length {max_length} leaves no token to score; give at least 2")
    encoder = SampleEncoder(processor)
    encoded = (encoder.full(sample, max_length) for sample in samples)
    return _batches(encoded, encoder.pad_token_id, batch_size, left=False)


def encode_prompts(
    samples: Sequence[Sample], processor: Processor, *, batch_size: int
) -> list[Batch]:
    """Encode prompts for ``model.generate``: padded on the left, ending where an answer begins.

    Args:
        samples: What to encode; every one has a prompt, and its target is left out.
        processor: See `encode`.
        batch_size: Largest number of samples in a batch.

    Raises:
        UserError: A sample has no prompt, or a picture that is unusable or not for this model.
    """
    encoder = SampleEncoder(processor)
    encoded = (encoder.prompt(sample) for sample in samples)
    return _batches(encoded, encoder.pad_token_id, batch_size, left=True)


def _batches(
    encoded: Iterable[Encoded], pad_id: int, batch_size: int, *, left: bool
) -> list[Batch]:
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} is not usable; give at least 1")
    by_kind: dict[Kind, list[Encoded]] = {"text": [], "image+text": []}
    for one in encoded:
        by_kind["text" if one.sample.image is None else "image+text"].append(one)
    batches = []
    for kind, items in by_kind.items():
        # Alike lengths need little padding; the longest first, so that a lack of memory shows at
        # once. The sort is stable: equal lengths keep the order of the samples.
        items.sort(key=len, reverse=True)
        for start in range(0, len(items), batch_size):
            batches.append(_collate(items[start : start + batch_size], kind, pad_id, left))
    return batches


def _collate(items: list[Encoded], kind: Kind, pad_id: int, left: bool) -> Batch:
    length = max(map(len, items))

    def padded(values: Tensor, fill: int) -> Tensor:
        lack = length - values.numel()
        return pad(values, (lack, 0) if left else (0, lack), value=fill)

    inputs = {
        name: torch.stack(
            [padded(item.tokens[name], pad_id if name == "input_ids" else 0) for item in items]
        )
        for name in items[0].tokens
    }
    for name in items[0].media:
        inputs[name] = torch.cat([item.media[name] for item in items])
    return Batch(
        inputs=inputs,
        target=torch.stack([padded(item.target, 0) for item in items]),
        sample_ids=tuple(item.sample.id for item in items),
        kinds=(kind,) * len(items),
    )
