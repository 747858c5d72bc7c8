"""Scores of every kind of model that can be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Gemma2Config, Gemma2ForCausalLM

import models_tiny
from quantspectrum.artifacts import SensitivityReport
from quantspectrum.data.encode import Batch, encode_for
from quantspectrum.data.pictures import gradient
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded
from quantspectrum.simulation import Simulation
from quantspectrum.stages import DataRequest, OpsRequest, ScoringRequest, sensitivity
from scans import BASES, Base, by_whole_passes, logits_with, plans_of, score, score_all, scores

WHOLE = {"albert": "runs more than once", "unknown text": "not known", "unknown image": "not known"}
FEATURES = ("unknown text", "unknown image")
PICTURES = ("vit", "dinov2", "swin", "unknown image", "qwen2.5-vl")


def samples(pictures: bool) -> list[Sample]:
    return [
        Sample(
            id=str(number),
            text=f"Line {number} tells of {number * number} sheep on a hill.",
            prompt="What is this?" if pictures else None,
            image=gradient(56 + 28 * number, 56) if pictures else None,
        )
        for number in range(5)
    ]


def batches_of(loaded: Loaded, family: str, size: int = 3) -> list[Batch]:
    """As the stages make them."""
    return encode_for(loaded, samples(family in PICTURES), batch_size=size)


def numbers(report: SensitivityReport) -> dict[str, Any]:
    return {op.name: (op.score, op.stderr, op.raw) for op in report.ops}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("family", models_tiny.FAMILIES)
def test_replays_score_as_whole_passes(family: str, base: Base) -> None:
    model = models_tiny.family(family)
    batches = batches_of(models_tiny.loaded(model), family)
    more: dict[str, Any] = {
        "selection": batches,
        "calibration": batches[:1],
        "metrics": ("mse_v2",) if family in FEATURES else ("mse_v2", "kl"),
        "formats": "w8a8-static",
        "base": base,
    }
    reports = score_all(model, **more)
    for report, whole in zip(reports, score_all(by_whole_passes(model), **more), strict=True):
        assert numbers(report) == numbers(whole)
        assert {op.n for op in report.ops} == {5}
        assert report.engine is not None
        if family in WHOLE:
            assert WHOLE[family] in str(report.engine.whole_because)
        else:
            assert report.engine.whole_because is None
        assert any(op.score > 0 for op in report.ops)


@pytest.mark.parametrize("family", models_tiny.FAMILIES)
def test_slots_make_no_difference(family: str) -> None:
    model = models_tiny.family(family)
    more: dict[str, Any] = {"selection": batches_of(models_tiny.loaded(model), family)}
    report = score(model, slots=8, **more)
    assert report.engine is not None
    assert report.engine.slots == (1 if family in WHOLE else 8)
    assert scores(report) == pytest.approx(scores(score(model, **more)), rel=1e-3)


@pytest.mark.parametrize("family", models_tiny.FAMILIES)
def test_passes_over_all_ops(family: str) -> None:
    """One sample at a time: some models mix the samples of a batch."""
    model = models_tiny.family(family)
    batches = batches_of(models_tiny.loaded(model), family, size=1)
    metrics = ("sqnr",) if family in FEATURES else ("visibility", "sqnr")
    for report in score_all(model, selection=batches, metrics=metrics):
        assert report.complete
        assert all(op.score > 0 for op in report.ops)


def capped(cap: float | None) -> nn.Module:
    """A decoder that ends as Gemma 2 does, in logits that are soft-capped."""
    settings = {
        "vocab_size": models_tiny.VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "pad_token_id": models_tiny.PAD,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    config = Gemma2Config(**settings, final_logit_softcapping=cap)
    return models_tiny._random(Gemma2ForCausalLM(config))


@pytest.mark.parametrize(("cap", "read_head"), [(1.0, False), (None, True)])
def test_capped_logits_are_compared_as_they_are(cap: float | None, read_head: bool) -> None:
    model = capped(cap)
    loaded = models_tiny.loaded(model)
    plans = plans_of(loaded, preset("w4a16"), [])
    batch = models_tiny.text_batch((10, 10))
    report = score(model, "w4a16", selection=[batch])
    assert report.engine is not None
    assert (report.engine.head_read, report.engine.replay) == (read_head, True)
    reference = logits_with(loaded, plans, set(), batch)
    assert bool(reference.abs().max() <= 1) is not read_head
    for op in report.ops:
        error = logits_with(loaded, plans, {op.name}, batch) - reference
        ratio = error.square().sum((1, 2)) / reference.square().sum((1, 2))
        assert op.score == pytest.approx(float(ratio.mean()), rel=1e-3), op.name


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Mean loss of every sample's own target tokens, float64, as the evaluation takes it."""
    with torch.no_grad():
        logits = model(**batch.inputs).logits.double()
    labels = batch.labels if batch.labels is not None else batch.inputs["input_ids"]
    if batch.predicts == "next-token":
        logits, labels = logits[:, :-1], labels[:, 1:]
        target = batch.target[:, 1:]
    else:
        target = batch.target
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return (losses * target).sum(1) / target.sum(1)


