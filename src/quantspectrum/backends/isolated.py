"""Backends of other frameworks: what they are asked, and how a variant of theirs comes to be.

A framework runs in an environment of its own and gets the model as a plain checkpoint, calibration
batches as tensors and the names of the ops to quantize. What it wrote is put right where it has
to be, loaded back, compared, and only then takes its name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from quantspectrum.artifacts import (
    DataIdentity,
    Manifest,
    Spectrum,
    Verification,
    WriterNote,
    write_artifact,
)
from quantspectrum.backends import compressed_tensors
from quantspectrum.backends.checkpoint import staged_directory
from quantspectrum.backends.parts import Part, bytes_of, planned, told_part
from quantspectrum.backends.quantize import plans_of
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.isolation import require_environment, run_worker
from quantspectrum.isolation.inputs import batch_tensors, model_request
from quantspectrum.models.loading import Loaded, check_unquantized
from quantspectrum.models.placement import is_offloaded
from quantspectrum.provenance import Stopwatch
from quantspectrum.serving.notes import serving_notes
from quantspectrum.simulation import OpPlan

__all__ = [
    "IsolatedBackend",
    "Task",
    "Written",
    "ask_worker",
    "check_linears",
    "check_one_format",
    "quantize_isolated",
    "read_options",
    "require",
]

ROOM = 2**26
"""Bytes for configurations, tokenizers and logs."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a backend is asked to write.

    Attributes:
        loaded: The model.
        plans: How each op of the profile is quantized.
        directory: Where workers may leave files; it is not part of the variant.
        calibration: Batches of one sample each; none where the backend needs none.
        options: Settings of the backend, by name.
        seed: Seed of what is random in the framework.
        progress: Told steps done and steps in all.
    """

    loaded: Loaded
    plans: Mapping[str, OpPlan]
    directory: Path
    calibration: Sequence[Batch] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    progress: Callable[[int, int], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a backend says of the variant it wrote."""

    verification: Verification
    note: WriterNote


class IsolatedBackend(Protocol):
    """What the file of such a backend provides.

    Attributes:
        NAME: Name on the command line.
        ENVIRONMENT: The environment it needs; ``None`` where packages of this one do.
        PACKAGES: Packages it needs here, which the extra of its name installs.
        LOADERS: What loads its variants.
        OPTIONS: Names of its settings, with what each does.
    """

    NAME: str
    ENVIRONMENT: str | None
    PACKAGES: tuple[str, ...]
    LOADERS: tuple[str, ...]
    OPTIONS: Mapping[str, str]

    def check(self, loaded: Loaded, plans: Mapping[str, OpPlan]) -> None:
        """Refuse, with a :class:`UserError`, what it cannot write."""
        ...

    def part(self, loaded: Loaded) -> Part | None:
        """What it writes of a model, where that is not the whole."""
        ...

    def needs_calibration(self, options: Mapping[str, str]) -> bool:
        """Whether it runs the model on calibration samples.

        Raises:
            UserError: A setting has a value that it cannot have.
        """
        ...

    def predicted_bytes(self, loaded: Loaded, plans: Mapping[str, OpPlan]) -> int:
        """Bytes of the variant's tensors, before anything is written."""
        ...

    def write(self, task: Task, directory: Path) -> Written:
        """Write the variant into an existing, empty directory, and check what was written."""
        ...


