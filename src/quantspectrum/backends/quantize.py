"""The quantize stage: a profile becomes a checkpoint that has been loaded back and compared."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from quantspectrum.artifacts import Manifest, Spectrum, Treatment, Verification, write_artifact
from quantspectrum.backends import Backend, backend_named
from quantspectrum.backends.checkpoint import staged_directory
from quantspectrum.backends.verify import check_schemes, check_tensors, skeleton_of
from quantspectrum.backends.weights import Scales, Source
from quantspectrum.data.encode import Batch, encode_for
from quantspectrum.data.probe import probe_samples
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded, check_unquantized, load_model
from quantspectrum.models.outputs import run_model
from quantspectrum.models.placement import is_offloaded
from quantspectrum.provenance import Stopwatch
from quantspectrum.serving.notes import serving_notes
from quantspectrum.simulation import OpPlan, Simulation

__all__ = [
    "MAX_RELATIVE_L2",
    "Treated",
    "plans_of",
    "probe_logits",
    "quantize_profile",
    "relative_l2",
]

MAX_RELATIVE_L2 = 1e-2
"""Largest accepted distance between a reloaded variant's logits and the simulated ones.

The two are equal bit for bit where both run the same kernels; what is left is for a matrix
product that adds in another order, and it lies far under the distance that one op with a wrong
scale makes.
"""


@dataclass(frozen=True, kw_only=True)
class _Probe:
    batches: list[Batch]
    logits: list[Tensor]


@dataclass(frozen=True, kw_only=True)
class Treated:
    """A model as another framework left it.

    Attributes:
        loaded: The model with its new weights.
        scales: Scales of the weights that lie on a grid already.
        input_ranges: Input ranges of the ops, calibrated again; ``None``: the spectrum's.
        record: What was done.
    """

    loaded: Loaded
    scales: Scales
    input_ranges: Mapping[str, tuple[float, float]] | None
    record: Treatment


def plans_of(
    spectrum: Spectrum,
    profile_name: str,
    loaded: Source,
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, OpPlan]:
    """Per-op plans of a profile, checked against the model they are for.

    ``input_ranges`` replace the spectrum's, where they are given.

    Raises:
        UserError: The spectrum is of other weights, or names an op the model lacks or a format
            or range it does not define.
    """
    profile = spectrum.profile(profile_name)
    if spectrum.model.weights_fingerprint != loaded.identity.weights_fingerprint:
        raise UserError(
            f"the spectrum was made for {spectrum.model.id} in {spectrum.model.dtype}; the weights "
            f"of {loaded.identity.id} in {loaded.identity.dtype} differ: make a spectrum of them"
        )
    modules = dict(loaded.model.named_modules())
    plans: dict[str, OpPlan] = {}
    for op, name in profile.ops.items():
        if op not in modules:
            raise UserError(f"profile {profile_name}: the model has no op {op!r}")
        if name not in spectrum.formats:
            raise UserError(f"profile {profile_name}: format {name!r} of {op} is not defined")
        fmt = spectrum.formats[name]
        input_range = (
            spectrum.input_range(op, name) if input_ranges is None else input_ranges.get(op)
        )
        if fmt.needs_calibration and input_range is None:
            raise UserError(f"profile {profile_name}: {op} has no calibrated input range")
        plans[op] = OpPlan(
            format=fmt,
            input_range=input_range,
            scale_dtype=loaded.storage_dtype,
        )
    return plans


def quantize_profile(
    source: Source,
    spectrum: Spectrum,
    profile_name: str,
    out: Path,
    *,
    spectrum_sha256: str,
    backend_name: str = "compressed-tensors",
    treated: Treated | None = None,
) -> Manifest:
    """Write a profile's variant to the directory ``out``, with its ``manifest.json``.

    The directory appears under its name only after the checkpoint in it was read back: every
    tensor on disk is compared with what was planned, the configuration is applied to the model as
    the loader does it, and, where the source is a model in memory, the variant is loaded by
    transformers and its logits are compared with the simulated ones.

    Args:
        source: The model, or one whose weights stay in its files.
        spectrum: A spectrum of it.
        profile_name: One of its profiles.
        out: Directory to make.
        spectrum_sha256: Hash of the spectrum's file.
        backend_name: What writes the variant.
        treated: The model as another framework left it, to be quantized in place of ``source``.

    Raises:
        UserError: The profile does not fit the model or the backend, the model's weights are
            offloaded, ``out`` exists, the disk is full, or what was read back is not what was
            planned.
    """
    watch = Stopwatch(source.device)
    if isinstance(source, Loaded):
        _check_in_memory(source)
    backend = backend_named(backend_name)
    plans = plans_of(spectrum, profile_name, source, treated.input_ranges if treated else None)
    backend.check_plans(source, plans)
    scales = treated.scales if treated else None
    quantized = treated.loaded if treated else source
    needed = backend.predicted_bytes(quantized, plans)
    with staged_directory(out, int(needed * 1.02) + 2**24) as stage:
        backend.write(quantized, plans, stage, scales)
        verification = _verify(backend, quantized, plans, stage, scales)
        files = {p.name: p.stat().st_size for p in sorted(stage.iterdir()) if p.is_file()}
        manifest = Manifest(
            profile=spectrum.profile(profile_name),
            backend=backend.NAME,
            formats=spectrum.formats,
            spectrum_sha256=spectrum_sha256,
            provenance=watch.provenance(source.identity),
            files=files,
            total_bytes=sum(files.values()),
            baseline_bytes=backend.predicted_bytes(source, {}),
            quantized_weight_bytes=_weight_bytes(source, plans),
            verification=verification,
            treatment=treated.record if treated else None,
            serving=serving_notes(stage),
        )
        write_artifact(stage / "manifest.json", manifest)
    return manifest


def _check_in_memory(loaded: Loaded) -> None:
    check_unquantized(loaded)
    if is_offloaded(loaded.model):
        raise UserError(
            "weights are offloaded, and a variant could not be loaded back like that to check it; "
            "quantize with --stream, which loads nothing, with --device cpu, or with a device map "
            "of GPUs alone"
        )


def _weight_bytes(source: Source, plans: Mapping[str, OpPlan]) -> int:
    """Bytes of the codes on disk, where 4-bit ones with quantized activations take a whole one."""
    return sum(
        source.model.get_parameter(f"{op}.weight").numel()
        * (plan.format.weight.bits if plan.format.activation is None else 8)
        // 8
        for op, plan in plans.items()
    )


def _verify(
    backend: Backend,
    source: Source,
    plans: Mapping[str, OpPlan],
    directory: Path,
    scales: Scales | None,
) -> Verification:
    findings = check_tensors(directory, source, plans, scales)
    worst = None
    if isinstance(source, Loaded):
        worst = _compare_logits(backend, source, plans, directory, scales)
    else:
        check_schemes(skeleton_of(directory, source), plans)
    return Verification(
        compared=("tensors",) if worst is None else ("tensors", "logits"),
        relative_l2=worst,
        bound=MAX_RELATIVE_L2,
        loader="transformers",
        quantized_tensors=findings.quantized_tensors,
        counts=findings.counts,
        predicted_bytes=findings.predicted_bytes,
        tensor_bytes=findings.tensor_bytes,
    )


def _compare_logits(
    backend: Backend,
    loaded: Loaded,
    plans: Mapping[str, OpPlan],
    directory: Path,
    scales: Scales | None,
) -> float:
    """Load the variant back; relative L2 of its logits to the simulated ones, at worst."""
    probe = _simulate(backend, loaded, plans, scales)
    spec = replace(
        loaded.spec,
        model=str(directory),
        revision=None,
        gguf_file=None,
        dtype=loaded.identity.dtype,
        device=str(loaded.device),
    )
    reloaded = load_model(spec)
    check_schemes(reloaded.model, plans)
    distances = [
        relative_l2(_logits(reloaded, batch), expected)
        for batch, expected in zip(probe.batches, probe.logits, strict=True)
    ]
    # The reloaded model refers to itself, so that leaving this function does not free it.
    del reloaded
    gc.collect()
    worst = max(distances)
    # A comparison with NaN is false, so that NaN fails here too.
    if not worst <= MAX_RELATIVE_L2:
        raise UserError(
            f"the variant loaded back differs from the simulated one: relative L2 {worst:.2e}, "
            f"bound {MAX_RELATIVE_L2:.0e}; it was not kept"
        )
    return worst


def _simulate(
    backend: Backend, loaded: Loaded, plans: Mapping[str, OpPlan], scales: Scales | None
) -> _Probe:
    batches = encode_for(loaded, _probe_samples(loaded), batch_size=1)
    with Simulation(loaded.model, plans, backend.loader_input_quantizer) as simulation:
        # Weights that lie on a grid already are what they are quantized to.
        simulation.activate(plans, dict.fromkeys(scales or {}, "activation"))
        return _Probe(batches=batches, logits=[_logits(loaded, batch) for batch in batches])


def probe_logits(loaded: Loaded) -> list[Tensor]:
    """Logits of a model, as it is, on the samples that variants are compared on."""
    batches = encode_for(loaded, _probe_samples(loaded), batch_size=1)
    return [_logits(loaded, batch) for batch in batches]


def _probe_samples(loaded: Loaded) -> list[Sample]:
    samples = probe_samples(loaded.takes_images or not loaded.takes_text)
    return samples if loaded.takes_text else [s for s in samples if s.image is not None]


@torch.inference_mode()
def _logits(loaded: Loaded, batch: Batch) -> Tensor:
    return run_model(loaded.model, batch.to(loaded.device).inputs)


def relative_l2(found: Tensor, expected: Tensor) -> float:
    """``||found - expected|| / ||expected||`` over all elements, in float64."""
    expected = expected.to(found.device, torch.float64)
    return float((found.double() - expected).norm() / expected.norm())
