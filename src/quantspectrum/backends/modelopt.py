"""Backend ``modelopt``: NVIDIA ModelOpt quantizes exactly the profile's ops.

FP8 (format ``fp8``): the codes and scales of ModelOpt's own Hugging Face export, under the
modules' names and with a configuration that loaders know. INT8 (format ``w8a8-static``): ModelOpt's
own export is loaded by nothing (0.47.0; transformers takes the codes for weights without a word),
so that the ranges ModelOpt calibrated go into a checkpoint of backend ``compressed-tensors``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from quantspectrum.artifacts import Verification, WriterNote
from quantspectrum.backends import compressed_tensors
from quantspectrum.backends.answers import check_quantized, note_of, probe_logits
from quantspectrum.backends.compressed_tensors import predicted_bytes as predicted_bytes
from quantspectrum.backends.exported import Exported, adopt, stored_weights, verified
from quantspectrum.backends.isolated import (
    Task,
    Written,
    ask_worker,
    check_linears,
    check_one_format,
)
from quantspectrum.backends.parts import whole as part
from quantspectrum.backends.probing import (
    distance,
    logits_of,
    probe_batches,
    reloaded_logits,
    simulated_logits,
)
from quantspectrum.backends.quantize import MAX_RELATIVE_L2
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import PRESETS
from quantspectrum.models.loading import Loaded
from quantspectrum.simulation import OpPlan

__all__ = [
    "ENVIRONMENT",
    "LOADERS",
    "MAX_APART",
    "NAME",
    "OPTIONS",
    "PACKAGES",
    "check",
    "needs_calibration",
    "part",
    "predicted_bytes",
    "write",
]

NAME = "modelopt"
ENVIRONMENT: str | None = "modelopt"
PACKAGES: tuple[str, ...] = ()
LOADERS: tuple[str, ...] = ("transformers",)
OPTIONS: Mapping[str, str] = {}

MAX_APART = 1.5
"""Largest accepted distance to ModelOpt's simulation, in distances of that to the unquantized model.

Two independent roundings of one size are 1.41 apart; in float32 a hundredth is usual, and more of it the
more codes fall on ties, as in bfloat16.
"""

_NUMBERS = {"w8a8-static": "int8", "fp8": "fp8"}


def check(loaded: Loaded, plans: Mapping[str, OpPlan]) -> None:
    """Refuse what ModelOpt's PTQ cannot turn into a checkpoint that something loads.

    Raises:
        UserError: The model writes no text, an op is not a Linear, or the format is another.
    """
    if not loaded.generates:
        raise UserError(
            f"backend {NAME} exports models that write text; use --backend onnx or "
            f"{compressed_tensors.NAME} for this one"
        )
    check_linears(loaded, plans)
    for name, plan in plans.items():
        wanted = PRESETS.get(plan.format.name)
        if plan.format.name not in _NUMBERS or plan.format != wanted:
            raise UserError(
                f"backend {NAME} writes w8a8-static (its INT8: per-tensor static inputs) and fp8, "
                f"and the profile gives {name} {plan.format.name}; make the spectrum with one of "
                f"these formats, or use --backend {compressed_tensors.NAME}"
            )
    check_one_format(NAME, plans)


def needs_calibration(_options: Mapping[str, str]) -> bool:
    """ModelOpt runs the model to set ranges, of FP8 weights too."""
    return True


def write(task: Task, directory: Path) -> Written:
    """Let ModelOpt quantize; write what it found as a checkpoint that loads."""
    loaded = task.loaded
    number = _NUMBERS[next(iter(task.plans.values())).format.name]
    probes = probe_batches(loaded)
    result = ask_worker(
        task,
        "modelopt",
        "modelopt_ptq",
        settings={"number": number},
        batches={"calibration": task.calibration, "probe": probes},
    )
    check_quantized("ModelOpt", task.plans, result["quantized"])
    theirs = probe_logits(task.directory)
    plans = _plans(task) if number == "int8" else dict(task.plans)
    adopt(Exported(task.directory / "export", loaded), loaded, plans, directory)
    return Written(
        verification=_verify(loaded, plans, directory, probes, theirs), note=_note(result, number)
    )


def _note(result: Mapping[str, Any], number: str) -> WriterNote:
    notes = {
        "int8": "ModelOpt's own INT8 export is loaded by nothing: the ranges that it calibrated are "
        "written, with weights rounded as it rounds them, as a compressed-tensors checkpoint",
        "fp8": "codes and scales are those of ModelOpt's export; its quantization_config (quant_method "
        "modelopt), which transformers ignores, taking codes for weights, is replaced",
    }
    return note_of(
        result, name="NVIDIA ModelOpt, mtq.quantize", loaders=LOADERS, notes=(notes[number],)
    )


def _plans(task: Task) -> dict[str, OpPlan]:
    """The profile's plans with the ranges of inputs that ModelOpt calibrated."""
    found = load_file(task.directory / "found.safetensors")
    plans: dict[str, OpPlan] = {}
    for op, plan in task.plans.items():
        if f"{op}.input_amax" not in found:
            raise UserError(
                f"ModelOpt saw no input of {op} on the calibration data; give data that reaches it, "
                "or leave it out of the profile"
            )
        # Its scale is amax / 127; that of a range is its largest number / 127.5.
        amax = float(found[f"{op}.input_amax"]) * 127.5 / 127
        plans[op] = replace(plan, input_range=(-amax, amax))
    return plans


def _verify(
    loaded: Loaded,
    plans: Mapping[str, OpPlan],
    directory: Path,
    probes: Sequence[Batch],
    theirs: Sequence[Tensor],
) -> Verification:
    """Load it back and compare with its codes simulated; these, as engines run them, with ModelOpt."""
    with stored_weights(loaded, plans, directory):
        expected = simulated_logits(
            loaded, plans, probes, compressed_tensors.loader_input_quantizer, part="activation"
        )
        served = simulated_logits(loaded, plans, probes, part="activation")
    worst = distance(reloaded_logits(loaded, directory, probes), expected)
    framework, damage = distance(served, theirs), distance(logits_of(loaded, probes), theirs)
    # Single codes fall on either side of a tie, the more of them the coarser the numbers are.
    # A comparison with NaN is false, so that NaN fails here too.
    if not (worst <= MAX_RELATIVE_L2 and framework <= MAX_APART * damage):
        raise UserError(
            f"the variant loaded back differs from the simulated one by {worst:.2e} (relative L2, "
            f"bound {MAX_RELATIVE_L2:.0e}) and the simulated one from ModelOpt's by {framework:.2e}, "
            f"from which the unquantized model differs by {damage:.2e}; it was not kept"
        )
    return verified(
        loaded,
        plans,
        directory,
        worst=worst,
        distances={"framework": framework, "framework to unquantized": damage},
    )
