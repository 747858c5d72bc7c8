"""lmms-eval itself on tasks of our own: its evaluator, its task files, its metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
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
doc_to_target: answer
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
        {"question": q, "image": p, "answer": a}
        for q, p, a in zip(QUESTIONS, pictures, answers, strict=True)
    ]
    data = tmp_path / "data"
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)}).save_to_disk(str(data))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "functions.py").write_text(FUNCTIONS)
    for kind, more in (("generate_until", GENERATED),):
        text = TASK.format(name="own_task", data=data, kind=kind) + more
        (tasks / "own_task.yaml").write_text(text)
    return tasks


def test_lmms_eval_scores_the_loaded_model_on_a_local_task(loaded: Loaded, folder: Path) -> None:
    (found,) = run_benchmarks(loaded, ["lmms-eval:own_task"], include=str(folder), batch_size=2)
    assert (found.harness, found.task) == ("lmms-eval", "own_task")
    assert found.harness_version
    assert found.metrics["same,none"] == pytest.approx(2 / 3)
    assert found.samples == 3
    (some,) = run_benchmarks(loaded, ["lmms-eval:own_task"], include=str(folder), limit=2)
    assert (some.samples, some.metrics["same,none"]) == (2, 1.0)


def test_a_task_there_is_not_is_told(loaded: Loaded, folder: Path) -> None:
    with pytest.raises(UserError, match="lmms-eval cannot run absent_task"):
        run_benchmarks(loaded, ["lmms-eval:absent_task"], include=str(folder))
