"""The stage ``quantize``: from a spectrum to the checkpoint of one of its profiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from quantspectrum.artifacts import (
    Manifest,
    Spectrum,
    read_artifact,
    sha256_file,
)
from quantspectrum.backends.frameworks import check_backend, isolated_named, write_variant
from quantspectrum.backends.quantize import quantize_profile
from quantspectrum.backends.treatment import TreatmentRequest, treat
from quantspectrum.data.splits import identity
from quantspectrum.errors import UserError
from quantspectrum.models.lazy import LazyModel
from quantspectrum.models.loading import Loaded
from quantspectrum.stages.requests import (
    DataRequest,
    Progress,
    TreatmentOptions,
)

__all__ = ["quantize"]


def quantize(
    source: Loaded | LazyModel,
    spectrum_path: Path,
    profile: str,
    out: Path,
    *,
    backend: str,
    treatment: TreatmentOptions | None = None,
    data: DataRequest | None = None,
    say: Callable[[str], None] | None = None,
    options: Sequence[str] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Write the variant of one profile to the directory ``out``.

    Args:
        source: The model, or one whose weights stay in its files.
        spectrum_path: A spectrum of it.
        profile: One of its profiles.
        out: Directory to make.
        backend: What writes it.
        treatment: What llm-compressor does to the weights first.
        data: Which samples it, or a framework's backend, calibrates on.
        say: Told that llm-compressor is at work.
        options: ``NAME=VALUE`` settings of a framework's backend.
        progress: Given the number of steps of such a backend, returns what is called after each.
    """
    framework = isolated_named(backend)
    if framework is not None:
        data = data or DataRequest()
        return write_variant(
            _for_framework(source, backend, treatment),
            spectrum_path,
            profile,
            out,
            backend=framework,
            options=options,
            splits=data.splits,
            max_length=data.max_length,
            seed=data.seed,
            progress=progress,
        )
    check_backend(backend, options=options)
    spectrum = read_artifact(spectrum_path, Spectrum)
    treated = None
    if treatment is not None and treatment.wanted:
        if isinstance(source, LazyModel):
            raise UserError(
                "llm-compressor calibrates on the loaded model: leave out --stream, or --transform "
                "and --algorithm"
            )
        request = _treatment_request(source, treatment, data or DataRequest())
        if say is not None:
            say(f"llm-compressor: {treatment.transform or treatment.algorithm}")
        treated = treat(source, spectrum, profile, request)
    return quantize_profile(
        source,
        spectrum,
        profile,
        out,
        spectrum_sha256=sha256_file(spectrum_path),
        backend_name=backend,
        treated=treated,
    )


def _for_framework(
    source: Loaded | LazyModel, backend: str, treatment: TreatmentOptions | None
) -> Loaded:
    if treatment is not None and treatment.wanted:
        raise UserError(
            f"--transform and --algorithm are of backend compressed-tensors; leave them out for {backend}"
        )
    if isinstance(source, LazyModel):
        raise UserError(
            f"backend {backend} compares with the loaded model: leave out --stream, or use "
            "compressed-tensors"
        )
    return source


def _treatment_request(
    loaded: Loaded, treatment: TreatmentOptions, data: DataRequest
) -> TreatmentRequest:
    splits = data.splits(loaded.takes_images)
    return TreatmentRequest(
        transform=treatment.transform,
        algorithm=treatment.algorithm,
        strength=treatment.strength,
        batches=data.encode(loaded, splits.calibration, batch_size=1),
        data=(identity(splits.calibration, splits.source, "calibration"),),
    )
