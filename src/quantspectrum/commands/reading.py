"""What commands share: reading their options, showing their records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quantspectrum.artifacts import Artifact, SensitivityReport, check_writable
from quantspectrum.errors import UserError

if TYPE_CHECKING:
    from quantspectrum.models.lazy import LazyModel
    from quantspectrum.models.loading import Loaded, ModelSpec
    from quantspectrum.stages import DataRequest, MeasuringRequest, OpsRequest, ScoringRequest

__all__ = [
    "bases_of",
    "coverage_line",
    "data_request",
    "json_path",
    "load",
    "load_evaluated",
    "measuring_request",
    "open_files",
    "ops_request",
    "scoring_request",
    "show",
    "spec_fields",
    "tell_loose_limits",
]

DONE, INCOMPLETE = 0, 3

Args = argparse.Namespace


def show(args: Args, record: Artifact, text: str) -> None:
    """Print the record as JSON where asked to, otherwise the text."""
    print(record.model_dump_json(indent=1) if args.json else text)


def json_path(text: str) -> Path:
    """The path to write a record to.

    Raises:
        UserError: Its name does not end in ``.json``, or no file can be written there.
    """
    path = Path(text)
    if path.suffix != ".json":
        raise UserError(f"--out {text}: the file's name must end in .json")
    check_writable(path)
    return path


def coverage_line(report: Any) -> str:
    """One sentence that a report is incomplete, and why."""
    skipped = len(report.coverage.skipped)
    why = report.stopped_by or "reasons are in the report"
    estimated = report.coverage.estimated
    told = f", {estimated} of them estimated" if estimated else ""
    return (
        f"quantspectrum: INCOMPLETE: {report.lens}, {report.coverage.scored} of "
        f"{report.coverage.found} ops scored{told}, {skipped} skipped ({why})"
    )


def tell_loose_limits(args: Args, report: SensitivityReport) -> None:
    """Say on stderr which limits of a scan limited nothing."""
    scanned = report.coverage.found - len(report.coverage.kept)
    drawn = sum(data.samples for data in report.provenance.data if data.split == "selection")
    used = max((op.n for op in report.ops), default=0)
    loose = []
    if args.max_ops is not None and args.max_ops >= scanned:
        loose.append(f"--max-ops {args.max_ops} limited nothing: there are {scanned} candidates")
    if args.confidence_batches is not None and used >= drawn:
        loose.append(
            f"--confidence-batches {args.confidence_batches} limited nothing: all {drawn} samples were used"
        )
    for sentence in loose:
        print(f"quantspectrum: note: {sentence}", file=sys.stderr)


def spec_fields(args: Args) -> dict[str, Any]:
    """The options that say what model to load, and how."""
    names = (
        *("model", "revision", "gguf_file", "dtype", "device", "device_map", "offload_folder"),
        "trust_remote_code",
    )
    return {name: getattr(args, name) for name in names}


def load(args: Args) -> Loaded:
    """Load the model that the options name."""
    from quantspectrum.models.loading import ModelSpec, load_model

    spec: ModelSpec = ModelSpec(**spec_fields(args))
    return load_model(spec)


def load_evaluated(args: Args) -> Loaded:
    """Load what is to be evaluated, an ONNX variant too, after a look at what it will be run by.

    Raises:
        UserError: It cannot be loaded, or a runner asked for is not here or does not run it.
    """
    from quantspectrum.evaluate.onnx_model import is_onnx_variant, load_onnx_variant
    from quantspectrum.evaluate.runners import check_runners
    from quantspectrum.models.loading import ModelSpec

    spec = ModelSpec(**spec_fields(args))
    check_runners(args.runner or (), spec)
    return load_onnx_variant(spec) if is_onnx_variant(spec.model) else load(args)


def open_files(args: Args) -> LazyModel:
    """Find the tensors of the model that the options name, without loading it."""
    from quantspectrum.models.lazy import open_model
    from quantspectrum.models.loading import ModelSpec

    return open_model(ModelSpec(**spec_fields(args)))


def data_request(args: Args) -> DataRequest:
    """The options that say which samples to draw."""
    from quantspectrum.stages import DataRequest

    return DataRequest(
        data=tuple(args.data or ()),
        images=args.images,
        calibration=args.calibration,
        samples=args.samples,
        eval_samples=args.eval_samples,
        batch_size=args.batch_size,
        max_length=args.max_length,
        seed=args.seed,
        # Not every command answers anything.
        **{name: getattr(args, name) for name in ("prompts", "max_new_tokens") if name in args},
    )


def measuring_request(args: Args) -> MeasuringRequest:
    """The options that say what is measured besides the loss.

    Raises:
        UserError: ``none`` is given among noise floors.
    """
    from quantspectrum.stages import MeasuringRequest

    noise = None if args.noise_floor is None else tuple(dict.fromkeys(args.noise_floor))
    if noise is not None and "none" in noise:
        if len(noise) > 1:
            raise UserError("--noise-floor none goes with no other; leave one of them out")
        noise = ()
    return MeasuringRequest(
        latency_batch_sizes=tuple(args.latency_batch_size or ()),
        latency_prompt_tokens=tuple(args.latency_prompt_tokens or ()),
        noise=noise,
        benchmarks=tuple(args.benchmark or ()),
        benchmark_limit=args.benchmark_limit,
        benchmark_tasks=args.benchmark_tasks,
        runners=tuple(dict.fromkeys(args.runner or ())),
    )


def ops_request(args: Args) -> OpsRequest:
    """The options that say which ops are candidates."""
    from quantspectrum.stages import OpsRequest

    return OpsRequest(
        include=tuple(args.include or ()),
        exclude=tuple(args.exclude or ()),
        type=tuple(args.type or ("Linear",)),
    )


def bases_of(args: Args) -> list[Literal["isolate", "fallback"]]:
    """The bases asked for, each once.

    Raises:
        UserError: A second ranking is wanted without the base it is made from.
    """
    bases = list(dict.fromkeys(args.base or ["isolate"]))
    if args.rescore and "fallback" not in bases:
        raise UserError("--rescore ranks again from base fallback; give --base fallback")
    return bases


def scoring_request(args: Args) -> ScoringRequest:
    """The options that say what is scored, and how."""
    from quantspectrum.stages import ScoringRequest
    from quantspectrum.units import parse_bytes, parse_seconds

    return ScoringRequest(
        metric=tuple(dict.fromkeys(args.metric or ["mse_v2"])),
        format=tuple(dict.fromkeys(args.format or ["w8a8"])),
        attribute=args.attribute,
        max_ops=args.max_ops,
        time_budget=parse_seconds(args.time_budget) if args.time_budget else None,
        confidence_batches=args.confidence_batches,
        rescore=args.rescore,
        memory_limit=parse_bytes(args.memory_limit) if args.memory_limit else None,
        slots=args.slots,
        probes=args.probes,
    )
