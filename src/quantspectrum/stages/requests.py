"""What a stage is asked: which samples, which ops, how to score, measure and treat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from quantspectrum.artifacts import (
    Record,
)
from quantspectrum.data.encode import Batch, encode_for
from quantspectrum.data.prompts import load_prompts
from quantspectrum.data.sample import Sample
from quantspectrum.data.splits import Splits, make_splits
from quantspectrum.errors import UserError
from quantspectrum.evaluate.latency import LatencyPlan
from quantspectrum.evaluate.noise import Noise
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable, list_ops

__all__ = [
    "Base",
    "DataRequest",
    "MeasuringRequest",
    "OpsRequest",
    "Progress",
    "ScoringRequest",
    "TreatmentOptions",
]

Base = Literal["isolate", "fallback"]

Progress = Callable[[int], Callable[[], None]]
"""Given the number of steps, returns what is called after each."""


class DataRequest(Record):
    """Which samples to draw; the three sets are disjoint.

    Attributes:
        data: Data specs; none means the built-in synthetic scenes, for models that see images.
        images: Folder of the pictures a COCO file names.
        calibration: Samples that set static input ranges.
        samples: Samples the sensitivities are measured on.
        eval_samples: Samples the final figures are measured on.
        prompts: YAML or JSONL file of prompts; none means the built-in ones.
        batch_size: Samples a forward pass.
        max_length: Longest sample, in tokens.
        max_new_tokens: Longest answer, in tokens.
        seed: Seed of the draw.
    """

    data: tuple[str, ...] = ()
    images: str | None = None
    calibration: int = 32
    samples: int = 32
    eval_samples: int = 64
    prompts: str | None = None
    batch_size: int = 8
    max_length: int = 1024
    max_new_tokens: int = 48
    seed: int = 0

    def specs(self, takes_images: bool) -> tuple[str, ...]:
        """The data specs, with the built-in scenes where none are given.

        Raises:
            UserError: None are given for a model that takes text alone.
        """
        if self.data:
            return self.data
        if takes_images:
            return ("demo",)
        raise UserError("no data: give --data, such as --data text:FILE, coco:FILE or images:DIR")

    def splits(self, takes_images: bool) -> Splits:
        """Draw the three sets."""
        return make_splits(
            self.specs(takes_images),
            images=Path(self.images) if self.images is not None else None,
            calibration=self.calibration,
            selection=self.samples,
            evaluation=self.eval_samples,
            seed=self.seed,
        )

    def encode(
        self, loaded: Loaded, samples: Sequence[Sample], *, batch_size: int | None = None
    ) -> list[Batch]:
        """Batches of samples, of another size where one is given."""
        size = self.batch_size if batch_size is None else batch_size
        return encode_for(loaded, samples, batch_size=size, max_length=self.max_length)

    def prompt_samples(self, takes_images: bool) -> list[Sample]:
        """The prompts to answer: the user's, the demo's own, or the built-in set."""
        if self.prompts is None and self.data == ("demo",):
            from quantspectrum.demo import demo_prompts

            return demo_prompts()
        path = Path(self.prompts) if self.prompts is not None else None
        return load_prompts(path, images=takes_images)


class MeasuringRequest(Record):
    """What is measured of a model besides its loss, and how.

    Attributes:
        latency_batch_sizes: Batch sizes to time; none is a choice by device and kernel.
        latency_prompt_tokens: Lengths of prompts to time, likewise.
        noise: Ways the baseline is run again; ``None`` is all that the device has.
        benchmarks: Tasks of harnesses, ``lm-eval:NAME`` or ``lmms-eval:NAME``.
        benchmark_limit: Questions of each task at most.
        benchmark_tasks: Folder of task files of the user's own.
        runners: Libraries that time the model too.
    """

    latency_batch_sizes: tuple[int, ...] = ()
    latency_prompt_tokens: tuple[int, ...] = ()
    noise: tuple[Noise, ...] | None = None
    benchmarks: tuple[str, ...] = ()
    benchmark_limit: int | None = None
    benchmark_tasks: str | None = None
    runners: tuple[str, ...] = ()

    def latency(self) -> LatencyPlan | None:
        """The plan that was asked for."""
        if not self.latency_batch_sizes and not self.latency_prompt_tokens:
            return None
        own = LatencyPlan()
        return LatencyPlan(
            batch_sizes=self.latency_batch_sizes or own.batch_sizes,
            prompt_tokens=self.latency_prompt_tokens or own.prompt_tokens,
        )


class OpsRequest(Record):
    """Which ops are candidates; see :func:`quantspectrum.models.ops.list_ops`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    type: tuple[str, ...] = ("Linear",)

    def table(self, loaded: Loaded) -> OpTable:
        """The model's ops, candidates and others."""
        return list_ops(
            loaded.model,
            loaded.layout,
            include=self.include,
            exclude=self.exclude,
            types=self.type,
        )


class ScoringRequest(Record):
    """How to score ops; see :class:`quantspectrum.sensitivity.measurement.NativeRequest`.

    Attributes:
        metric: Metrics, one report each; the first makes spectra.
        format: Presets tried on every op, one report each; the first makes spectra.
        attribute: Measure the parts of weights and activations too.
        max_ops: Measure no more ops than this.
        time_budget: Seconds to measure for.
        confidence_batches: Use the first so many batches only.
        rescore: Groups to restore for a second ranking.
        memory_limit: Bytes of captured tensors on the device.
        slots: Ops replayed together; ``None`` finds out.
        probes: Random probes of ``hawq_v2`` a batch.
    """

    metric: tuple[str, ...] = ("mse_v2",)
    format: tuple[str, ...] = ("w8a8",)
    attribute: bool = False
    max_ops: int | None = None
    time_budget: float | None = None
    confidence_batches: int | None = None
    rescore: int = 0
    memory_limit: int | None = None
    slots: int | None = None
    probes: int = 8

    def report_paths(self, out: Path) -> dict[tuple[str, str], Path]:
        """For each metric and format its report's path: ``out``, or named after them beside it."""
        paths = {}
        for metric in self.metric:
            for fmt in self.format:
                parts = [out.stem]
                parts += [metric] if len(self.metric) > 1 else []
                parts += [fmt] if len(self.format) > 1 else []
                paths[metric, fmt] = out.with_name(".".join(parts) + out.suffix)
        return paths


class TreatmentOptions(Record):
    """What llm-compressor does before a variant is written; see :mod:`.backends.treatment`.

    Attributes:
        transform: ``smoothquant``, or none.
        algorithm: ``rtn`` rounds each weight to the nearest number, ``gptq`` makes up for errors.
        strength: SmoothQuant's alpha.
    """

    transform: Literal["smoothquant"] | None = None
    algorithm: Literal["rtn", "gptq"] = "rtn"
    strength: float = 0.5

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return self.transform is not None or self.algorithm != "rtn"
