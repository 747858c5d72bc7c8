"""Models that give a sample a class: what the right class is, and how often it is told.

A sample counts as one token, and its class as the token to predict. Where every sample names its
class (``answer`` or ``references``), that is the right one. Where none does, it is the class that
the baseline takes: loss and Δp then say how sure a model is of the baseline's classes, and nothing
of their being right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from quantspectrum.artifacts import Accuracy
from quantspectrum.data.encode import Batch
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.generation import normalize
from quantspectrum.evaluate.predictions import Predictions
from quantspectrum.evaluate.statistics import mean_with_stderr
from quantspectrum.models.loading import Loaded
from quantspectrum.models.outputs import run_model

__all__ = ["class_logits", "classes_of", "judge_classes", "why_no_classes"]


def why_no_classes(loaded: Loaded) -> str | None:
    """Why a classifier's outputs are no distribution over classes; ``None`` where they are."""
    problem = getattr(loaded.config, "problem_type", None)
    if problem == "regression" or loaded.config.num_labels == 1:
        return "it gives a number and not a class"
    if problem == "multi_label_classification":
        return "it gives each sample several classes"
    return None


def classes_of(loaded: Loaded, samples: Sequence[Sample]) -> dict[str, int] | None:
    """Class of each sample by its id; ``None`` where no sample names any.

    A reference names a class by its name in the configuration's ``id2label``, as exact match
    compares texts, or by its number. A name comes before a number that is written like it.

    Raises:
        UserError: Some samples name a class, and one names none; or a name is of several classes.
    """
    labels = {int(index): str(name) for index, name in loaded.config.id2label.items()}
    numbers: dict[str, list[int]] = {}
    for index, name in labels.items():
        numbers.setdefault(normalize(name), []).append(index)
    meant = {str(index): [index] for index in labels} | numbers
    found = {sample.id: _class_of(sample, meant) for sample in samples}
    known = {name: index for name, index in found.items() if index is not None}
    if not known:
        return None
    if lacking := [sample for sample in samples if sample.id not in known]:
        told = ", ".join(map(repr, lacking[0].references)) or "nothing"
        raise UserError(
            f"sample {lacking[0].id} names no class of this model (its answer is {told}), and "
            f"{len(known)} others do; give all samples the name or number of a class, or none"
        )
    return known


def _class_of(sample: Sample, meant: Mapping[str, list[int]]) -> int | None:
    """The class that the first reference to any names."""
    for reference in sample.references:
        classes = meant.get(normalize(reference), [])
        if len(classes) > 1:
            raise UserError(
                f"sample {sample.id}: {reference!r} is the name of the classes "
                f"{', '.join(map(str, classes))} of this model; give its number"
            )
        if classes:
            return classes[0]
    return None


def class_logits(
    loaded: Loaded,
    batch: Batch,
    classes: Mapping[str, int] | None,
    baseline: Predictions | None,
) -> tuple[Tensor, Tensor]:
    """Logits ``(samples, classes)`` of a batch, and the right class of each sample.

    Args:
        loaded: A classifier.
        batch: Samples, each predicted whole.
        classes: Class of each sample, where they are known.
        baseline: The baseline's predictions, whose classes are the right ones else; its own are
            for the baseline itself.
    """
    logits = run_model(loaded.model, batch.to(loaded.device).inputs)
    if classes is not None:
        ids = torch.tensor([classes[name] for name in batch.sample_ids])
    elif baseline is not None:
        ids = torch.cat([baseline.targets[baseline.rows(name)] for name in batch.sample_ids])
    else:
        ids = logits.argmax(-1)
    return logits, ids.to(logits.device, torch.long)


def judge_classes(
    loaded: Loaded, predictions: Predictions, classes: Mapping[str, int] | None
) -> Accuracy | None:
    """Share of samples whose likeliest class is the right one; ``None`` where that is not known."""
    if classes is None:
        return None
    names = loaded.config.id2label
    first = {
        name: int(predictions.tokens[predictions.rows(name)][0, 0]) for name in predictions.samples
    }
    correct = {name: index == classes[name] for name, index in first.items()}
    exact, stderr = mean_with_stderr([float(right) for right in correct.values()])
    answers = {name: str(names.get(index, index)) for name, index in first.items()}
    return Accuracy(exact=exact, stderr=stderr, correct=correct, answers=answers)
