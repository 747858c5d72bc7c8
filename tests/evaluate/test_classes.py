"""Classifiers of pictures and of texts: a sample is one prediction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy, kl_div

import models_tiny
from quantspectrum.artifacts import Evaluation, read_artifact
from quantspectrum.backends.compressed_tensors import write
from quantspectrum.data.encode import encode_for
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.classes import classes_of
from quantspectrum.evaluate.evaluation import evaluate_model
from quantspectrum.evaluate.fidelity import fidelities
from quantspectrum.evaluate.loss import measure_loss
from quantspectrum.evaluate.predictions import paired, read_predictions
from quantspectrum.evaluate.reload import load_variant
from quantspectrum.evaluate.request import EvaluationRequest
from quantspectrum.evaluate.session import Baseline, EvaluationSession
from quantspectrum.formats import preset
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.ops import list_ops
from quantspectrum.simulation import OpPlan

NAMES = {0: "Cat", 1: "dog", 2: "grey heron"}


def pictures(count: int = 7, *, answers: tuple[str, ...] = ()) -> list[Sample]:
    chance = np.random.default_rng(0)
    shapes = [(40, 32, 3), (32, 32, 3)]
    return [
        Sample(
            id=f"p{n}",
            text="",
            image=Image.fromarray(chance.integers(0, 256, shapes[n % 2], np.uint8)),
            references=(answers[n % len(answers)],) if answers else (),
        )
        for n in range(count)
    ]


@pytest.fixture
def vit(tmp_path: Path) -> Loaded:
    torch.manual_seed(0)
    model = models_tiny.family("vit")
    model.config.id2label = NAMES  # type: ignore[assignment]
    model.config.label2id = {name: index for index, name in NAMES.items()}  # type: ignore[assignment]
    model.classifier = torch.nn.Linear(model.config.hidden_size, 3)  # type: ignore[arg-type]
    directory = models_tiny.save(model, tmp_path / "model")
    return load_model(ModelSpec(model=str(directory), device="cpu"))


def asked(samples: list[Sample], **more: Any) -> EvaluationRequest:
    session = EvaluationSession(samples=samples, prompts=[], data=())
    return EvaluationRequest(session=session, label="x", **more)


@torch.inference_mode()
def logits_of(loaded: Loaded, samples: list[Sample]) -> dict[str, torch.Tensor]:
    batches = encode_for(loaded, samples, batch_size=1)
    return {b.sample_ids[0]: loaded.model(**b.inputs).logits[0] for b in batches}


def test_the_loss_is_that_of_the_named_classes(vit: Loaded) -> None:
    samples = pictures(answers=("cat", "DOG", " grey  heron", "2"))
    done = evaluate_model(vit, asked(samples), load_s=0)
    right = {f"p{n}": (0, 1, 2, 2)[n % 4] for n in range(7)}
    logits = logits_of(vit, samples)
    expected = {
        name: float(cross_entropy(one, torch.tensor(right[name]))) for name, one in logits.items()
    }
    assert {one.id: one.nll for one in done.loss.samples} == pytest.approx(expected, abs=1e-5)
    assert (done.loss.of, done.loss.tokens) == ("classes", 7)
    assert {one.kind for one in done.loss.samples} == {"image"}
    assert done.accuracy is not None
    assert done.accuracy.correct == {n: int(x.argmax()) == right[n] for n, x in logits.items()}
    assert done.accuracy.answers == {n: NAMES[int(x.argmax())] for n, x in logits.items()}
    assert done.prompts == ()
    assert done.yes_no is None


def test_without_classes_the_baselines_are_the_right_ones(vit: Loaded, tmp_path: Path) -> None:
    samples, kept = pictures(), tmp_path / "p.safetensors"
    done = evaluate_model(vit, asked(samples, keep=kept), load_s=0)
    before = logits_of(vit, samples)
    expected = {n: -float(x.log_softmax(-1).max()) for n, x in before.items()}
    assert {one.id: one.nll for one in done.loss.samples} == pytest.approx(expected, abs=1e-5)
    assert done.loss.of == "baseline's classes"
    assert done.accuracy is None
    with torch.no_grad():
        # Other weights of the same model, so that some of its likeliest classes are others.
        vit.model.classifier.weight.copy_(vit.model.classifier.weight.roll(1, 0))
    base = Baseline(evaluation=done, predictions=read_predictions(kept))
    other = evaluate_model(vit, asked(samples, baseline=base), load_s=0)
    after = logits_of(vit, samples)
    for one in other.loss.samples:
        log_p, log_q = before[one.id].log_softmax(-1), after[one.id].log_softmax(-1)
        assert one.nll == pytest.approx(-float(log_q[log_p.argmax()]), abs=1e-5)
        whole = kl_div(log_q, log_p, log_target=True, reduction="sum")
        assert one.kl == pytest.approx(float(whole), abs=1e-5)
        assert one.same_top == int(log_p.argmax() == log_q.argmax())
    assert sum(one.same_top or 0 for one in other.loss.samples) < len(samples)
    assert [one.kind for one in other.fidelity] == ["all", "image"]
    assert other.flips is None


def test_a_variant_is_compared_in_pairs(vit: Loaded, tmp_path: Path) -> None:
    samples, kept = pictures(12, answers=("cat", "dog")), tmp_path / "p.safetensors"
    done = evaluate_model(vit, asked(samples, keep=kept), load_s=0)
    plans = {
        op.name: OpPlan(format=preset("w8a8"), input_range=None, scale_dtype=vit.storage_dtype)
        for op in list_ops(vit.model, vit.layout).candidates
    }
    (tmp_path / "v").mkdir()
    write(vit, plans, tmp_path / "v")
    variant = load_variant(ModelSpec(model=str(tmp_path / "v"), device="cpu"), vit)
    base = Baseline(evaluation=done, predictions=read_predictions(kept))
    found = evaluate_model(variant, asked(samples, baseline=base), load_s=0)
    (whole, _) = found.fidelity
    assert 0 < whole.kl_mean.value < 0.1
    assert whole.kl_kind == "exact"
    assert found.flips is not None
    assert found.flips.compared == 12
    assert found.resources.kernel == "emulated"
    products = found.resources.matmuls
    assert products is not None
    # Those that are quantized, and the classifier's last.
    linears = sum(calls for name, calls in products.items() if name.startswith("aten.linear"))
    assert linears == len(plans) + 1
    assert found.resources.latency == ()


def test_a_text_classifier_is_not_told_the_answer() -> None:
    loaded = models_tiny.loaded(models_tiny.family("bert classifier"))
    samples = [
        Sample(
            id=f"s{n}",
            text=f"LABEL_{n % 3}",
            prompt=f"Sheep {n} jumps.",
            references=(f"LABEL_{n % 3}",),
        )
        for n in range(6)
    ]
    hidden = [replace(one, text="LABEL_2") for one in samples]
    plain = [replace(one, text=one.prompt or "", prompt=None, references=()) for one in samples]
    classes = classes_of(loaded, samples)
    assert classes == {f"s{n}": n % 3 for n in range(6)}
    losses = [
        measure_loss(loaded, encode_for(loaded, some, batch_size=4), classes=classes).loss.loss
        for some in (samples, hidden, plain)
    ]
    assert losses[0] == losses[1] == losses[2]


def test_samples_name_classes_all_or_none(vit: Loaded) -> None:
    samples = pictures(4, answers=("cat", "dog", "lynx", "dog"))
    with pytest.raises(
        UserError, match=r"sample p2 names no class .*'lynx'.* 3 others do; give all"
    ):
        evaluate_model(vit, asked(samples), load_s=0)
    assert classes_of(vit, pictures(3, answers=("lynx", "a bear"))) is None


def test_a_name_comes_before_a_number_and_is_of_one_class(vit: Loaded) -> None:
    vit.config.id2label = {0: "2", 1: "0", 2: "grey heron"}
    assert classes_of(vit, pictures(3, answers=("2", "0", "1"))) == {"p0": 0, "p1": 1, "p2": 1}
    # As ImageNet's two cranes, of which the configuration's label2id knows the last alone.
    vit.config.id2label = {0: "crane", 1: "dog", 2: "Crane"}
    with pytest.raises(UserError, match=r"sample p0: 'crane' is the name of the classes 0, 2 of"):
        classes_of(vit, pictures(2, answers=("crane", "dog")))
    assert classes_of(vit, pictures(2, answers=("2", "dog"))) == {"p0": 2, "p1": 1}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"problem_type": "regression"}, "it gives a number and not a class"),
        ({"problem_type": "multi_label_classification"}, "it gives each sample several classes"),
        ({"num_labels": 1}, "it gives a number and not a class"),
    ],
)
def test_what_gives_no_class_is_refused(vit: Loaded, changes: dict[str, Any], why: str) -> None:
    for name, value in changes.items():
        setattr(vit.config, name, value)
    with pytest.raises(UserError, match=f"cannot be evaluated: {why}; `quantspectrum sensitivity`"):
        evaluate_model(vit, asked(pictures()), load_s=0)


def test_pictures_and_texts_are_kinds_of_their_own(vit: Loaded) -> None:
    measured = measure_loss(vit, encode_for(vit, pictures(), batch_size=3))
    other = measure_loss(
        vit, encode_for(vit, pictures(), batch_size=3), baseline=measured.predictions
    )
    assert other.compared is not None
    mixed = replace(
        paired(measured.predictions, other.compared),
        kinds=np.array(["image", "text", "image+text", "image", "image", "text", "image"]),
    )
    counts = {one.kind: one.samples for one in fidelities(mixed)}
    assert counts == {"all": 7, "text": 2, "image+text": 1, "image": 4}


def test_a_record_without_the_word_is_about_tokens(tmp_path: Path, vit: Loaded) -> None:
    done = evaluate_model(vit, asked(pictures()), load_s=0)
    raw = done.model_dump(mode="json")
    raw["loss"].pop("of")
    path = tmp_path / "e.json"
    path.write_text(json.dumps(raw))
    assert read_artifact(path, Evaluation).loss.of == "tokens"
