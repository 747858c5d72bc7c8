"""The shipped model: loads with the Auto classes, is small, and knows its scenes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from demo_answers import exact_matches, generate_answers, wilson_interval
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)

from quantspectrum.demo import demo_samples, model_dir
from quantspectrum.demo.build import CHAT_TEMPLATE, build_config, build_tokenizer

pytestmark = pytest.mark.skipif(
    not (model_dir() / "model.safetensors").exists(), reason="the demo model is not built"
)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForImageTextToText.from_pretrained(model_dir(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(model_dir())


def test_it_is_qwen(model: Any, processor: Any) -> None:
    assert type(model) is Qwen2_5_VLForConditionalGeneration
    assert type(processor) is Qwen2_5_VLProcessor
    blocks = range(model.config.vision_config.depth)
    full = set(model.config.vision_config.fullatt_block_indexes)
    assert set() < full < set(blocks), "windowed and full blocks"
    text = model.config.text_config
    assert text.num_key_value_heads < text.num_attention_heads
    assert model.generation_config.do_sample is False


def test_it_is_small(model: Any) -> None:
    assert sum(p.numel() for p in model.parameters()) <= 10_000_000
    files = list(model_dir().glob("*.safetensors"))
    assert len(files) == 1
    assert files[0].stat().st_size <= 16 * 2**20
    assert (model_dir() / "README.md").exists()
    assert AutoModelForImageTextToText.from_pretrained(model_dir()).dtype == torch.bfloat16


def test_it_was_saved_with_what_the_code_builds(model: Any, processor: Any) -> None:
    assert processor.tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert processor.chat_template == CHAT_TEMPLATE
    built = build_config().to_dict()
    for part in ("text_config", "vision_config"):
        shipped = model.config.to_dict()[part]
        differing = {k for k, v in built[part].items() if shipped.get(k) != v}
        assert differing <= {"dtype", "transformers_version", "_name_or_path"}


@pytest.mark.parametrize(
    ("kind", "count", "least"), [("question", 100, 0.93), ("caption", 50, 0.85), ("text", 50, 0.9)]
)
def test_it_answers_held_out_samples(
    model: Any, processor: Any, kind: str, count: int, least: float
) -> None:
    samples = demo_samples("evaluation", count, seed=3, kinds=(kind,))
    matches = exact_matches(samples, generate_answers(model, processor, samples, batch_size=50))
    assert sum(matches) / count >= least


def test_an_answer_does_not_depend_on_its_batch(model: Any, processor: Any) -> None:
    samples = demo_samples("evaluation", 6)[:6]
    samples = [s for s in samples if s.prompt is not None]
    together = generate_answers(model, processor, samples)
    assert together == [generate_answers(model, processor, [s])[0] for s in samples]


def test_wilson_interval() -> None:
    # By hand: centre 0.1644, half width 0.1367.
    low, high = wilson_interval(2, 20)
    assert (round(low, 3), round(high, 3)) == (0.028, 0.301)
