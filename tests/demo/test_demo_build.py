"""Processor and tokenizer: round trips, Qwen's tokens, unknown words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, Qwen2_5_VLProcessor

from quantspectrum.demo.build import build_config, build_processor, build_tokenizer
from quantspectrum.demo.samples import demo_samples
from quantspectrum.demo.vocabulary import SPECIAL_TOKENS, WORDS, token_id


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processor")
    build_processor().save_pretrained(folder)
    build_config().save_pretrained(folder)
    return folder


def chat(text: str, *, image: bool) -> list[dict[str, object]]:
    content: list[dict[str, str]] = [{"type": "image"}] if image else []
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def test_auto_classes_reload_it(saved: Path) -> None:
    processor = AutoProcessor.from_pretrained(saved)
    assert type(processor) is Qwen2_5_VLProcessor
    text = "<|im_start|>user what color is the ring ?<|im_end|>"
    assert processor.tokenizer(text).input_ids == build_tokenizer()(text).input_ids
    assert AutoTokenizer.from_pretrained(saved)(text).input_ids == build_tokenizer()(text).input_ids


def test_token_ids_are_the_vocabulary() -> None:
    tokenizer = build_tokenizer()
    for token in (*SPECIAL_TOKENS, *WORDS):
        assert tokenizer.convert_tokens_to_ids(token) == token_id(token)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"


def test_unknown_words_case_and_punctuation() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer("What COLOUR is the Zebra?").input_ids) == (
        "what color is the <unk> ?"
    )
    assert tokenizer.decode(tokenizer("").input_ids) == ""


def test_texts_survive_the_tokenizer() -> None:
    tokenizer = build_tokenizer()
    for sample in demo_samples("evaluation", 64):
        for text in (sample.text, sample.prompt or ""):
            assert tokenizer.decode(tokenizer(text).input_ids) == text
            assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def test_chat_template_is_qwens(saved: Path) -> None:
    processor = AutoProcessor.from_pretrained(saved)
    text = processor.apply_chat_template(
        chat("describe the image .", image=True), add_generation_prompt=True, tokenize=False
    )
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>describe the image ."
        "<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_picture_becomes_sixteen_tokens(saved: Path) -> None:
    processor = AutoProcessor.from_pretrained(saved)
    sample = demo_samples("evaluation", 1)[0]
    text = processor.apply_chat_template(chat("what is there ?", image=True), tokenize=False)
    inputs = processor(text=[text], images=[sample.image], return_tensors="pt")
    assert (inputs["input_ids"] == token_id("<|image_pad|>")).sum() == 16
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert inputs["pixel_values"].shape == (64, 1176)


@pytest.mark.parametrize("side", [40, 56, 111, 112, 113, 224, 300, 1000])
def test_other_pictures_are_brought_to_size(saved: Path, side: int) -> None:
    processor = AutoProcessor.from_pretrained(saved)
    square = Image.fromarray(np.full((side, side, 3), 90, dtype=np.uint8))
    assert processor.image_processor(square)["image_grid_thw"].tolist() == [[1, 8, 8]]
