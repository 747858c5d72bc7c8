"""ModelOpt as a lens: what it is asked and how its answers are read; with its environment, its own scores."""

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
from quantspectrum.isolation import find_environment
from quantspectrum.lenses import LENSES, lens_named, modelopt
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.lenses.scoring import check_asked, report_of, score_with
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable, list_ops
from quantspectrum.provenance import Stopwatch

STORED = Path(__file__).parent / "data/modelopt_result.json"
"""What the worker wrote of a Llama of one block."""

needs_modelopt = pytest.mark.skipif(
    find_environment("modelopt") is None, reason="the environment `modelopt` is absent"
)


def request_of(batches: Sequence[Batch], directory: Path, **more: Any) -> LensRequest:
    return lens_cases.request_of(
        batches, directory, **{"base": "isolate", "fmt": "w8a8-static", **more}
    )


@pytest.fixture
def small(tmp_path: Path) -> tuple[Loaded, OpTable, LensRequest]:
    """The model of the stored result, and what was asked of it."""
    loaded = saved(models_tiny.causal_lm(num_hidden_layers=1), tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    return loaded, table, request_of([models_tiny.text_batch()], tmp_path)


def stored() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))
    return found


def test_a_stored_result_becomes_a_report(small: Any, answering: Any) -> None:
    loaded, table, request = small
    asked = answering(stored())
    found = modelopt.GRADIENT.score(loaded, table, request)
    report = report_of("modelopt:gradient", loaded, table, request, found, Stopwatch(loaded.device))
    assert (asked["environment"], asked["worker"]) == ("modelopt", "modelopt_auto_quantize")
    assert asked["settings"]["preset"] == "INT8_DEFAULT_CFG"
    assert (asked["class"], asked["device"]) == ("LlamaForCausalLM", "cpu")
    assert report.complete
    assert [op.name for op in report.ops] == sorted(found.scores, key=lambda n: -found.scores[n])
    for part in ("q_proj", "k_proj", "v_proj"):
        raw = found.raw[f"model.layers.0.self_attn.{part}"]
        assert raw["group_ops"] == 3
        score = found.scores[f"model.layers.0.self_attn.{part}"]
        assert score == pytest.approx(raw["group_score"] / 3)
    assert report.framework is not None
    assert report.framework.versions["nvidia-modelopt"] == "0.47.0"


def test_labels_are_the_tokens_whose_loss_counts(small: Any, answering: Any) -> None:
    loaded, table, request = small
    asked = answering(stored())
    modelopt.KL_DIV.score(loaded, table, request)
    (batch,) = request.selection
    labels = asked["tensors"]["score.0.labels"]
    assert torch.equal(labels != -100, batch.target)
    assert torch.equal(labels[batch.target], batch.inputs["input_ids"][batch.target])


def test_an_op_left_out_without_a_word_is_an_error(small: Any, answering: Any) -> None:
    loaded, table, request = small
    result = stored()
    del result["scores"]["model.layers.0.mlp.down_proj"]
    answering(result)
    with pytest.raises(UserError, match=r"says nothing of 1 of them, such as .*down_proj"):
        modelopt.GRADIENT.score(loaded, table, request)


def test_an_op_left_out_with_a_reason_is_listed(small: Any, answering: Any) -> None:
    loaded, table, request = small
    result = stored()
    name = "model.layers.0.mlp.down_proj"
    del result["scores"][name]
    answering(result | {"missing": {name: "no sample reaches it"}})
    report = score_with("modelopt:gradient", loaded, table, request)
    assert not report.complete
    assert (name, "no sample reaches it") in {(n.name, n.reason) for n in report.coverage.skipped}


def test_what_was_stopped_early_may_leave_ops_out(small: Any, answering: Any) -> None:
    loaded, table, request = small
    result = stored()
    del result["scores"]["model.layers.0.mlp.down_proj"]
    answering(result | {"stopped_by": "time budget"})
    assert modelopt.GRADIENT.score(loaded, table, request).stopped_by == "time budget"


