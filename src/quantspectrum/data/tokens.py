"""One sample as token ids: where the prompt ends, where the target lies, what pictures add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import Tensor

from quantspectrum.data.images import load_image
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError, in_one_line

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase, ProcessorMixin

    from quantspectrum.data.encoders import Predicts

    Processor: TypeAlias = ProcessorMixin | PreTrainedTokenizerBase | BaseImageProcessor

__all__ = ["Encoded", "SampleEncoder"]

_PROBE = "ANSWER"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample's model inputs.

    Attributes:
        sample: What was encoded.
        tokens: Inputs with one value per token, each of shape (T,).
        media: The others (``pixel_values``, ``image_grid_thw``), as the processor gives them;
            those of several samples are joined along dimension 0.
        target: (T,) bool: the tokens whose loss counts; (1,) where the sample is predicted whole.
        labels: (T,) ids of the tokens to predict, where the inputs hide them.
    """

    sample: Sample
    tokens: dict[str, Tensor]
    media: dict[str, Tensor]
    target: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        """Number of tokens; one for a picture alone."""
        return len(self.tokens.get("input_ids", self.target))


class SampleEncoder:
    """Encodes samples with one processor, or one plain tokenizer.

    The prompt and the target are tokenised apart and joined as ids, so the border between them
    is exact: no token holds the end of one and the start of the other.
    """

    predicts: Predicts = "next-token"

    def __init__(self, processor: Processor) -> None:
        """Find out what the processor can do; nothing is encoded yet."""
        self._processor: Any = processor
        self.tokenizer: PreTrainedTokenizerBase = getattr(
            processor, "tokenizer", cast("PreTrainedTokenizerBase", processor)
        )
        self._sees = getattr(processor, "image_processor", None) is not None
        self._chats = bool(getattr(processor, "chat_template", None))
        self._end_of_turn = self._find_end_of_turn() if self._chats else None

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token; a tokenizer without one pads with its end token, else with 0.

        Padding is masked and never a target, so which id it is changes nothing.
        """
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(token, int):
                return token
        return 0

    def prompt(self, sample: Sample) -> Encoded:
        """Encode what a model answers: the prompt, up to where the answer begins.

        Raises:
            UserError: The sample has no prompt, or a picture this model cannot take.
        """
        if sample.prompt is None:
            raise UserError(f"sample {sample.id} has no prompt to answer; use data with prompts")
        if sample.image is not None and not self._sees:
            raise UserError(
                f"sample {sample.id} has an image, but this model takes text alone; "
                "use a text-only data source"
            )
        if sample.image is not None and not self._chats:
            raise UserError(
                f"sample {sample.id} has an image, but this processor has no chat template that "
                "says where images go; add one or use a text-only data source"
            )
        if not self._chats:
            return self._call(sample, sample.prompt + "\n")
        turn = self._messages(sample.prompt, image=sample.image is not None)
        text = self._processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        # The template writes the special tokens itself, the first one included.
        return self._call(sample, text, add_special_tokens=False)

    def full(self, sample: Sample, max_length: int | None) -> Encoded:
        """Encode prompt and target; what is over ``max_length`` tokens is cut from the target.

        Raises:
            UserError: Nothing of the target is left, or see `prompt`.
        """
        if sample.prompt is None:
            encoded = self._plain(sample, max_length)
        else:
            encoded = self._answered(sample, max_length)
        if not encoded.target.any():
            limit = "" if max_length is None else f" within {max_length} tokens"
            raise UserError(
                f"sample {sample.id} has nothing to score{limit}: what comes before its target "
                f"takes {len(encoded)}; allow longer samples or remove it"
            )
        return encoded

    def _plain(self, sample: Sample, max_length: int | None) -> Encoded:
        if sample.image is not None:
            raise UserError(f"sample {sample.id} has an image but no prompt; add a prompt")
        whole = self._call(sample, sample.text)
        tokens = {name: values[:max_length] for name, values in whole.tokens.items()}
        target = torch.ones_like(tokens["input_ids"], dtype=torch.bool)
        target[:1] = False  # nothing comes before it to predict it from
        return Encoded(sample=sample, tokens=tokens, media={}, target=target)

    def _answered(self, sample: Sample, max_length: int | None) -> Encoded:
        prompt = self.prompt(sample)
        ids = cast("list[int]", self.tokenizer(sample.text, add_special_tokens=False)["input_ids"])
        if self._end_of_turn is not None:
            ids = [*ids, self._end_of_turn]
        if max_length is not None:
            ids = ids[: max(0, max_length - len(prompt))]
        answer = torch.tensor(ids, dtype=torch.long)
        tokens = {}
        for name, values in prompt.tokens.items():
            extra = torch.zeros(len(ids), dtype=values.dtype)
            if name == "input_ids":
                extra = answer
            elif name == "attention_mask":
                extra = torch.ones_like(extra)
            tokens[name] = torch.cat([values, extra])
        target = torch.cat([prompt.target, torch.ones_like(answer, dtype=torch.bool)])
        return Encoded(sample=sample, tokens=tokens, media=prompt.media, target=target)

    def _call(self, sample: Sample, text: str, **options: object) -> Encoded:
        """Run the processor on one text and, if there is one, the sample's picture."""
        self._refuse_placeholders(sample)
        if sample.image is not None:
            options["images"] = [load_image(sample.image, f"sample {sample.id}")]
        try:
            made: Mapping[str, Tensor] = self._processor(
                text=[text], return_tensors="pt", **options
            )
        except ValueError as error:
            reason = in_one_line(error)
            raise UserError(
                f"sample {sample.id} cannot be encoded ({reason}); change or remove it"
            ) from error
        shape, tokens, media = made["input_ids"].shape, {}, {}
        of_pictures = getattr(
            getattr(self._processor, "image_processor", None), "model_input_names", ()
        )
        for name, values in made.items():
            if values.shape == shape and name not in of_pictures:
                # An empty text comes back as floats, for want of a first id to tell the type.
                tokens[name] = values[0] if values.numel() else values[0].long()
            else:
                media[name] = values
        target = torch.zeros_like(tokens["input_ids"], dtype=torch.bool)
        return Encoded(sample=sample, tokens=tokens, media=media, target=target)

    def _refuse_placeholders(self, sample: Sample) -> None:
        """Refuse a text that spells an image token: the model would look for a picture."""
        for kind in ("image_token", "video_token"):
            token = getattr(self._processor, kind, None)
            if isinstance(token, str) and token in f"{sample.prompt or ''}\n{sample.text}":
                raise UserError(
                    f"sample {sample.id} has {token} in its text; remove it, pictures go in 'image'"
                )

    def _messages(
        self, prompt: str, *, image: bool = False, answer: str | None = None
    ) -> list[dict[str, Any]]:
        """A conversation; a processor's templates expect parts, a tokenizer's plain strings."""

        def turn(role: str, text: str, parts: list[dict[str, str]]) -> dict[str, Any]:
            return {
                "role": role,
                "content": [*parts, {"type": "text", "text": text}] if self._sees else text,
            }

        turns = [turn("user", prompt, [{"type": "image"}] if image else [])]
        return turns if answer is None else [*turns, turn("assistant", answer, [])]

    @property
    def ends_turns(self) -> bool:
        """Whether an answer's last target token is one that ends it."""
        return self._end_of_turn is not None

    def _find_end_of_turn(self) -> int | None:
        """The token the chat template puts right after an answer, else the end of sequence."""
        text: str = self._processor.apply_chat_template(
            self._messages("?", answer=_PROBE), tokenize=False
        )
        _, found, after = text.rpartition(_PROBE)
        ids = cast("list[int]", self.tokenizer(after, add_special_tokens=False)["input_ids"])
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        if found and ids and ids[0] in special:
            return ids[0]
        end = self.tokenizer.eos_token_id
        return end if isinstance(end, int) else None
