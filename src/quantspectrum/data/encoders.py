"""Samples as inputs of models that do not write text: encoders of text, and image models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from quantspectrum.data.images import load_image
from quantspectrum.data.sample import Sample
from quantspectrum.data.tokens import Encoded, SampleEncoder
from quantspectrum.errors import UserError, in_one_line

if TYPE_CHECKING:
    from quantspectrum.data.tokens import Processor
    from quantspectrum.models.tasks import Task

__all__ = [
    "MASKED_SHARE",
    "Encoder",
    "ImageEncoder",
    "MaskedEncoder",
    "Predicts",
    "TextEncoder",
    "encoder_for",
]

Predicts = Literal["next-token", "same-token", "sample"]

MASKED_SHARE = 0.15
"""Share of a text's tokens that are masked, as in the training of BERT."""


class Encoder(Protocol):
    """What encodes samples for one kind of model."""

    @property
    def predicts(self) -> Predicts:
        """What one of the model's outputs is about."""
        ...

    @property
    def pad_token_id(self) -> int:
        """Id of padding tokens."""
        ...

    def full(self, sample: Sample, max_length: int | None) -> Encoded:
        """Encode one sample, of at most so many tokens."""
        ...


def encoder_for(processor: Processor, task: Task) -> Encoder:
    """The encoder of a task's samples."""
    match task:
        case "masked-lm":
            return MaskedEncoder(processor)
        case "sequence-classification":
            return TextEncoder(processor, "sample")
        case "text":
            return TextEncoder(processor, "same-token")
        case "image-classification" | "image":
            return ImageEncoder(processor)
        case _:
            return SampleEncoder(processor)


class TextEncoder:
    """Whole texts with the tokenizer's special tokens; a prompt comes first, on its own line.

    Of a question with an answer that is predicted whole, the question alone.

    Args:
        processor: A tokenizer.
        predicts: What an output is about: each token, or the sample as a whole.
    """

    def __init__(self, processor: Processor, predicts: Predicts) -> None:
        """Nothing is encoded yet."""
        self._tokenizer: Any = processor
        self.predicts: Predicts = predicts

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token, else 0: padding is masked, so which it is changes nothing."""
        found = self._tokenizer.pad_token_id
        return found if isinstance(found, int) else 0

    def full(self, sample: Sample, max_length: int | None) -> Encoded:
        """Encode a text, cut to ``max_length`` tokens with the special ones.

        Raises:
            UserError: The sample has a picture, or no tokens.
        """
        tokens, _ = self._tokens(sample, max_length)
        scored = tokens["input_ids"] if self.predicts == "same-token" else torch.ones(1)
        target = torch.ones_like(scored, dtype=torch.bool)
        return Encoded(sample=sample, tokens=tokens, media={}, target=target)

    def _tokens(self, sample: Sample, max_length: int | None) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs, each (T,), and which tokens are the tokenizer's special ones."""
        if sample.image is not None:
            raise UserError(
                f"sample {sample.id} has an image, but this model takes text alone; "
                "use a text-only data source"
            )
        text = sample.text if sample.prompt is None else f"{sample.prompt}\n{sample.text}"
        if self.predicts == "sample" and sample.prompt is not None and sample.references:
            # The answer is the class to tell, and no part of what it is told from.
            text = sample.prompt
        options = {} if max_length is None else {"truncation": True, "max_length": max_length}
        made: Mapping[str, Tensor] = self._tokenizer(
            [text], return_tensors="pt", return_special_tokens_mask=True, **options
        )
        tokens = {name: values[0].long() for name, values in made.items()}
        special = tokens.pop("special_tokens_mask").bool()
        if not special.numel():
            raise UserError(f"sample {sample.id} has no tokens; remove it")
        return tokens, special


class MaskedEncoder(TextEncoder):
    """Texts with some tokens hidden, which the model then has to tell.

    Where nothing is hidden a masked language model repeats its input with near certainty, and a
    damaged one too; what quantization does shows where it must infer. Of every text
    `MASKED_SHARE` of the tokens, at least one, are replaced by the mask token. Which ones
    depends on the text alone: every stage, model and batch size sees the same ones.
    """

    def __init__(self, processor: Processor) -> None:
        """Find the mask token.

        Raises:
            UserError: The tokenizer has none.
        """
        super().__init__(processor, "same-token")
        if not isinstance(self._tokenizer.mask_token_id, int):
            raise UserError(
                "the tokenizer of this masked language model has no mask token; add one to it"
            )

    def full(self, sample: Sample, max_length: int | None) -> Encoded:
        """Encode a text; the target is the masked tokens, the labels are what they were.

        Raises:
            UserError: The sample has a picture, or no token to mask.
        """
        tokens, special = self._tokens(sample, max_length)
        labels = tokens["input_ids"]
        target = torch.zeros_like(special)
        target[self._chosen(sample, (~special).nonzero().flatten().tolist())] = True
        tokens["input_ids"] = labels.masked_fill(target, self._tokenizer.mask_token_id)
        return Encoded(sample=sample, tokens=tokens, media={}, target=target, labels=labels)

    def _chosen(self, sample: Sample, places: list[int]) -> list[int]:
        if not places:
            raise UserError(f"sample {sample.id} has no token to mask; remove it")
        digest = sample.digest()
        places.sort(key=lambda place: hashlib.sha256(f"{digest}:{place}".encode()).digest())
        return places[: max(1, round(MASKED_SHARE * len(places)))]


class ImageEncoder:
    """Pictures alone; the texts that come with some of them are not looked at.

    Args:
        processor: An image processor.
    """

    predicts: Predicts = "sample"
    pad_token_id = 0

    def __init__(self, processor: Processor) -> None:
        """Nothing is encoded yet."""
        self._processor: Any = processor

    def full(self, sample: Sample, max_length: int | None) -> Encoded:  # noqa: ARG002 - no tokens
        """Encode a picture.

        Raises:
            UserError: The sample has none, or it is broken or refused by the processor.
        """
        if sample.image is None:
            raise UserError(
                f"sample {sample.id} has no image, but this model takes pictures alone; use a "
                "data source of pictures, such as images:DIR"
            )
        image = load_image(sample.image, f"sample {sample.id}")
        try:
            made: Mapping[str, Tensor] = self._processor(images=[image], return_tensors="pt")
        except ValueError as error:
            reason = in_one_line(error)
            raise UserError(
                f"sample {sample.id} cannot be encoded ({reason}); change or remove it"
            ) from error
        return Encoded(
            sample=sample, tokens={}, media=dict(made), target=torch.ones(1, dtype=torch.bool)
        )