def test_a_name_that_is_no_candidate_is_an_error(small: Any, answering: Any) -> None:
    loaded, table, request = small
    result = stored()
    result["scores"]["layers.0.mlp.down_proj"] = 1.0
    answering(result)
    with pytest.raises(UserError, match=r"scored layers\.0\.mlp\.down_proj, which is no candidate"):
        score_with("modelopt:gradient", loaded, table, request)


@pytest.mark.parametrize(
    ("fmt", "options", "expected"),
    [
        ("w8a8-static", {}, "INT8_DEFAULT_CFG"),
        ("w8a8-static", {"smoothquant": "true"}, "INT8_SMOOTHQUANT_CFG"),
        ("fp8", {}, "FP8_DEFAULT_CFG"),
        ("fp8", {"fp8": "per-token"}, "FP8_PER_CHANNEL_PER_TOKEN_CFG"),
    ],
)
def test_the_preset_of_a_format(
    fmt: str, options: dict[str, str], expected: str, small: Any, answering: Any
) -> None:
    loaded, table, request = small
    asked = answering(stored())
    made = request_of(request.selection, request.directory, fmt=fmt, options=options)
    found = modelopt.GRADIENT.score(loaded, table, made)
    assert asked["settings"]["preset"] == expected
    differs = any("one static scale a tensor" in note for note in found.framework.notes)
    assert differs == (expected == "FP8_DEFAULT_CFG")


