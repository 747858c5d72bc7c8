"""The evaluate stage: one model or variant, everything that is measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantspectrum import backends
from quantspectrum.artifacts import DataIdentity, Evaluation, Manifest, Resources, read_artifact
from quantspectrum.backends.serving import serving_arithmetic
from quantspectrum.data.encode import Batch, encode_for
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.divergence import (
    Predictions,
    read_predictions,
    write_predictions,
)
from quantspectrum.evaluate.generation import measure_accuracy, run_prompts
from quantspectrum.evaluate.latency import measure_latency
from quantspectrum.evaluate.loss import measure_loss
from quantspectrum.models.loading import Loaded
from quantspectrum.provenance import Stopwatch

__all__ = ["EvaluationRequest", "check_evaluable", "evaluate_model", "manifest_of"]


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to measure a model on.

    Attributes:
        samples: Held-out samples: the loss is measured on all of them, exact match on those
            with references.
        prompts: Prompts whose answers are shown; none for a model that writes none.
        data: Identities of samples and prompts.
        label: Name shown in reports.
        batch_size: Samples a forward pass.
        max_length: Longest sample, in tokens; ``None`` is no limit.
        max_new_tokens: Longest answer.
        latency_batch_sizes: Batch sizes timed.
        seed: Seed the data was drawn with, for the record.
        baseline: The baseline's predictions, to measure the KL divergence from.
        keep: Where to keep this model's predictions, for others to be measured against.
    """

    samples: Sequence[Sample]
    prompts: Sequence[Sample]
    data: tuple[DataIdentity, ...]
    label: str
    batch_size: int = 8
    max_length: int | None = None
    max_new_tokens: int = 48
    latency_batch_sizes: tuple[int, ...] = (1,)
    seed: int = 0
    baseline: Path | None = None
    keep: Path | None = None


def evaluate_model(loaded: Loaded, request: EvaluationRequest, *, load_s: float) -> Evaluation:
    """Measure one model; a variant's activations are quantized as serving engines do it.

    Args:
        loaded: The baseline, or a variant loaded back from its directory.
        request: What to measure it on.
        load_s: How long loading took.

    Raises:
        UserError: The model is of a kind that has no loss on a text.
    """
    check_evaluable(loaded)
    watch = Stopwatch(loaded.device)
    manifest = manifest_of(Path(loaded.spec.model))
    batches = encode_for(
        loaded,
        request.samples,
        batch_size=request.batch_size,
        max_length=request.max_length,
    )
    with serving_arithmetic(loaded.model):
        return _measure(loaded, request, load_s, watch, manifest, batches)


def check_evaluable(loaded: Loaded) -> None:
    """Make sure that there is a loss to evaluate.

    Raises:
        UserError: The model neither writes text nor tells masked tokens.
    """
    if not loaded.generates and loaded.task != "masked-lm":
        raise UserError(
            f"{loaded.spec.model} is a model for {loaded.task}, and evaluation is supported for "
            "language models, masked ones included; `quantspectrum sensitivity`, `spectrum` and "
            "`quantize` work for it"
        )


def _measure(
    loaded: Loaded,
    request: EvaluationRequest,
    load_s: float,
    watch: Stopwatch,
    manifest: Manifest | None,
    batches: Sequence[Batch],
) -> Evaluation:
    kept: list[tuple[str, Predictions]] = []
    loss = measure_loss(
        loaded,
        batches,
        baseline=read_predictions(request.baseline) if request.baseline is not None else None,
        keep=(lambda sample, made: kept.append((sample, made))) if request.keep else None,
    )
    if request.keep is not None:
        write_predictions(request.keep, kept)
    return Evaluation(
        label=request.label,
        profile=manifest.profile.name if manifest is not None else None,
        loss=loss,
        accuracy=measure_accuracy(
            loaded,
            request.samples,
            batch_size=request.batch_size,
            max_new_tokens=request.max_new_tokens,
        )
        if loaded.generates
        else None,
        prompts=run_prompts(loaded, request.prompts, max_new_tokens=request.max_new_tokens),
        resources=Resources(
            disk_bytes=_weight_file_bytes(loaded),
            load_s=load_s,
            kernel="native" if _quantization(loaded) is None else "emulated",
            latency=tuple(
                measure_latency(loaded, batch_size=size)
                for size in (request.latency_batch_sizes if loaded.generates else ())
            ),
        ),
        provenance=watch.provenance(loaded.identity, request.data, seed=request.seed),
    )


def manifest_of(directory: Path) -> Manifest | None:
    """The manifest of a variant's directory; ``None`` for any other model."""
    path = directory / "manifest.json"
    return read_artifact(path, Manifest) if path.is_file() else None


def _quantization(loaded: Loaded) -> object:
    return getattr(loaded.config, "quantization_config", None) if not _is_gguf(loaded) else None


def _is_gguf(loaded: Loaded) -> bool:
    return loaded.spec.gguf_file is not None


def _weight_file_bytes(loaded: Loaded) -> int:
    """Bytes of the weight files; where they are not at hand, of the same weights written out."""
    files = list(Path(loaded.spec.model).glob("*.safetensors"))
    if files and not _is_gguf(loaded):
        return sum(file.stat().st_size for file in files)
    return backends.BACKENDS["compressed-tensors"].predicted_bytes(loaded, {})
