"""Tasks of benchmark harnesses by name, where a harness is installed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Literal

from quantspectrum.artifacts import BenchmarkResult
from quantspectrum.errors import UserError, in_one_line
from quantspectrum.models.loading import Loaded

__all__ = ["HARNESSES", "check_benchmark", "parse_benchmark", "results_of", "run_benchmarks"]

Harness = Literal["lm-eval", "lmms-eval"]

HARNESSES: dict[Harness, tuple[str, str]] = {
    "lm-eval": ("lm_eval", "lm_eval"),
    "lmms-eval": ("lmms_eval", "lmms_eval"),
}
"""Harness to its module and its distribution."""


def parse_benchmark(spec: str) -> tuple[Harness, str]:
    """The harness and the task of ``lm-eval:hellaswag``.

    Raises:
        UserError: No such harness, or no task.
    """
    name, _, task = spec.partition(":")
    for harness in HARNESSES:
        if name == harness and task.strip():
            return harness, task.strip()
    raise UserError(
        f"--benchmark {spec}: give HARNESS:TASK with a harness of {', '.join(HARNESSES)}, such as "
        "lm-eval:hellaswag"
    )


def run_benchmarks(
    loaded: Loaded,
    specs: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 8,
    include: str | None = None,
) -> tuple[BenchmarkResult, ...]:
    """Run tasks on a loaded model, each harness once with all of its tasks.

    A task may be a group; then there is a result for each of its parts and for the whole. The
    harness's own prompts, filters and metrics are used, and the model as it is here: a variant's
    activations are quantized too.

    Args:
        loaded: A model that writes text.
        specs: ``HARNESS:TASK``.
        limit: Questions of each task at most.
        batch_size: Questions a forward pass.
        include: Folder of task files of the user's own.

    Raises:
        UserError: A harness is not installed, knows no such task, or the model writes no text.
    """
    asked: dict[Harness, list[str]] = {}
    for spec in specs:
        harness, task = parse_benchmark(spec)
        asked.setdefault(harness, []).append(task)
    if asked and not loaded.generates:
        raise UserError(f"benchmarks ask for text, which {loaded.spec.model} does not write")
    for spec in specs:
        check_benchmark(spec)
    found: list[BenchmarkResult] = []
    for harness, tasks in asked.items():
        run = _RUNNERS[harness]
        raw = _told(harness, tasks, lambda: run(loaded, tasks, limit, batch_size, include))  # noqa: B023
        found += results_of(harness, raw)
    return tuple(found)


def check_benchmark(spec: str) -> None:
    """Make sure that a benchmark can be asked for here, before anything is loaded.

    Raises:
        UserError: It names no harness or task, or the harness is not installed.
    """
    harness, _ = parse_benchmark(spec)
    if find_spec(HARNESSES[harness][0]) is None:
        how = {
            "lm-eval": "`pip install 'quantspectrum[benchmarks]'`",
            "lmms-eval": "`pip install lmms-eval`, which pins much and is best in an environment of "
            "its own together with quantspectrum",
        }
        raise UserError(f"{harness} is not installed; {how[harness]}")


def _told(
    harness: Harness, tasks: Sequence[str], work: Callable[[], Mapping[str, Any]]
) -> Mapping[str, Any]:
    try:
        return work()
    # What a harness raises for a missing task, data set or metric is up to each task's own code.
    except Exception as error:
        # lmms-eval tries some steps again, and then tells of the trying alone.
        told = error.__cause__ if type(error).__name__ == "RetryError" else None
        reason = in_one_line(told or error) or type(error).__name__
        raise UserError(f"{harness} cannot run {', '.join(tasks)}: {reason}") from error


def _lm_eval(
    loaded: Loaded, tasks: Sequence[str], limit: int | None, batch_size: int, include: str | None
) -> Mapping[str, Any]:
    harness: Any = import_module("lm_eval")
    models: Any = import_module("lm_eval.models.huggingface")
    from quantspectrum.evaluate.generation import tokenizer_of

    model = models.HFLM(
        pretrained=loaded.model,
        tokenizer=tokenizer_of(loaded),
        batch_size=batch_size,
        max_length=loaded.max_tokens,
    )
    manager: Any = import_module("lm_eval.tasks").TaskManager(include_path=include)
    raw: Mapping[str, Any] = harness.simple_evaluate(
        model=model,
        tasks=list(tasks),
        limit=limit,
        task_manager=manager,
        log_samples=False,
        bootstrap_iters=1000,
    )
    return raw


def _lmms_eval(
    loaded: Loaded, tasks: Sequence[str], limit: int | None, batch_size: int, include: str | None
) -> Mapping[str, Any]:
    evaluator: Any = import_module("lmms_eval.evaluator")
    manager: Any = import_module("lmms_eval.tasks").TaskManager(include_path=include)
    from quantspectrum.evaluate.lmms import lmms_model

    raw: Mapping[str, Any] = evaluator.simple_evaluate(
        model=lmms_model(loaded, batch_size),
        tasks=list(tasks),
        limit=limit,
        task_manager=manager,
        log_samples=False,
    )
    return raw


_Runner = Callable[[Loaded, Sequence[str], "int | None", int, "str | None"], Mapping[str, Any]]
_RUNNERS: dict[Harness, _Runner] = {"lm-eval": _lm_eval, "lmms-eval": _lmms_eval}


def results_of(harness: Harness, raw: Mapping[str, Any]) -> list[BenchmarkResult]:
    """A harness's results as records, one a task, in its own order.

    Metrics are the numbers whose key is ``METRIC,FILTER``; ``METRIC_stderr,FILTER`` is the error
    of each. What is not a finite number is left out.
    """
    _, distribution = HARNESSES[harness]
    try:
        its_version = version(distribution)
    except PackageNotFoundError:
        its_version = "unknown"
    found = []
    for task, values in raw["results"].items():
        numbers = {
            key: float(value)
            for key, value in values.items()
            if "," in key and isinstance(value, (int, float)) and math.isfinite(value)
        }
        errors = {
            key.replace("_stderr,", ","): numbers.pop(key)
            for key in list(numbers)
            if "_stderr," in key
        }
        count = raw.get("n-samples", {}).get(task, {})
        task_version = raw.get("versions", {}).get(task)
        found.append(
            BenchmarkResult(
                harness=harness,
                harness_version=its_version,
                task=task,
                task_version=None if task_version in (None, "Yaml") else str(task_version),
                samples=count.get("effective") if isinstance(count, dict) else None,
                fewshot=raw.get("n-shot", {}).get(task),
                metrics=numbers,
                stderr=errors,
            )
        )
    return found
