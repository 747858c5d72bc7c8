"""Benchmark harnesses: lm-eval itself on a task of our own, lmms-eval through its interface."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import models_tiny
from quantspectrum.data.encode import encode_for, encode_prompts
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.benchmarks import check_benchmark, results_of, run_benchmarks
from quantspectrum.evaluate.generation import answer
from quantspectrum.evaluate.loss import measure_loss

QUESTIONS = [
    {"question": "a sheep is", "choices": ["white", "seven"], "right": 0},
    {"question": "one and one is", "choices": ["blue", "two"], "right": 1},
    {"question": "the hill is", "choices": ["high", "wet"], "right": 0},
]


@pytest.mark.parametrize("spec", ["hellaswag", "lm-eval", "lm-eval:", "other:task", "lm_eval:x"])
def test_a_benchmark_is_a_harness_and_a_task(spec: str) -> None:
    with pytest.raises(UserError, match="give HARNESS:TASK"):
        check_benchmark(spec)


def test_a_harness_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantspectrum.evaluate.benchmarks.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"lm-eval is not installed; `pip install 'quantspectrum\["):
        check_benchmark("lm-eval:hellaswag")
    with pytest.raises(UserError, match="lmms-eval is not installed"):
        check_benchmark("lmms-eval:pope")


def test_a_model_that_writes_no_text_is_refused() -> None:
    with pytest.raises(UserError, match="does not write"):
        run_benchmarks(models_tiny.loaded(models_tiny.bert()), ["lm-eval:hellaswag"])


def test_metrics_and_errors_of_a_harness_are_told_apart() -> None:
    raw = {
        "results": {
            "t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1, "bad,none": float("nan")},
            "g": {"acc,none": 1, "acc_stderr,none": "N/A"},
        },
        "versions": {"t": 1.0},
        "n-shot": {"t": 3},
        "n-samples": {"t": {"original": 9, "effective": 4}},
    }
    one, other = results_of("lm-eval", raw)
    assert (one.metrics, one.stderr) == ({"acc,none": 0.5}, {"acc,none": 0.1})
    assert (one.samples, one.fewshot, one.task_version) == (4, 3, "1.0")
    assert (other.metrics, other.stderr, other.samples) == ({"acc,none": 1.0}, {}, None)


@pytest.fixture
def task_folder(tmp_path: Path) -> Path:
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)))
    (tmp_path / "sheep.yaml").write_text(
        f"""task: sheep
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{right}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 2.0
"""
    )
    return tmp_path


def test_lm_eval_scores_the_loaded_model_on_a_local_task(
    task_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'quantspectrum[benchmarks]'")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(task_folder / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = models_tiny.loaded(models_tiny.causal_lm("llama"))
    (found,) = run_benchmarks(loaded, ["lm-eval:sheep"], include=str(task_folder))
    assert (found.harness, found.task, found.samples) == ("lm-eval", "sheep", 3)
    # The same choice from this project's own losses of "question choice".
    right = 0
    for question in QUESTIONS:
        samples = [
            Sample(id=str(n), text=f"{question['question']} {choice}")
            for n, choice in enumerate(question["choices"])
        ]
        batches = encode_for(loaded, samples, batch_size=1)
        losses = [sample.nll for sample in measure_loss(loaded, batches).loss.samples]
        right += losses.index(min(losses)) == question["right"]
    assert found.metrics["acc,none"] == pytest.approx(right / 3)
    with pytest.raises(UserError, match="lm-eval cannot run absent_task"):
        run_benchmarks(loaded, ["lm-eval:absent_task"], include=str(task_folder))


def _stub_lmms(monkeypatch: pytest.MonkeyPatch, documents: list[dict[str, Any]]) -> list[Any]:
    """The parts of lmms-eval that are used, with its shapes; the package itself is not needed."""
    seen: list[Any] = []

    class Lmms:
        def __init__(self) -> None:
            self.task_dict: dict[str, Any] = {}

    def simple_evaluate(model: Any, tasks: list[str], limit: int | None, **_: Any) -> Any:
        model.task_dict = {tasks[0]: {"test": documents}}
        requests = [
            SimpleNamespace(
                args=(
                    doc["question"],
                    {"max_new_tokens": 3, "until": ["\n\n"]},
                    lambda d: d["pictures"],
                    number,
                    tasks[0],
                    "test",
                )
            )
            for number, doc in enumerate(documents[:limit])
        ]
        seen.extend(model.generate_until(requests))
        return {"results": {tasks[0]: {"acc,none": 0.25}}, "n-samples": {}}

    modules = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": Lmms},
        "lmms_eval.evaluator": {"simple_evaluate": simple_evaluate},
        "lmms_eval.tasks": {"TaskManager": lambda include_path: include_path},
    }
    for name, attributes in modules.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        module.__spec__ = SimpleNamespace(name=name)  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
    return seen


def test_lmms_eval_is_answered_with_the_loaded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models_tiny.loaded(models_tiny.qwen2_5_vl())
    picture = Image.new("RGB", (28, 28), (9, 200, 9))
    documents = [
        {"question": "What color?", "pictures": [picture]},
        {"question": "Why is the sheep white?", "pictures": []},
    ]
    seen = _stub_lmms(monkeypatch, documents)
    (found,) = run_benchmarks(loaded, ["lmms-eval:colors"])
    assert (found.harness, found.metrics) == ("lmms-eval", {"acc,none": 0.25})
    for document, told in zip(documents, seen, strict=True):
        sample = Sample(
            id="x", text="", prompt=document["question"], image=(*document["pictures"], None)[0]
        )
        alone = encode_prompts([sample], loaded.processor, batch_size=1)
        expected = answer(loaded, alone, max_new_tokens=3)["x"].text
        assert told == expected.partition("\n\n")[0] or "\n\n" in expected
    _stub_lmms(monkeypatch, [{"question": "Which?", "pictures": [picture, picture]}])
    with pytest.raises(UserError, match="shows several pictures"):
        run_benchmarks(loaded, ["lmms-eval:colors"])
