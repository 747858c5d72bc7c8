"""AutoRound as a lens: what it is asked and how its answers are read; with its environment, its own losses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lens_cases
import pytest
import torch
from lens_cases import saved

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.isolation import find_environment
from quantspectrum.lenses import autoround, lens_named
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.lenses.scoring import check_asked, score_with
from quantspectrum.models.ops import list_ops

STORED = Path(__file__).parent / "data/autoround_result.json"
"""What the worker wrote of a Llama of one block."""

needs_autoround = pytest.mark.skipif(
    find_environment("inc-autoround") is None, reason="the environment `inc-autoround` is absent"
)


def request_of(batches: Sequence[Batch], directory: Path, **more: Any) -> LensRequest:
    return lens_cases.request_of(batches, directory, **{"base": "fallback", "fmt": "w8a8", **more})


def scored(model: Any, batches: Sequence[Batch], directory: Path, **more: Any) -> LensScores:
    directory.mkdir(exist_ok=True)
    loaded = saved(model, directory / "model")
    table = list_ops(loaded.model, loaded.layout)
    return autoround.SCHEME.score(loaded, table, request_of(batches, directory, **more))


def test_a_stored_result_becomes_a_report(tmp_path: Path, answering: Any) -> None:
    loaded = saved(models_tiny.causal_lm(num_hidden_layers=1), tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    result = json.loads(STORED.read_text(encoding="utf-8"))
    asked = answering(result)
    request = request_of([models_tiny.text_batch()], tmp_path)
    report = score_with("autoround:scheme", loaded, table, request)
    assert (asked["environment"], asked["worker"]) == ("inc-autoround", "autoround_scheme")
    assert asked["settings"] == {"scheme": "INT8", "repaired": "false", "vision": "false"}
    assert report.complete
    assert {op.name: op.score for op in report.ops} == result["scores"]
    assert report.framework is not None
    assert any("activations count nothing" in note for note in report.framework.notes)
    del result["scores"][report.ops[0].name]
    with pytest.raises(UserError, match="says nothing of 1 of them"):
        score_with("autoround:scheme", loaded, table, request)


def test_wrong_requests_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoround, "ask_worker", lambda *_, **__: pytest.fail("nothing was to run"))
    assert lens_named("autoround:scheme") is autoround.SCHEME
    loaded = saved(models_tiny.qwen2_5_vl(), tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    text = [models_tiny.text_batch()]
    refused = [
        ([models_tiny.image_batch()], {"repaired": "yes"}, "it is one of false, true"),
        (text, {}, "give data with pictures"),
        ([models_tiny.pixel_batch()], {}, "needs a model that predicts tokens"),
    ]
    for batches, options, match in refused:
        with pytest.raises(UserError, match=match):
            autoround.SCHEME.score(loaded, table, request_of(batches, tmp_path, options=options))
    with pytest.raises(UserError, match="it can: w8a8, w4a16"):
        check_asked("autoround:scheme", autoround.SCHEME, request_of(text, tmp_path, fmt="fp8"))
    weights_alone = request_of(text, tmp_path, fmt="w4a16", options={"repaired": "true"})
    with pytest.raises(UserError, match="counts activations, which w4a16 does not quantize"):
        autoround.SCHEME.score(loaded, table, weights_alone)


def test_a_format_is_asked_for_by_autorounds_name(tmp_path: Path, answering: Any) -> None:
    loaded = saved(models_tiny.causal_lm(num_hidden_layers=1), tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    asked = answering(json.loads(STORED.read_text(encoding="utf-8")))
    report = score_with(
        "autoround:scheme",
        loaded,
        table,
        request_of([models_tiny.text_batch()], tmp_path, fmt="w4a16"),
    )
    assert asked["settings"]["scheme"] == "W4A16"
    assert report.format == preset("w4a16")
    assert report.framework is not None
    assert any("float16" in note for note in report.framework.notes)


def int4(weight: torch.Tensor) -> torch.Tensor:
    """AutoRound's symmetric int4: in each group of 128 inputs the largest in absolute value is at -8."""
    groups = []
    for group in weight.split(128, 1):
        largest = group.gather(1, group.abs().argmax(1, keepdim=True))
        # It rounds scales to float16 while it scores.
        scale = (-largest / 8).half().float()
        groups.append((group / scale).round().clamp(-8, 7) * scale)
    return torch.cat(groups, 1)