@pytest.mark.parametrize("family", ["llama", "bert", "roberta", "albert", "distilbert"])
def test_the_change_of_the_loss_is_of_the_tokens_a_model_tells(family: str) -> None:
    """The next one, or the masked one: what the evaluation's loss is of."""
    model = models_tiny.family(family)
    loaded = models_tiny.loaded(model)
    batches = batches_of(loaded, family)
    report = score(model, "w4a16", metrics=("nll",), selection=batches)
    plans = plans_of(loaded, preset("w4a16"), [])
    before = torch.cat([loss_of(model, batch) for batch in batches])
    largest = max(abs(op.score) for op in report.ops)
    for op in report.ops:
        with Simulation(model, plans) as simulation:
            simulation.activate({op.name})
            after = torch.cat([loss_of(model, batch) for batch in batches])
        expected = float((after - before).mean())
        assert op.score == pytest.approx(expected, rel=1e-2, abs=1e-3 * largest), op.name


def test_traces_are_of_the_loss_on_masked_tokens() -> None:
    model = models_tiny.bert()
    (batch,) = batches_of(models_tiny.loaded(model), "bert", size=5)

    def masked_loss(logits: Tensor, batch: Batch) -> Tensor:
        assert batch.labels is not None
        labels = batch.labels.masked_fill(~batch.target, -100)
        return functional.cross_entropy(logits.transpose(1, 2), labels)

    more: dict[str, Any] = {"metrics": ("hawq_v2",), "selection": [batch], "probes": 2}
    own, given = score(model, **more), score(model, loss=masked_loss, **more)
    expected = {op.name: op.raw["trace"] for op in given.ops}
    for op in own.ops:
        assert op.raw["trace"] == pytest.approx(expected[op.name], rel=1e-3), op.name


@pytest.mark.parametrize("metric", ["nll", "hawq_v2"])
@pytest.mark.parametrize("family", ["bert classifier", "vit", "unknown text", "unknown image"])
def test_a_loss_on_tokens_needs_a_model_that_tells_them(family: str, metric: str) -> None:
    model = models_tiny.family(family)
    batches = batches_of(models_tiny.loaded(model), family)
    with pytest.raises(UserError, match=f"metric {metric} takes a loss on tokens, and a model for"):
        score(model, selection=batches, metrics=(metric,))


@pytest.mark.parametrize("metric", ["kl", "visibility"])
@pytest.mark.parametrize("family", FEATURES)
def test_predictions_are_not_compared_where_there_are_none(family: str, metric: str) -> None:
    model = models_tiny.family(family)
    batches = batches_of(models_tiny.loaded(model), family)
    with pytest.raises(UserError, match=f"metric {metric} compares predictions, and a model for"):
        score(model, selection=batches, metrics=("mse_v2", metric))


@pytest.mark.parametrize("family", FEATURES)
def test_estimates_order_the_ops_of_any_model(family: str) -> None:
    """What is refused as a report still tells where to begin measuring."""
    model = models_tiny.family(family)
    batches = batches_of(models_tiny.loaded(model), family, size=1)
    report = score(model, selection=batches, max_ops=3)
    assert sum(op.kind == "measured" for op in report.ops) == 3


def test_a_loss_of_one_s_own_serves_any_model() -> None:
    model = models_tiny.family("vit")
    batches = batches_of(models_tiny.loaded(model), "vit")

    def loss(logits: Tensor, _batch: Batch) -> Tensor:
        return functional.cross_entropy(logits, logits.detach().argmin(-1))

    report = score(model, selection=batches, metrics=("hawq_v2",), probes=2, loss=loss)
    assert report.complete
    assert {op.n for op in report.ops} == {2 * len(batches)}


@pytest.mark.parametrize("family", ["bert", "bert classifier", "vit"])
def test_the_stage_scores_them(tmp_path: Path, family: str) -> None:
    loaded = models_tiny.loaded(models_tiny.family(family))
    if family in PICTURES:
        folder = tmp_path / "pictures"
        folder.mkdir()
        for number in range(8):
            gradient(32 + number, 40).save(folder / f"{number}.png")
        spec = f"images:{folder}"
    else:
        lines = [sample.text * 40 for sample in samples(False)] * 3
        (tmp_path / "text.txt").write_text("\n".join(f"{i} {line}" for i, line in enumerate(lines)))
        spec = f"text:{tmp_path / 'text.txt'}"
    scoring = ScoringRequest(metric=("kl",), format=("w8a8-static",))
    (report,) = sensitivity(
        loaded,
        scoring.report_paths(tmp_path / "s.json"),
        data=DataRequest(data=(spec,), calibration=2, samples=3, eval_samples=1, max_length=32),
        ops=OpsRequest(),
        scoring=scoring,
        base="isolate",
        progress=lambda _steps: lambda: None,
    )
    assert report.complete
    assert {op.n for op in report.ops} == {3}
