"""The backends of other frameworks. A new one: one file and one entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from quantspectrum.artifacts import DataIdentity, Manifest, Spectrum, read_artifact, sha256_file
from quantspectrum.backends import BACKENDS, inc, inc_static, modelopt, onnx
from quantspectrum.backends.isolated import (
    IsolatedBackend,
    quantize_isolated,
    read_options,
    require,
)
from quantspectrum.backends.parts import text_samples
from quantspectrum.data.encode import Batch, encode_for
from quantspectrum.data.splits import Splits, identity
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded

__all__ = ["ISOLATED", "check_backend", "isolated_named", "require_backend", "write_variant"]

ISOLATED: Mapping[str, IsolatedBackend] = {
    backend.NAME: backend for backend in (inc, inc_static, modelopt, onnx)
}


def isolated_named(name: str) -> IsolatedBackend | None:
    """The backend of another framework of that name, or ``None`` where one of ours has it.

    Raises:
        UserError: There is no backend of that name; the message lists those there are.
    """
    check_backend(name)
    return ISOLATED.get(name)


def check_backend(name: str, *, evaluated: bool = False, options: Sequence[str] = ()) -> None:
    """Refuse the name of a backend there is not, and settings that it does not have.

    Args:
        name: The name.
        evaluated: The variants will be evaluated, so that transformers has to load them.
        options: Its settings, ``NAME=VALUE``.

    Raises:
        UserError: See above.
    """
    if name not in BACKENDS and name not in ISOLATED:
        known = ", ".join((*BACKENDS, *ISOLATED))
        raise UserError(f"unknown backend {name!r}; the backends are: {known}")
    if evaluated and name in ISOLATED and "transformers" not in ISOLATED[name].LOADERS:
        raise UserError(
            f"variants of backend {name} are loaded by {' and '.join(ISOLATED[name].LOADERS)}, "
            "not by transformers, so that a run cannot evaluate them; use `quantspectrum quantize`"
        )
    if options and name not in ISOLATED:
        raise UserError(f"--backend-option is of frameworks' backends; {name} has none")
    if options:
        ISOLATED[name].needs_calibration(read_options(ISOLATED[name], options))


def require_backend(name: str) -> None:
    """Refuse a backend whose framework is absent, before anything is loaded.

    Raises:
        UserError: Its environment or a package of it is; the message says how to get it.
    """
    backend = isolated_named(name)
    if backend is not None:
        require(backend)


def write_variant(
    loaded: Loaded,
    spectrum_path: Path,
    profile: str,
    out: Path,
    *,
    backend: IsolatedBackend,
    options: Sequence[str],
    splits: Callable[[bool], Splits],
    max_length: int | None,
    seed: int,
    progress: Callable[[int], Callable[[], None]] | None,
) -> Manifest:
    """Let a framework write the variant of one profile of a spectrum on disk.

    Args:
        loaded: The model.
        spectrum_path: The spectrum.
        profile: One of its profiles.
        out: Directory to make.
        backend: What writes it.
        options: Its settings, ``NAME=VALUE``.
        splits: Draws the samples, with pictures or without, should the backend calibrate on any.
        max_length: Longest of them, in tokens.
        seed: Seed of what is random in the framework.
        progress: Given the number of steps, returns what is called after each.
    """
    chosen = read_options(backend, options)
    batches: list[Batch] = []
    data: tuple[DataIdentity, ...] = ()
    if backend.needs_calibration(chosen):
        drawn = splits(loaded.takes_images)
        samples = text_samples(drawn.calibration, backend.NAME, backend.part(loaded))
        # One a batch: frameworks do not know of padding.
        batches = encode_for(loaded, samples, batch_size=1, max_length=max_length)
        data = (identity(samples, drawn.source, "calibration"),)
    return quantize_isolated(
        loaded,
        read_artifact(spectrum_path, Spectrum),
        profile,
        out,
        backend=backend,
        spectrum_sha256=sha256_file(spectrum_path),
        calibration=batches,
        data=data,
        options=chosen,
        seed=seed,
        progress=_stepwise(progress),
    )


def _stepwise(
    progress: Callable[[int], Callable[[], None]] | None,
) -> Callable[[int, int], None] | None:
    """What a worker tells (steps done, steps in all) as steps of a progress bar."""
    if progress is None:
        return None
    step: Callable[[], None] | None = None
    seen = 0

    def told(done: int, total: int) -> None:
        nonlocal step, seen
        step = step or progress(total)
        for _ in range(done - seen):
            step()
        seen = done

    return told
