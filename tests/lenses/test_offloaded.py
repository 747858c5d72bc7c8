"""Scores of models whose weights are brought to the device for each forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import nn

import models_tiny
from quantspectrum.errors import UserError
from quantspectrum.models.devices import offload_to_cpu
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.placement import is_offloaded
from quantspectrum.sensitivity import visibility
from scans import BASES, MIXED, Base, score, score_all, scores
from sensitivity.engine_cases import CPU

METRICS = ("mse_v2", "kl", "sqnr", "visibility")


def offloaded(model: nn.Module) -> Loaded:
    """The same model, with every weight on the CPU and none of them at hand."""
    loaded = models_tiny.loaded(model)
    offload_to_cpu(model, CPU)
    assert is_offloaded(model)
    return loaded


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_scores_are_those_of_the_model_in_memory(family: str, metric: str) -> None:
    expected = score(models_tiny.causal_lm(family), metrics=(metric,))
    report = score(offloaded(models_tiny.causal_lm(family)), metrics=(metric,))
    assert report.complete
    assert scores(report) == pytest.approx(scores(expected), rel=1e-4)


@pytest.mark.parametrize("large", [False, True])
def test_gradients_pass_whether_blocks_are_computed_again_or_not(
    monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    monkeypatch.setattr(visibility, "_is_large", lambda *_args: large)
    expected = score(models_tiny.causal_lm(), metrics=("visibility",))
    found = score(offloaded(models_tiny.causal_lm()), metrics=("visibility",))
    assert scores(found) == pytest.approx(scores(expected), rel=1e-4)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("slots", [1, 4])
def test_from_either_base_and_with_slots(base: Base, slots: int) -> None:
    more: dict[str, Any] = {"base": base, "slots": slots, "formats": "w8a8-static"}
    expected = scores(score(models_tiny.causal_lm(), **more))
    found = scores(score(offloaded(models_tiny.causal_lm()), **more))
    digits = 1e-6 * max(map(abs, expected.values()))
    assert found == pytest.approx(expected, rel=1e-3, abs=digits)


def test_pictures_too(vl: nn.Module) -> None:
    more: dict[str, Any] = {"metrics": METRICS, "selection": MIXED}
    expected = score_all(models_tiny.qwen2_5_vl(), **more)
    for one, other in zip(expected, score_all(offloaded(vl), **more), strict=True):
        assert scores(other) == pytest.approx(scores(one), rel=1e-3)


def test_from_the_disk(tmp_path: Path) -> None:
    expected = score_all(models_tiny.causal_lm(), metrics=METRICS)
    model = models_tiny.causal_lm()
    loaded = models_tiny.loaded(model)
    accelerate.disk_offload(model, str(tmp_path), execution_device=CPU)
    for one, other in zip(expected, score_all(loaded, metrics=METRICS), strict=True):
        assert scores(other) == pytest.approx(scores(one), rel=1e-4)


def test_as_the_command_line_loads_it(tmp_path: Path) -> None:
    saved = models_tiny.save(models_tiny.causal_lm(), tmp_path / "tiny")
    spec = ModelSpec(model=str(saved), device="cpu", device_map="cpu-offload", dtype="float32")
    loaded = load_model(spec)
    assert is_offloaded(loaded.model)
    expected = scores(score(models_tiny.causal_lm()))
    assert scores(score(loaded)) == pytest.approx(expected, rel=1e-4)


def test_traces_need_the_weights_at_hand() -> None:
    loaded = offloaded(models_tiny.causal_lm())
    with pytest.raises(
        UserError, match=r"^hawq_v2 needs the weights in memory; load without --dev"
    ):
        score(loaded, metrics=("hawq_v2",), probes=1)
    assert is_offloaded(loaded.model)


def test_weights_are_where_they_were_afterwards() -> None:
    loaded = offloaded(models_tiny.causal_lm())
    before = models_tiny.logits(loaded.model, MIXED[0])
    forwards = models_tiny.forwards(loaded.model)
    score_all(loaded, metrics=METRICS)
    assert {p.device.type for p in loaded.model.parameters()} == {"meta"}
    assert models_tiny.forwards(loaded.model) == forwards
    assert models_tiny.hooks(loaded.model) == 0
    assert torch.equal(models_tiny.logits(loaded.model, MIXED[0]), before)
