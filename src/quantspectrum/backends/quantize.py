"""The quantize stage: a profile becomes a checkpoint that has been loaded back and compared."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from quantspectrum.artifacts import Manifest, Spectrum, Verification, write_artifact
from quantspectrum.backends import Backend, backend_named
from quantspectrum.backends.checkpoint import staged_directory
from quantspectrum.data.encode import Batch, encode_for
from quantspectrum.data.probe import probe_samples
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded, check_unquantized, load_model
from quantspectrum.models.outputs import run_model
from quantspectrum.models.placement import is_offloaded
from quantspectrum.provenance import Stopwatch
from quantspectrum.simulation import OpPlan, Simulation

__all__ = ["MAX_RELATIVE_L2", "plans_of", "quantize_profile", "relative_l2"]

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


def plans_of(spectrum: Spectrum, profile_name: str, loaded: Loaded) -> dict[str, OpPlan]:
    """Per-op plans of a profile, checked against the model they are for.

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
        input_range = spectrum.input_range(op, name)
        if fmt.needs_calibration and input_range is None:
            raise UserError(f"profile {profile_name}: {op} has no calibrated input range")
        plans[op] = OpPlan(
            format=fmt,
            input_range=input_range,
            scale_dtype=loaded.storage_dtype,
        )
    return plans


def quantize_profile(
    loaded: Loaded,
    spectrum: Spectrum,
    profile_name: str,
    out: Path,
    *,
    spectrum_sha256: str,
    backend_name: str = "compressed-tensors",
) -> Manifest:
    """Write a profile's variant to the directory ``out``, with its ``manifest.json``.

    The directory appears under its name only after the checkpoint in it was loaded back by
    transformers, its quantized tensors were counted and its logits compared.

    Raises:
        UserError: The profile does not fit the model or the backend, the model's weights are
            offloaded, ``out`` exists, the disk is full, or what was loaded back is not what was simulated.
    """
    watch = Stopwatch(loaded.device)
    check_unquantized(loaded)
    if is_offloaded(loaded.model):
        raise UserError(
            "weights are offloaded, and a variant could not be loaded back like that to check it; "
            "quantize with --device cpu, or with a device map of GPUs alone"
        )
    backend = backend_named(backend_name)
    plans = plans_of(spectrum, profile_name, loaded)
    backend.check_plans(loaded, plans)
    needed = backend.predicted_bytes(loaded, plans)
    with staged_directory(out, int(needed * 1.02) + 2**24) as stage:
        backend.write(loaded, plans, stage)
        verification = _verify(backend, loaded, plans, stage)
        files = {p.name: p.stat().st_size for p in sorted(stage.iterdir()) if p.is_file()}
        manifest = Manifest(
            profile=spectrum.profile(profile_name),
            backend=backend.NAME,
            formats=spectrum.formats,
            spectrum_sha256=spectrum_sha256,
            provenance=watch.provenance(loaded.identity),
            files=files,
            total_bytes=sum(files.values()),
            baseline_bytes=backend.predicted_bytes(loaded, {}),
            quantized_weight_bytes=_weight_bytes(loaded, plans),
            verification=verification,
        )
        write_artifact(stage / "manifest.json", manifest)
    return manifest


def _weight_bytes(loaded: Loaded, plans: Mapping[str, OpPlan]) -> int:
    return sum(
        loaded.model.get_parameter(f"{op}.weight").numel() * plan.format.weight.bits // 8
        for op, plan in plans.items()
    )


def _verify(
    backend: Backend, loaded: Loaded, plans: Mapping[str, OpPlan], directory: Path
) -> Verification:
    counted = backend.count_quantized(directory)
    if counted != len(plans):
        raise UserError(
            f"{directory} holds {counted} quantized weights where {len(plans)} were planned; "
            "this is a fault of the backend: please report it"
        )
    probe = _simulate(backend, loaded, plans)
    spec = replace(
        loaded.spec,
        model=str(directory),
        revision=None,
        gguf_file=None,
        dtype=loaded.identity.dtype,
        device=str(loaded.device),
    )
    reloaded = load_model(spec)
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
    return Verification(
        relative_l2=worst,
        bound=MAX_RELATIVE_L2,
        loader="transformers",
        quantized_tensors=counted,
    )


def _simulate(backend: Backend, loaded: Loaded, plans: Mapping[str, OpPlan]) -> _Probe:
    batches = encode_for(loaded, _probe_samples(loaded), batch_size=1)
    with Simulation(loaded.model, plans, backend.loader_input_quantizer) as simulation:
        simulation.activate_all()
        return _Probe(batches=batches, logits=[_logits(loaded, batch) for batch in batches])


def _probe_samples(loaded: Loaded) -> list[Sample]:
    samples = probe_samples(loaded.takes_images or not loaded.takes_text)
    return samples if loaded.takes_text else [s for s in samples if s.image is not None]


@torch.inference_mode()
def _logits(loaded: Loaded, batch: Batch) -> Tensor:
    return run_model(loaded.model, batch.to(loaded.device).inputs).float().cpu()


def relative_l2(found: Tensor, expected: Tensor) -> float:
    """``||found - expected|| / ||expected||`` over all elements, in float64."""
    difference = (found.double() - expected.double()).norm()
    return float(difference / expected.double().norm())
