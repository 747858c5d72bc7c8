"""Tokenizer, processor and configuration of the demo model, as ordinary Hugging Face objects."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from quantspectrum.demo.render import IMAGE_SIZE
from quantspectrum.demo.vocabulary import SPECIAL_TOKENS, UNKNOWN_TOKEN, WORDS, token_id

__all__ = [
    "CHAT_TEMPLATE",
    "build_config",
    "build_generation_config",
    "build_processor",
    "build_tokenizer",
]

MAX_LENGTH = 256

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's template without its default system message."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer: lower-cased words and punctuation, ``<unk>`` for the rest."""
    vocabulary = {token: token_id(token) for token in (*SPECIAL_TOKENS, *WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN_TOKEN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace("colour", "color")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    tokenizer.add_special_tokens(specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN_TOKEN,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
        model_max_length=MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> Qwen2_5_VLProcessor:
    """The processor: every square picture becomes 112 x 112 pixels, 8 x 8 patches, 16 tokens."""
    # Pixel counts. The slack keeps the processor's rounding of other square pictures from
    # landing one patch below or above.
    size = {"shortest_edge": IMAGE_SIZE**2 - 64, "longest_edge": IMAGE_SIZE**2 + 64}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=CHAT_TEMPLATE,
    )


def _text_config() -> dict[str, Any]:
    return {
        "vocab_size": 128,
        "hidden_size": 256,
        "intermediate_size": 640,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_LENGTH,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.03,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [8, 12, 12],
        },
        "bos_token_id": None,
        "eos_token_id": token_id("<|im_end|>"),
        "pad_token_id": token_id("<|endoftext|>"),
    }


def _vision_config() -> dict[str, Any]:
    return {
        "depth": 4,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_heads": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        # 4 x 4 patches, so four windows a picture.
        "window_size": 56,
        "fullatt_block_indexes": [1, 3],
        "out_hidden_size": 256,
        "initializer_range": 0.03,
    }


def build_config() -> Qwen2_5_VLConfig:
    """Qwen2.5-VL in small: 4 vision blocks (0 and 2 windowed), 6 language layers with GQA."""
    return Qwen2_5_VLConfig(
        text_config=_text_config(),
        vision_config=_vision_config(),
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def build_generation_config() -> GenerationConfig:
    """Greedy decoding until ``<|im_end|>`` or ``<|endoftext|>``."""
    stops = [token_id("<|im_end|>"), token_id("<|endoftext|>")]
    return GenerationConfig(
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=token_id("<|endoftext|>"),
        max_new_tokens=48,
    )
