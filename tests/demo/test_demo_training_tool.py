"""The training tool's short cuts equal the real processor and the real forward."""

from __future__ import annotations

import pytest
import torch
from demo_batches import IGNORED, PAD, Mixture, Pool, scene_pools
from demo_fast_path import FastPath, check_fast_path, patchify
from transformers import Qwen2_5_VLForConditionalGeneration

from quantspectrum.demo.build import build_config, build_processor
from quantspectrum.demo.render import render
from quantspectrum.demo.samples import SAMPLE_KINDS, demo_samples
from quantspectrum.demo.scenes import sample_scenes

CPU = torch.device("cpu")


def test_patches_equal_the_processors() -> None:
    images = render(sample_scenes("calibration", 5))
    pictures = [s.image for s in demo_samples("calibration", 5, kinds=("caption",))]
    expected = build_processor().image_processor(pictures, return_tensors="pt")["pixel_values"]
    assert torch.allclose(patchify(images), expected, atol=1e-5)


@pytest.mark.parametrize("kind", SAMPLE_KINDS)
def test_rows_equal_the_processors_tokens(kind: str) -> None:
    samples = demo_samples("train", 40, kinds=(kind,))
    pool = Pool.of(sample_scenes("train", 40), turns=1)
    processor = build_processor()
    for row, sample in enumerate(samples):
        if sample.prompt is None:
            text = sample.text + "<|endoftext|>"
        else:
            content = [{"type": "text", "text": sample.prompt}]
            if sample.image is not None:
                content.insert(0, {"type": "image"})
            turns = [
                {"role": "user", "content": content},
                {"role": "assistant", "content": sample.text},
            ]
            text = processor.apply_chat_template(turns, tokenize=False)
        images = [sample.image] if sample.image is not None else None
        expected = processor(text=[text], images=images)["input_ids"][0]
        tokens, labels = (part[row] for part in pool.rows[kind])
        padding = [PAD] * (len(tokens) - len(expected))
        assert tokens.tolist() == list(expected) + padding
        target = labels[labels != IGNORED].tolist()
        end = "<|endoftext|>" if sample.prompt is None else "<|im_end|>"
        assert target == processor.tokenizer(sample.text + end).input_ids


def test_fast_forward_equals_the_real_one() -> None:
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(build_config())
    mixture = Mixture(scenes=3, text=2, passage=2)
    pool = Pool.of(next(scene_pools("train", 0, 64, CPU)))
    assert check_fast_path(FastPath(model), pool.batch(0, mixture)) < 1e-5


def test_training_scenes_are_never_held_out() -> None:
    scenes = next(scene_pools("train", 0, 20000, CPU))
    held_out = [sample_scenes(split, 500) for split in ("calibration", "selection", "evaluation")]
    seen = set(scenes.identity().tolist())
    assert all(not seen & set(part.identity().tolist()) for part in held_out)