def quantize_isolated(
    loaded: Loaded,
    spectrum: Spectrum,
    profile_name: str,
    out: Path,
    *,
    backend: IsolatedBackend,
    spectrum_sha256: str,
    calibration: Sequence[Batch] = (),
    data: tuple[DataIdentity, ...] = (),
    options: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Let a framework write a profile's variant to the directory ``out``, with ``manifest.json``.

    The directory appears under its name only after what is in it was loaded back, its quantized
    tensors were counted and its logits compared.

    Args:
        loaded: The model.
        spectrum: The spectrum of the profile.
        profile_name: The profile.
        out: Directory to make.
        backend: What writes it.
        spectrum_sha256: Hash of the spectrum's file.
        calibration: Batches of one sample each, for backends that need them.
        data: Identities of their samples.
        options: Settings of the backend.
        seed: Seed of what is random in the framework.
        progress: Told steps done and steps in all.

    Raises:
        UserError: The profile does not fit the model or the backend, the environment is absent,
            the framework failed, or what was loaded back is not what was planned.
    """
    watch = Stopwatch(loaded.device)
    check_unquantized(loaded)
    if is_offloaded(loaded.model):
        raise UserError(
            f"weights are offloaded, and backend {backend.NAME} compares what is written with the "
            "model in memory; quantize with --device cpu, or with a device map of GPUs alone"
        )
    asked = plans_of(spectrum, profile_name, loaded)
    part = backend.part(loaded)
    plans = _checked_plans(loaded, asked, profile_name, backend)
    needed = backend.predicted_bytes(loaded, plans)
    baseline = bytes_of(loaded, part)
    # The framework's own checkpoint and, of models that are no plain one, a copy lie beside it.
    room = 2 * needed + compressed_tensors.predicted_bytes(loaded, {}) + ROOM
    with staged_directory(out, room) as stage:
        work = stage / "work"
        work.mkdir()
        task = Task(
            loaded=loaded,
            plans=plans,
            directory=work,
            calibration=calibration,
            options=options or {},
            seed=seed,
            progress=progress,
        )
        written = backend.write(task, stage)
        shutil.rmtree(work)
        files = _sizes(stage)
        manifest = Manifest(
            profile=spectrum.profile(profile_name),
            backend=backend.NAME,
            formats=spectrum.formats,
            spectrum_sha256=spectrum_sha256,
            provenance=watch.provenance(loaded.identity, data, seed=seed),
            files=files,
            total_bytes=sum(files.values()),
            baseline_bytes=baseline,
            quantized_weight_bytes=_weight_bytes(loaded, plans),
            verification=written.verification,
            writer=told_part(written.note, part, [op for op in asked if op not in plans]),
            serving=serving_notes(stage),
        )
        write_artifact(stage / "manifest.json", manifest)
    return manifest


def require(backend: IsolatedBackend) -> None:
    """Refuse a backend whose environment or packages are absent.

    Raises:
        UserError: The message says how to get them.
    """
    if backend.ENVIRONMENT is not None:
        require_environment(backend.ENVIRONMENT)
    if missing := [name for name in backend.PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"backend {backend.NAME} needs {', '.join(missing)}, not installed here: "
            f"pip install 'quantspectrum[{backend.NAME}]'"
        )


def _checked_plans(
    loaded: Loaded,
    asked: dict[str, OpPlan],
    profile_name: str,
    backend: IsolatedBackend,
) -> dict[str, OpPlan]:
    """Those of the profile's plans that the backend carries out."""
    if not asked:
        raise UserError(
            f"profile {profile_name} quantizes nothing, so there is nothing for {backend.NAME} to do"
        )
    plans = planned(asked, loaded, backend.part(loaded), backend.NAME)
    backend.check(loaded, plans)
    require(backend)
    return plans


def _sizes(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def _weight_bytes(loaded: Loaded, plans: Mapping[str, OpPlan]) -> int:
    return sum(
        loaded.model.get_parameter(f"{op}.weight").numel() * plan.format.weight.bits // 8
        for op, plan in plans.items()
    )


def check_linears(loaded: Loaded, plans: Mapping[str, OpPlan]) -> None:
    """Refuse ops that are no Linears.

    Raises:
        UserError: Naming the first.
    """
    for name in plans:
        if not isinstance(loaded.model.get_submodule(name), nn.Linear):
            raise UserError(f"op {name} is not a Linear: leave it out of the profile")


def check_one_format(backend: str, plans: Mapping[str, OpPlan]) -> None:
    """Refuse a profile of several formats, for backends whose variants hold one.

    Raises:
        UserError: It has several.
    """
    if len({plan.format.name for plan in plans.values()}) > 1:
        raise UserError(
            f"a variant of backend {backend} holds one format, and the profile has several"
        )


def read_options(backend: IsolatedBackend, given: Sequence[str]) -> dict[str, str]:
    """Settings ``NAME=VALUE`` of a backend, by name.

    Raises:
        UserError: One has another form, or the backend knows none of that name.
    """
    options: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise UserError(f"--backend-option {text}: give NAME=VALUE")
        if name not in backend.OPTIONS:
            known = "; ".join(f"{key}: {what}" for key, what in backend.OPTIONS.items())
            raise UserError(
                f"backend {backend.NAME} has no option {name!r}; it has {known or 'none'}"
            )
        options[name] = value
    return options


def ask_worker(
    task: Task,
    environment: str,
    worker: str,
    *,
    settings: Mapping[str, Any],
    batches: Mapping[str, Sequence[Batch]],
) -> dict[str, Any]:
    """Run a worker on the model of a task; returns what it wrote.

    Args:
        task: What is to be written.
        environment: Environment of the worker.
        worker: Its script's name.
        settings: What it is told besides the model and the ops.
        batches: Batches it gets, by the name of their split.

    Raises:
        UserError: The environment is absent or the worker failed.
    """
    request = {
        **model_request(task.loaded, task.directory / "model"),
        "ops": list(task.plans),
        "seed": task.seed,
        **settings,
    }
    tensors: dict[str, Tensor] = {}
    for split, found in batches.items():
        tensors |= batch_tensors(split, found)
    return run_worker(
        environment, worker, request, task.directory, tensors=tensors, progress=task.progress
    )
