"""What is measured of models that write no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import models_tiny
from quantspectrum.data.encode import encode_for
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.evaluation import evaluate_model
from quantspectrum.evaluate.loss import measure_loss
from quantspectrum.evaluate.predictions import read_predictions
from quantspectrum.evaluate.request import EvaluationRequest
from quantspectrum.evaluate.session import Baseline, EvaluationSession
from quantspectrum.models.loading import ModelSpec, load_model

SAMPLES = [
    Sample(id=str(number), text=f"Line {number} tells of {number * number} sheep on a hill.")
    for number in range(5)
]


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_the_loss_of_a_masked_language_model_is_its_own(family: str) -> None:
    loaded = models_tiny.loaded(models_tiny.family(family))
    batches = encode_for(loaded, SAMPLES, batch_size=2)
    found = measure_loss(loaded, batches).loss
    expected = {}
    for batch in encode_for(loaded, SAMPLES, batch_size=1):
        assert batch.labels is not None
        labels = batch.labels.masked_fill(~batch.target, -100)
        with torch.inference_mode():
            loss = loaded.model(**batch.inputs, labels=labels).loss
        expected[batch.sample_ids[0]] = loss.item() * int(batch.target.sum())
    assert {sample.id: pytest.approx(sample.nll, abs=1e-4) for sample in found.samples} == expected


def asked(**more: Any) -> EvaluationRequest:
    return EvaluationRequest(
        session=EvaluationSession(samples=SAMPLES, prompts=[], data=()), label="x", **more
    )


def test_a_masked_language_model_is_evaluated_without_answers(tmp_path: Path) -> None:
    directory = models_tiny.save(models_tiny.bert(), tmp_path / "tiny")
    loaded = load_model(ModelSpec(model=str(directory), device="cpu"))
    kept = tmp_path / "p.safetensors"
    done = evaluate_model(loaded, asked(keep=kept), load_s=0)
    assert done.loss.tokens == sum(sample.tokens for sample in done.loss.samples) > len(SAMPLES)
    assert (done.accuracy, done.prompts, done.resources.latency) == (None, (), ())
    baseline = Baseline(evaluation=done, predictions=read_predictions(kept))
    again = evaluate_model(loaded, asked(baseline=baseline), load_s=0)
    assert all(sample.kl == pytest.approx(0, abs=1e-6) for sample in again.loss.samples)
    assert all(sample.same_top == sample.tokens for sample in again.loss.samples)
    assert [one.kind for one in again.fidelity] == ["all", "text"]
    assert not again.fidelity[0].loss.differs


@pytest.mark.parametrize("family", ["unknown text", "unknown image"])
def test_a_model_without_a_loss_on_texts_is_refused(family: str) -> None:
    loaded = models_tiny.loaded(models_tiny.family(family))
    with pytest.raises(UserError) as caught:
        evaluate_model(loaded, asked(), load_s=0)
    assert f"is a model for {loaded.task}, and evaluation is supported for" in str(caught.value)