def test_wrong_settings_are_refused_before_anything_runs(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, table, request = small
    monkeypatch.setattr(modelopt, "ask_worker", lambda *_, **__: pytest.fail("nothing was to run"))
    refused = [
        ("w8a8-static", {"smoothquant": "yes"}, "it is one of false, true"),
        ("w8a8-static", {"fp8": "per-token"}, "is of format fp8"),
        ("fp8", {"smoothquant": "true"}, "is of format w8a8-static"),
        ("w8a8-static", {"groups": "all"}, "it is one of fused, single"),
    ]
    for fmt, options, match in refused:
        made = request_of(request.selection, request.directory, fmt=fmt, options=options)
        with pytest.raises(UserError, match=match):
            modelopt.GRADIENT.score(loaded, table, made)
    unknown = request_of(request.selection, request.directory, fmt="w8a8")
    with pytest.raises(UserError, match="it can: w8a8-static, fp8"):
        check_asked("modelopt:kl_div", modelopt.KL_DIV, unknown)


def test_models_without_tokens_are_refused(tmp_path: Path) -> None:
    loaded = saved(models_tiny.causal_lm(num_hidden_layers=1), tmp_path / "model")
    table = list_ops(loaded.model, loaded.layout)
    with pytest.raises(UserError, match="needs a model that predicts tokens"):
        modelopt.KL_DIV.score(loaded, table, request_of([models_tiny.pixel_batch()], tmp_path))


def test_the_lenses_are_registered() -> None:
    assert lens_named("modelopt:gradient") is modelopt.GRADIENT
    assert lens_named("modelopt:kl_div") is modelopt.KL_DIV
    assert "autoround:scheme" in LENSES


def scored(
    lens: Any, model: Any, batches: Sequence[Batch], directory: Path, **more: Any
) -> LensScores:
    loaded = saved(model, directory / "model")
    table = list_ops(loaded.model, loaded.layout)
    found: LensScores = lens.score(loaded, table, request_of(batches, directory, **more))
    return found


@needs_modelopt
@pytest.mark.slow
def test_kl_is_that_of_the_op_fake_quantized(tmp_path: Path) -> None:
    """Against the divergence computed here, for one op, with ModelOpt's symmetric grid."""
    model, batch = models_tiny.causal_lm(), models_tiny.text_batch()
    found = scored(modelopt.KL_DIV, model, [batch], tmp_path, options={"groups": "single"})
    candidates = {op.name for op in list_ops(model, models_tiny.loaded(model).layout).candidates}
    assert found.scores.keys() == candidates
    name = "model.layers.1.mlp.down_proj"
    op = model.get_submodule(name)
    seen: list[torch.Tensor] = []
    handle = op.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        before = model(**batch.inputs).logits
    handle.remove()

    def grid(x: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        scale = largest / 127
        return (x / scale).round().clamp(-127, 127) * scale

    with torch.no_grad():
        op.weight.copy_(grid(op.weight, op.weight.abs().amax(1, keepdim=True)))
        op.register_forward_pre_hook(lambda _m, args: (grid(args[0], seen[0].abs().max()),))
        after = model(**batch.inputs).logits
    p, q = (x[batch.predicting()].double().log_softmax(-1) for x in (before, after))
    expected = float((p.exp() * (p - q)).sum())
    assert found.scores[name] == pytest.approx(expected, rel=0.02)


@needs_modelopt
@pytest.mark.slow
def test_gradient_scores_of_groups_are_those_of_their_ops(tmp_path: Path) -> None:
    """ModelOpt's score of a group is the sum over its ops: what is shared out adds up to it."""
    batches = [models_tiny.text_batch()]
    parts = {}
    for groups in ("fused", "single"):
        directory = tmp_path / groups
        directory.mkdir()
        parts[groups] = scored(
            modelopt.GRADIENT,
            models_tiny.causal_lm(),
            batches,
            directory,
            options={"groups": groups},
        )
    fused, single = parts["fused"], parts["single"]
    names = [f"model.layers.0.self_attn.{part}_proj" for part in "qkv"]
    assert fused.scores.keys() == single.scores.keys()
    assert len({fused.scores[name] for name in names}) == 1
    assert fused.raw[names[0]]["group_ops"] == 3
    assert len({single.scores[name] for name in names}) == 3
    total = sum(single.scores[name] for name in names)
    assert sum(fused.scores[name] for name in names) == pytest.approx(total, rel=1e-4)
    assert fused.raw[names[0]]["group_score"] == pytest.approx(total, rel=1e-4)


@needs_modelopt
@pytest.mark.slow
@pytest.mark.parametrize("lens", [modelopt.GRADIENT, modelopt.KL_DIV])
def test_vision_ops_are_scored_where_samples_have_pictures(lens: Any, tmp_path: Path) -> None:
    model = models_tiny.qwen2_5_vl()
    table = list_ops(model, models_tiny.loaded(model).layout)
    vision = {op.name for op in table.candidates if op.component != "language"}
    both = [models_tiny.image_batch(), models_tiny.text_batch()]
    (tmp_path / "both").mkdir()
    found = scored(lens, model, both, tmp_path / "both")
    assert found.scores.keys() == {op.name for op in table.candidates}
    assert all(found.scores[name] != 0 for name in vision)
    (tmp_path / "text").mkdir()
    text = scored(lens, model, [models_tiny.text_batch()], tmp_path / "text")
    assert text.missing == dict.fromkeys(vision, "no sample reaches it")
    assert text.scores.keys() == {op.name for op in table.candidates} - vision


@needs_modelopt
@pytest.mark.slow
def test_a_time_budget_leaves_what_was_scored(tmp_path: Path) -> None:
    batches = [models_tiny.text_batch(), models_tiny.text_batch(seed=1)]
    model = models_tiny.causal_lm()
    for name in ("kl", "gradient"):
        (tmp_path / name).mkdir()
    kl = scored(modelopt.KL_DIV, model, batches, tmp_path / "kl", time_budget=1e-6)
    assert kl.stopped_by == "time budget"
    assert {raw["group_ops"] for raw in kl.raw.values()} == {len(kl.scores)}
    grads = scored(modelopt.GRADIENT, model, batches, tmp_path / "gradient", time_budget=1e-6)
    assert grads.stopped_by == "time budget"
    assert grads.framework.settings["batches_scored"] == 1
    assert len(grads.scores) == 14


@needs_modelopt
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fmt", "options"),
    [("fp8", {}), ("fp8", {"fp8": "per-token"}), ("w8a8-static", {"smoothquant": "true"})],
)
def test_the_other_presets_and_an_op_without_its_group(
    fmt: str, options: dict[str, str], tmp_path: Path
) -> None:
    found = scored(
        modelopt.GRADIENT,
        models_tiny.causal_lm(),
        [models_tiny.text_batch()],
        tmp_path,
        fmt=fmt,
        options=options,
        max_ops=2,
    )
    assert len(found.scores) == 2
    assert found.stopped_by == "a limit of 2 ops"
    assert {raw["group_ops"] for raw in found.raw.values()} == {1}
    assert all(score > 0 for score in found.scores.values())
