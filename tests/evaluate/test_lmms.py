"""lmms-eval itself on tasks of our own: its evaluator, its task files, its metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import models_tiny
from quantspectrum.data.encode import encode_prompts
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.benchmarks import run_benchmarks
from quantspectrum.evaluate.generation import answer
from quantspectrum.models.loading import Loaded

pytest.importorskip("lmms_eval", reason="needs lmms-eval: pip install lmms-eval")
datasets = pytest.importorskip("datasets", reason="comes with lmms-eval")

COLORS = [(9, 200, 9), (200, 9, 9), (9, 9, 200)]
QUESTIONS = ["What color?", "Why is it?", "Which color is the hill?"]

FUNCTIONS = """
def pictures(doc):
    return [doc["image"].convert("RGB")]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def judged(doc, results):
    return {"same": float(results[0] == doc["answer"])}
"""

TASK = """task: {name}
dataset_path: {data}
dataset_kwargs:
  load_from_disk: true
test_split: test
output_type: {kind}
doc_to_visual: !function functions.pictures
doc_to_text: !function functions.text
doc_to_target: {target}
"""

CHOICES = """doc_to_choice:
  - white
  - seven sheep
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

GENERATED = """generation_kwargs:
  max_new_tokens: 4
  until:
    - "\\n\\n"
process_results: !function functions.judged
metric_list:
  - metric: same
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.5
"""


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return models_tiny.loaded(models_tiny.qwen2_5_vl())


@pytest.fixture
def folder(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Task files, and documents of which the last one's answer is not what the model says."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pictures = [Image.new("RGB", (28, 28), color) for color in COLORS]
    samples = [
        Sample(id=str(n), text="", prompt=question, image=picture)
        for n, (question, picture) in enumerate(zip(QUESTIONS, pictures, strict=True))
    ]
    said = answer(loaded, encode_prompts(samples, loaded.processor, batch_size=2), max_new_tokens=4)
    answers = [said[str(n)].text for n in range(2)] + ["something else"]
    rows = [
        {"question": q, "image": p, "answer": a, "right": n % 2}
        for n, (q, p, a) in enumerate(zip(QUESTIONS, pictures, answers, strict=True))
    ]
    data = tmp_path / "data"
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)}).save_to_disk(str(data))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "functions.py").write_text(FUNCTIONS)
    for name, kind, target, more in (
        ("own_task", "generate_until", "answer", GENERATED),
        ("own_choice", "multiple_choice", "right", CHOICES),
    ):
        text = TASK.format(name=name, data=data, kind=kind, target=target) + more
        (tasks / f"{name}.yaml").write_text(text)
    return tasks


def test_lmms_eval_scores_the_loaded_model_on_a_local_task(loaded: Loaded, folder: Path) -> None:
    (found,) = run_benchmarks(loaded, ["lmms-eval:own_task"], include=str(folder), batch_size=2)
    assert (found.harness, found.task) == ("lmms-eval", "own_task")
    assert found.harness_version
    assert found.metrics["same,none"] == pytest.approx(2 / 3)
    assert found.samples == 3
    (some,) = run_benchmarks(loaded, ["lmms-eval:own_task"], include=str(folder), limit=2)
    assert (some.samples, some.metrics["same,none"]) == (2, 1.0)


def test_lmms_eval_chooses_what_is_likeliest(loaded: Loaded, folder: Path) -> None:
    """The same choice from logits of the whole text, one by one, without the end of the turn."""
    (found,) = run_benchmarks(loaded, ["lmms-eval:own_choice"], include=str(folder), batch_size=4)
    right = []
    for number, (question, color) in enumerate(zip(QUESTIONS, COLORS, strict=True)):
        picture, scores = Image.new("RGB", (28, 28), color), []
        for choice in ("white", "seven sheep"):
            ask = Sample(id="x", text="", prompt=question, image=picture)
            (batch,) = encode_prompts([ask], loaded.processor, batch_size=1)
            tokenizer = loaded.processor.tokenizer  # type: ignore[union-attr]
            more = torch.tensor([tokenizer(choice, add_special_tokens=False)["input_ids"]])
            inputs = dict(batch.inputs)
            start = inputs["input_ids"].shape[1]
            inputs["input_ids"] = torch.cat([inputs["input_ids"], more], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            if "mm_token_type_ids" in inputs:
                kinds = inputs["mm_token_type_ids"]
                inputs["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(more)], 1)
            logits = loaded.model(**inputs, use_cache=False).logits[0, start - 1 : -1]
            scores.append(-logits.log_softmax(-1).gather(1, more.T).mean())
        right.append(scores.index(min(scores)) == number % 2)
    assert found.metrics["acc,none"] == pytest.approx(sum(right) / 3)


def test_a_task_there_is_not_is_told(loaded: Loaded, folder: Path) -> None:
    with pytest.raises(UserError, match="lmms-eval cannot run absent_task"):
        run_benchmarks(loaded, ["lmms-eval:absent_task"], include=str(folder))
