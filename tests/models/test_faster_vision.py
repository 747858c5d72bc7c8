"""The faster vision tower gives the plain one's numbers, and leaves nothing behind."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.models.faster_vision import REMEMBERED, faster_vision
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.simulation import Simulation
from scans import score, scores
from sensitivity.engine_cases import CPU, DYNAMIC

Grid = tuple[int, int]
SIZES: dict[str, list[Grid]] = {
    "alike": [(8, 8), (8, 8)],
    "two sizes": [(8, 8), (4, 6)],
    "narrow": [(2, 10), (6, 2)],
    "one": [(6, 4)],
    "smaller than a window": [(2, 2), (2, 2), (4, 2)],
}


def inputs_of(grids: list[Grid], seed: int = 0) -> dict[str, Tensor]:
    """Pictures of so many patches, one after the other, in one row of tokens."""
    rng = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    for height, width in grids:
        pad = [models_tiny.IMAGE] * (height * width // 4)
        ids += [models_tiny.VISION_START, *pad, models_tiny.VISION_END, 65, 66, 67]
    patches = sum(height * width for height, width in grids)
    tokens = torch.tensor([ids])
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "mm_token_type_ids": (tokens == models_tiny.IMAGE).long(),
        "pixel_values": torch.randn(patches, 3 * 2 * 14 * 14, generator=rng),
        "image_grid_thw": torch.tensor([[1, *grid] for grid in grids]),
    }


def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found = model(**inputs, use_cache=False).logits
    assert isinstance(found, Tensor)
    return found


def family(model: nn.Module) -> Any:
    return sys.modules[type(model.get_submodule("model.visual")).__module__]


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that entering the context replaces."""
    found: dict[str, Any] = {name: getattr(family(model), name, None) for name in REMEMBERED}
    for name, module in model.named_modules():
        found[name] = {k: v for k, v in vars(module).items() if callable(v)}
    return found


def attention_calls(
    model: nn.Module, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> int:
    calls: list[int] = []
    own = torch.nn.functional.scaled_dot_product_attention

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return own(*args, **kwargs)

    monkeypatch.setattr("quantspectrum.models.faster_vision.scaled_dot_product_attention", counting)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    logits(model, inputs)
    return len(calls)


@pytest.mark.parametrize("sizes", SIZES)
def test_it_equals_the_plain_forward(vl: nn.Module, sizes: str) -> None:
    inputs = inputs_of(SIZES[sizes])
    plain = logits(vl, inputs)
    with faster_vision(vl):
        found = logits(vl, inputs)
        again = logits(vl, inputs)
    assert torch.allclose(found, plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(found, again)
    assert torch.equal(logits(vl, inputs), plain)


def test_windows_of_one_length_are_attended_to_together(
    vl: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight windows and two pictures of the full attention: two calls instead of ten."""
    inputs = inputs_of(SIZES["alike"])
    plain = attention_calls(vl, inputs, monkeypatch)
    with faster_vision(vl):
        assert plain - attention_calls(vl, inputs, monkeypatch) == 8


def test_pictures_of_other_sizes_are_not_taken_for_the_last_ones(vl: nn.Module) -> None:
    """Boundaries are remembered, so they must be told apart."""
    every = [inputs_of(grids, seed) for seed, grids in enumerate(SIZES.values())]
    plain = [logits(vl, inputs) for inputs in every]
    with faster_vision(vl):
        for _ in range(2):
            for inputs, expected in zip(every, plain, strict=True):
                assert torch.allclose(logits(vl, inputs), expected, rtol=1e-4, atol=1e-5)


def test_other_texts_around_the_same_pictures(vl: nn.Module) -> None:
    """Positions of tokens are remembered too, and depend on where the pictures are."""
    inputs = inputs_of(SIZES["two sizes"])
    ids = inputs["input_ids"]
    moved = {
        **inputs,
        "input_ids": ids.roll(3, 1),
        "mm_token_type_ids": inputs["mm_token_type_ids"].roll(3, 1),
    }
    plain = [logits(vl, one) for one in (inputs, moved)]
    assert not torch.allclose(*plain)
    with faster_vision(vl):
        for one, expected in zip((inputs, moved), plain, strict=True):
            assert torch.allclose(logits(vl, one), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_everything_is_put_back(vl: nn.Module, error: type[BaseException] | None) -> None:
    before = state(vl)

    def inside() -> None:
        with faster_vision(vl):
            assert state(vl) != before
            logits(vl, inputs_of(SIZES["alike"]))
            if error is not None:
                raise error

    if error is None:
        inside()
    else:
        with pytest.raises(error):
            inside()
    assert state(vl) == before
    assert models_tiny.hooks(vl) == 0


def test_it_nests(vl: nn.Module) -> None:
    inputs = inputs_of(SIZES["two sizes"])
    plain = logits(vl, inputs)
    with faster_vision(vl):
        outer = state(vl)
        with faster_vision(vl):
            assert torch.allclose(logits(vl, inputs), plain, rtol=1e-4, atol=1e-5)
        assert state(vl) == outer


def test_quantized_ops_inside_it_are_quantized(vl: nn.Module) -> None:
    inputs = inputs_of(SIZES["two sizes"])
    ops = ["model.visual.blocks.0.attn.qkv", "model.visual.blocks.1.attn.proj"]
    for op in ops:
        with Simulation(vl, dict.fromkeys(ops, DYNAMIC)) as simulation:
            simulation.activate({op})
            expected = logits(vl, inputs)
        with faster_vision(vl):
            plain = logits(vl, inputs)
            with Simulation(vl, dict.fromkeys(ops, DYNAMIC)) as simulation:
                simulation.activate({op})
                found = logits(vl, inputs)
        change = (expected - plain).norm()
        assert (found - expected).norm() < 0.05 * change, op


def test_replays_inside_it_are_exact(vl: nn.Module) -> None:
    batch = models_tiny.image_batch()
    layout = models_tiny.loaded(vl).layout
    ops = [
        "model.visual.blocks.0.attn.qkv",
        "model.visual.blocks.1.mlp.up_proj",
        "model.visual.merger.mlp.0",
    ]
    engine = ReplayEngine(vl, layout, ops, CPU)
    with layout.faster():
        capture = engine.capture(batch)
        engine.check(capture)
        assert engine.whole is None
        for op in ops:
            assert torch.equal(engine.replay(capture, op), capture.values), op


def test_another_attention_is_left_alone(vl: nn.Module) -> None:
    for module in vl.modules():
        if type(module).__name__.endswith("VisionAttention"):
            module.config._attn_implementation = "eager"
    inputs = inputs_of(SIZES["two sizes"])
    plain = logits(vl, inputs)
    with faster_vision(vl):
        assert models_tiny.forwards(vl) == {}
        assert torch.equal(logits(vl, inputs), plain)


def test_scores_do_not_depend_on_it(vl: nn.Module) -> None:
    images = [models_tiny.image_batch()]
    found = scores(score(vl, "w8a16", selection=images))
    loaded = models_tiny.loaded(vl)
    plain = replace(loaded, layout=replace(loaded.layout, faster=nullcontext))
    assert scores(score(plain, "w8a16", selection=images)) == pytest.approx(found, rel=1e-3)
