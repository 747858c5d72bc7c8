"""What differs on a GPU: fused kernels, memory in three places, results fetched in bursts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import models_tiny
from quantspectrum.models.loading import Loaded
from quantspectrum.sensitivity.engine import ReplayEngine
from quantspectrum.sensitivity.store import TensorStore
from scans import BASES, MIXED, TEXT, Base, score, score_all, scores, stop_at

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

METRICS = ("mse_v2", "kl", "sqnr", "visibility")


def on_gpu(model: nn.Module, dtype: torch.dtype = torch.float32) -> Loaded:
    moved = models_tiny.cast(model, dtype).to("cuda")
    return models_tiny.loaded(moved, device=torch.device("cuda", 0))


def test_tensors_are_kept_in_three_places_and_come_back() -> None:
    given = [torch.randn(100, device="cuda") for _ in range(3)]
    store = TensorStore(400)
    held = [store.put(tensor) for tensor in given]
    assert [one.place for one in held] == ["device", "host", "disk"]
    for one, tensor in zip(held, given, strict=True):
        found = store.get(one)
        assert found.device == tensor.device
        assert torch.equal(found, tensor)
    store.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limit", [None, 0])
def test_an_unperturbed_replay_is_the_forward_pass(dtype: torch.dtype, limit: int | None) -> None:
    loaded = on_gpu(models_tiny.qwen2_5_vl(), dtype)
    ops = [
        name
        for name, module in loaded.model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    ]
    engine = ReplayEngine(loaded.model, loaded.layout, ops, loaded.device, memory_limit=limit)
    with loaded.layout.faster():
        capture = engine.capture(MIXED[1])
        engine.check(capture)
        assert engine.whole is None
        for op in ops:
            assert torch.equal(engine.replay(capture, op), capture.values), op
    capture.close()


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_those_of_the_cpu(metric: str) -> None:
    more: dict[str, Any] = {"metrics": (metric,), "formats": "w8a16"}
    expected = scores(score(models_tiny.causal_lm(), **more))
    found = scores(score(on_gpu(models_tiny.causal_lm()), **more))
    # Labels are drawn by each device's own generator.
    close = 1.0 if metric == "visibility" else 0.02
    assert found == pytest.approx(expected, rel=close)


@pytest.mark.parametrize("base", BASES)
def test_slots_in_bfloat16(base: Base) -> None:
    loaded = on_gpu(models_tiny.causal_lm(), torch.bfloat16)
    more: dict[str, Any] = {"base": base, "selection": TEXT, "formats": "w8a16"}
    alone, together = (scores(score(loaded, slots=slots, **more)) for slots in (1, 8))
    largest = max(map(abs, alone.values()))
    assert together == pytest.approx(alone, rel=0.1, abs=0.02 * largest)


def test_a_scan_that_goes_on_ends_as_one_that_was_left_alone(tmp_path: Path) -> None:
    loaded = on_gpu(models_tiny.causal_lm(), torch.bfloat16)
    more: dict[str, Any] = {"metrics": ("mse_v2", "kl", "visibility"), "slots": 4}
    expected = [report.ops for report in score_all(loaded, **more)]
    for stop in (1, 5, 17):
        path = tmp_path / f"{stop}.journal.jsonl"
        partial = score_all(loaded, journal=path, step=stop_at(stop), **more)
        assert partial[0].stopped_by == "interrupted"
        assert [report.ops for report in score_all(loaded, journal=path, **more)] == expected


def test_traces_on_a_gpu() -> None:
    report = score(on_gpu(models_tiny.causal_lm()), metrics=("hawq_v2",), probes=3)
    assert report.complete
    assert {op.n for op in report.ops} == {6}
