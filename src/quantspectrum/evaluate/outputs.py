"""What a model predicts and answers on the samples of an evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from quantspectrum.artifacts import (
    Accuracy,
    YesNo,
)
from quantspectrum.data.sample import Sample
from quantspectrum.evaluate.classes import classes_of, judge_classes
from quantspectrum.evaluate.generation import (
    Answer,
    answer,
    asked,
    judge,
)
from quantspectrum.evaluate.loss import MeasuredLoss, measure_loss
from quantspectrum.evaluate.predictions import (
    Predictions,
)
from quantspectrum.evaluate.request import EvaluationRequest
from quantspectrum.evaluate.yes_no import measure_yes_no, yes_no_samples
from quantspectrum.models.loading import Loaded

__all__ = ["Outputs", "Phases", "outputs_of"]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a model predicted and answered."""

    measured: MeasuredLoss
    answers: dict[str, Answer]
    accuracy: Accuracy | None
    yes_no: YesNo | None
    prompts: dict[str, Answer]


@dataclass
class Phases:
    """Where the time goes."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count what happens in it under a name."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def outputs_of(
    loaded: Loaded,
    request: EvaluationRequest,
    phases: Phases,
    baseline: Predictions | None,
    keep_bytes: int,
) -> Outputs:
    """Predictions and answers of one model.

    Args:
        loaded: The model.
        request: What to measure it on.
        phases: Where the time is noted.
        baseline: Predictions to compare with.
        keep_bytes: Bytes of logits that are kept where there is no baseline.
    """
    session, size = request.session, request.batch_size
    with phases.of("encode"):
        batches = session.scored(loaded, batch_size=size, max_length=request.max_length)
    classes = classes_of(loaded, session.samples) if loaded.classifies else None
    with phases.of("loss"):
        measured = measure_loss(
            loaded,
            batches,
            baseline=baseline,
            keep_bytes=0 if baseline else keep_bytes,
            classes=classes,
        )
    answers: dict[str, Answer] = {}
    prompts: dict[str, Answer] = {}
    yes_no = None
    if loaded.generates:
        with phases.of("answers"):
            answers = _answer(loaded, request, "judged", asked(session.samples))
        with phases.of("yes_no"):
            questions = session.questions(
                loaded, "yes/no", yes_no_samples(session.samples), batch_size=size
            )
            yes_no = measure_yes_no(loaded, session.samples, questions, answers)
        with phases.of("prompts"):
            prompts = _answer(loaded, request, "prompts", session.prompts)
    accuracy = (
        judge(session.samples, answers)
        if loaded.generates
        else judge_classes(loaded, measured.predictions, classes)
    )
    return Outputs(
        measured=measured,
        answers=answers,
        accuracy=accuracy,
        yes_no=yes_no,
        prompts=prompts,
    )


def _answer(
    loaded: Loaded, request: EvaluationRequest, name: str, samples: Sequence[Sample]
) -> dict[str, Answer]:
    batches = request.session.questions(loaded, name, samples, batch_size=request.batch_size)
    return answer(loaded, batches, max_new_tokens=request.max_new_tokens)
