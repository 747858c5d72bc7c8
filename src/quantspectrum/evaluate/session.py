"""What evaluations on the same data share: samples, their encodings, the baseline's predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quantspectrum.artifacts import DataIdentity, Evaluation, read_artifact
from quantspectrum.data.encode import Batch, encode_for, encode_prompts
from quantspectrum.data.sample import Sample
from quantspectrum.evaluate.predictions import Predictions, read_predictions
from quantspectrum.models.loading import Loaded

__all__ = ["Baseline", "EvaluationSession", "predictions_path"]

_PROCESSOR_FILES = ("*token*", "*processor*", "chat_template*", "vocab*", "merges*")


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What variants are compared with: the baseline's record, and its predictions."""

    evaluation: Evaluation
    predictions: Predictions


@dataclass(kw_only=True)
class EvaluationSession:
    """Samples and prompts, encoded once for all models that read them alike.

    Attributes:
        samples: Held-out samples.
        prompts: Prompts whose answers are shown.
        data: Identities of both.
    """

    samples: Sequence[Sample]
    prompts: Sequence[Sample]
    data: tuple[DataIdentity, ...]
    _batches: dict[tuple[object, ...], list[Batch]] = field(default_factory=dict)
    _baselines: dict[Path, Baseline] = field(default_factory=dict)

    def scored(self, loaded: Loaded, *, batch_size: int, max_length: int | None) -> list[Batch]:
        """The samples with their targets."""
        return self._once(
            loaded,
            ("scored", batch_size, max_length),
            lambda: encode_for(loaded, self.samples, batch_size=batch_size, max_length=max_length),
        )

    def questions(
        self, loaded: Loaded, name: str, samples: Sequence[Sample], *, batch_size: int
    ) -> list[Batch]:
        """Some samples as prompts to answer; ``name`` says which, the same ones each time."""
        return self._once(
            loaded,
            ("questions", name, batch_size),
            lambda: encode_prompts(samples, loaded.processor, batch_size=batch_size),
        )

    def baseline(self, evaluation: Path) -> Baseline:
        """The baseline's record and predictions, read once.

        Raises:
            UserError: Either is missing or is of an older release.
        """
        path = evaluation.resolve()
        if path not in self._baselines:
            self._baselines[path] = Baseline(
                evaluation=read_artifact(evaluation, Evaluation),
                predictions=read_predictions(predictions_path(evaluation)),
            )
        return self._baselines[path]

    def _once(
        self, loaded: Loaded, what: tuple[object, ...], make: Callable[[], list[Batch]]
    ) -> list[Batch]:
        key = (*what, loaded.task, loaded.max_tokens, _processor_key(loaded))
        if key not in self._batches:
            self._batches[key] = make()
        return self._batches[key]


def predictions_path(evaluation: Path) -> Path:
    """Where the predictions behind an evaluation are kept."""
    return evaluation.with_suffix(".predictions.safetensors")


def _processor_key(loaded: Loaded) -> str:
    """What says that two models read samples alike: the contents of their processors' files."""
    directory = Path(loaded.spec.model)
    sha = hashlib.sha256(f"{loaded.spec.model}@{loaded.spec.revision}".encode())
    if directory.is_dir() and loaded.spec.gguf_file is None:
        files = {path for pattern in _PROCESSOR_FILES for path in directory.glob(pattern)}
        sha = hashlib.sha256()
        for path in sorted(file for file in files if file.is_file()):
            sha.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()