@needs_autoround
@pytest.mark.slow
def test_losses_are_first_order_changes_with_all_weights_quantized(tmp_path: Path) -> None:
    """Against gradients taken here: of the weights that AutoRound's scheme INT8 leaves."""
    model, batch = models_tiny.causal_lm(), models_tiny.text_batch()
    found = scored(model, [batch], tmp_path / "one")
    names = [op.name for op in list_ops(model, models_tiny.loaded(model).layout).candidates]
    assert found.scores.keys() == set(names)
    kept = {}
    for name in names:
        weight = model.get_submodule(name).weight
        kept[name] = weight.detach().clone()
        # AutoRound rounds scales to bfloat16 while it scores.
        scale = (2 * weight.detach().abs().amax(1, keepdim=True) / 255).bfloat16().float()
        weight.data = (weight.detach() / scale).round().clamp(-128, 127) * scale
    labels = torch.where(batch.target, batch.inputs["input_ids"], -100)
    model.requires_grad_(True)
    model(**batch.inputs, labels=labels).loss.backward()
    for name in names:
        weight = model.get_submodule(name).weight
        expected = float((weight.grad * (kept[name] - weight.detach())).abs().sum())
        # AutoRound's forward pass quantizes inputs too where it takes the last block's gradient.
        assert found.scores[name] == pytest.approx(expected, rel=0.1), name
    assert all(raw["act_score"] == 0 for raw in found.raw.values())


@needs_autoround
@pytest.mark.slow
def test_losses_of_four_bits_are_of_groups_of_128_inputs(tmp_path: Path) -> None:
    """Against gradients taken here; 64 inputs are a group, 320 are two groups and a smaller one."""
    model, batch = models_tiny.causal_lm(intermediate_size=320), models_tiny.text_batch()
    found = scored(model, [batch], tmp_path / "one", fmt="w4a16")
    kept = {}
    for name in found.scores:
        weight = model.get_submodule(name).weight
        kept[name] = weight.detach().clone()
        weight.data = int4(weight.detach())
    labels = torch.where(batch.target, batch.inputs["input_ids"], -100)
    model.requires_grad_(True)
    model(**batch.inputs, labels=labels).loss.backward()
    for name in found.scores:
        weight = model.get_submodule(name).weight
        expected = float((weight.grad * (kept[name] - weight.detach())).abs().sum())
        assert found.scores[name] == pytest.approx(expected, rel=1e-3), name
    assert len(found.scores) == 14
    assert all(raw["act_score"] == 0 for raw in found.raw.values())
    assert not any("activations count nothing" in note for note in found.framework.notes)


@needs_autoround
@pytest.mark.slow
def test_repaired_scores_count_activations_too(tmp_path: Path) -> None:
    found = scored(
        models_tiny.causal_lm(),
        [models_tiny.text_batch()],
        tmp_path / "one",
        options={"repaired": "true"},
    )
    assert all(raw["act_score"] > 0 for raw in found.raw.values())
    for name, raw in found.raw.items():
        assert found.scores[name] == pytest.approx(raw["act_score"] + raw["weight_score"])
    assert not any("activations count nothing" in note for note in found.framework.notes)


@needs_autoround
@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["w8a8", "w4a16"])
def test_vision_ops_are_scored_where_samples_have_pictures(fmt: str, tmp_path: Path) -> None:
    model = models_tiny.qwen2_5_vl()
    table = list_ops(model, models_tiny.loaded(model).layout)
    batches = [models_tiny.text_batch(), models_tiny.image_batch()]
    found = scored(model, batches, tmp_path / "one", fmt=fmt)
    assert found.scores.keys() | found.missing.keys() == {op.name for op in table.candidates}
    assert not found.missing
    assert all(score > 0 for score in found.scores.values())


@needs_autoround
@pytest.mark.slow
def test_a_time_budget_ends_after_a_batch(tmp_path: Path) -> None:
    batches = [models_tiny.text_batch(), models_tiny.text_batch(seed=1)]
    found = scored(models_tiny.causal_lm(), batches, tmp_path / "one", time_budget=1e-6)
    assert found.stopped_by == "time budget"
    assert found.framework.settings["batches_scored"] == 1
    assert len(found.scores) == 14
