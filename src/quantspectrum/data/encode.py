"""Samples as batches of model inputs, with the tokens whose loss counts marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from quantspectrum.data.encoders import Encoder, Predicts, encoder_for
from quantspectrum.data.sample import Sample
from quantspectrum.data.tokens import Encoded, SampleEncoder
from quantspectrum.errors import UserError

if TYPE_CHECKING:
    from quantspectrum.data.tokens import Processor
    from quantspectrum.models.loading import Loaded
    from quantspectrum.models.tasks import Task

__all__ = ["Batch", "Kind", "encode", "encode_for", "encode_prompts"]

Kind = Literal["text", "image+text", "image"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of one kind, padded to one length.

    Attributes:
        inputs: What ``model(**inputs)`` takes. Per token: ``input_ids`` and ``attention_mask``,
            (B, T), and what else the processor gives; ``pixel_values`` and
            ``image_grid_thw`` with the pictures of all samples along dimension 0. Of pictures
            alone: ``pixel_values`` (B, C, H, W).
        target: (B, T) bool: the tokens whose loss counts; all false for prompts. Where samples
            are predicted whole: (B, 1), all true.
        sample_ids: The samples, row by row.
        kinds: Text alone, with a picture, or a picture alone, row by row.
        predicts: What the model's output at a position is about: ``next-token``, so that the
            output that predicts the token at ``t`` is that at ``t - 1``; ``same-token``, the one
            at ``t`` itself; or ``sample``, one output for all of it. A model of unknown outputs
            has ``same-token`` when it takes text, though its outputs may be of the sample.
        labels: (B, T) ids of the tokens to predict, where ``input_ids`` hides them.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    sample_ids: tuple[str, ...]
    kinds: tuple[Kind, ...]
    predicts: Predicts = "next-token"
    labels: Tensor | None = None

    def predicting(self) -> Tensor:
        """Positions of the outputs that predict the targets: bool, of the target's shape."""
        if self.predicts != "next-token":
            return self.target
        return pad(self.target[:, 1:], (0, 1), value=False)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device``."""
        return Batch(
            inputs={name: values.to(device) for name, values in self.inputs.items()},
            target=self.target.to(device),
            sample_ids=self.sample_ids,
            kinds=self.kinds,
            predicts=self.predicts,
            labels=None if self.labels is None else self.labels.to(device),
        )


def encode_for(
    loaded: Loaded,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    max_length: int | None = None,
) -> list[Batch]:
    """Encode samples as a loaded model takes them; see `encode`.

    No sample is longer than the model has positions for.
    """
    limits = [limit for limit in (max_length, loaded.max_tokens) if limit is not None]
    return encode(
        samples,
        loaded.processor,
        batch_size=batch_size,
        max_length=min(limits, default=None),
        task=loaded.task,
    )


def encode(
    samples: Sequence[Sample],
    processor: Processor,
    *,
    batch_size: int,
    max_length: int | None = None,
    task: Task = "causal-lm",
) -> list[Batch]:
    """Encode samples for scoring their targets, padded on the right.

    For a model that writes text, a sample with a prompt becomes a chat turn and its answer, which ends with the token that ends
    a turn; a processor without a chat template gets the prompt on a line of its own, and no end
    token. A sample without a prompt is plain text with the tokenizer's usual special tokens.
    What other models take, see :mod:`quantspectrum.data.encoders`.

    Args:
        samples: What to encode; none gives no batches.
        processor: A processor, or the tokenizer of a text-only model, or an image processor.
        batch_size: Largest number of samples in a batch.
        max_length: Most tokens of a sample. Only targets are cut, never a prompt or a picture.
        task: What the model is for.

    Returns:
        Batches on the CPU, each of one kind, text first; the longest samples come first.

    Raises:
        UserError: A picture cannot be read, is lacking, or is for a model that takes text alone,
            or a sample has nothing to score within ``max_length``.
    """
    if max_length is not None and max_length < 2:
        raise UserError(f"max length {max_length} leaves no token to score; give at least 2")
    encoder = encoder_for(processor, task)
    encoded = (encoder.full(sample, max_length) for sample in samples)
    return _batches(encoded, encoder, batch_size, left=False)


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
    return _batches(encoded, encoder, batch_size, left=True)


def _batches(
    encoded: Iterable[Encoded], encoder: Encoder, batch_size: int, *, left: bool
) -> list[Batch]:
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} is not usable; give at least 1")
    groups: dict[tuple[Kind, object], list[Encoded]] = {("text", ()): []}
    for one in encoded:
        groups.setdefault(_group(one), []).append(one)
    batches = []
    for (kind, _), items in groups.items():
        # Alike lengths need little padding; the longest first, so that a lack of memory shows at
        # once. The sort is stable: equal lengths keep the order of the samples.
        items.sort(key=len, reverse=True)
        for start in range(0, len(items), batch_size):
            batches.append(_collate(items[start : start + batch_size], kind, encoder, left))
    return batches


def _group(one: Encoded) -> tuple[Kind, object]:
    """What the samples of one batch share: their kind, and the size of pictures alone."""
    if one.sample.image is None:
        return "text", ()
    if one.tokens:
        return "image+text", ()
    return "image", tuple((name, values.shape) for name, values in one.media.items())


def _collate(items: list[Encoded], kind: Kind, encoder: Encoder, left: bool) -> Batch:
    length = max(map(len, items))

    def padded(values: Tensor, fill: int) -> Tensor:
        lack = length - values.numel()
        return pad(values, (lack, 0) if left else (0, lack), value=fill)

    inputs = {
        name: torch.stack(
            [
                padded(item.tokens[name], encoder.pad_token_id if name == "input_ids" else 0)
                for item in items
            ]
        )
        for name in items[0].tokens
    }
    for name in items[0].media:
        inputs[name] = torch.cat([item.media[name] for item in items])
    whole = encoder.predicts == "sample"
    labels = [padded(item.labels, 0) for item in items if item.labels is not None]
    return Batch(
        inputs=inputs,
        target=torch.stack([item.target if whole else padded(item.target, 0) for item in items]),
        sample_ids=tuple(item.sample.id for item in items),
        kinds=(kind,) * len(items),
        predicts=encoder.predicts,
        labels=torch.stack(labels) if labels else None,
    )
