"""Backend ``inc-static``: INC 3.7's own static PTQ with the profile's fixed assignment.

The numerics of INC's 2.x interface (uint8 per-tensor affine inputs and outputs, int8 per-channel
weights, integer kernels on the CPU), saved as INC saves them: ``best_model.pt``, a pickle. It is
read in INC's own environment alone (``weights_only``), never in this process, and only :func:`saved_logits`
runs it; no serving engine does.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from quantspectrum.artifacts import Verification, WriterNote
from quantspectrum.backends import compressed_tensors
from quantspectrum.backends.answers import check_quantized, note_of, probe_logits
from quantspectrum.backends.isolated import (
    Task,
    Written,
    ask_worker,
    check_linears,
    check_one_format,
)
from quantspectrum.backends.parts import whole as part
from quantspectrum.backends.probing import distance, logits_of, probe_batches, simulated_logits
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import PRESETS
from quantspectrum.integer import IntegerKernel, weight_codes
from quantspectrum.models.loading import Loaded
from quantspectrum.sensitivity.calibration import observe_op_ranges
from quantspectrum.simulation import OpPlan
from quantspectrum.spectrum.exporters.inc import configuration

__all__ = [
    "ENVIRONMENT",
    "LOADERS",
    "MAX_CODES_APART",
    "NAME",
    "OPTIONS",
    "PACKAGES",
    "check",
    "codes_apart",
    "needs_calibration",
    "part",
    "predicted_bytes",
    "saved_logits",
    "write",
]

NAME = "inc-static"
ENVIRONMENT: str | None = "inc"
PACKAGES: tuple[str, ...] = ()
LOADERS: tuple[str, ...] = ("INC 3.7 in its environment",)
OPTIONS: Mapping[str, str] = {}

MAX_CODES_APART = 5e-5
"""Largest accepted share of output codes, over all ops, that our integer arithmetic gives otherwise.

None is, usually; where PyTorch's kernels and ours round a tie apart, one code is. A bias rounded where
the kernel keeps it, which shows in no distance of logits, moves 1.5e-4 of them in a tiny model and in the embedded one.
"""

FORMATS = ("inc", "inc-reduce-range")


def check(loaded: Loaded, plans: Mapping[str, OpPlan]) -> None:
    """Refuse what INC 3.7's static PTQ does not do.

    Raises:
        UserError: The model writes no text, an op is not a Linear, the format is another, or the
            model is not in float32.
    """
    if not loaded.generates:
        raise UserError(
            f"backend {NAME} writes language models, with or without pictures, not {loaded.task}; "
            f"use --backend {compressed_tensors.NAME}"
        )
    if loaded.identity.dtype != "float32":
        raise UserError(f"INC 3.7's integer kernels take float32: give --dtype float32 to {NAME}")
    check_linears(loaded, plans)
    for name, plan in plans.items():
        if plan.format.name not in FORMATS or plan.format != PRESETS[plan.format.name]:
            raise UserError(
                f"backend {NAME} writes formats {' and '.join(FORMATS)}, and the profile gives {name} "
                f"{plan.format.name}; make the spectrum with --format inc, or use --backend inc"
            )
    check_one_format(NAME, plans)


def needs_calibration(_options: Mapping[str, str]) -> bool:
    """Static ranges are calibrated by INC."""
    return True


def predicted_bytes(loaded: Loaded, plans: Mapping[str, OpPlan]) -> int:
    """Bytes of the weights; scales and INC's own settings come on top."""
    weights = sum(loaded.model.get_parameter(f"{op}.weight").numel() for op in plans)
    return compressed_tensors.predicted_bytes(loaded, {}) - 3 * weights


def write(task: Task, directory: Path) -> Written:
    """Let INC calibrate, convert and save, load what it saved, and compare."""
    loaded = task.loaded
    probes = probe_batches(loaded)
    result = ask_worker(
        task,
        "inc",
        "inc_static",
        settings={
            "mode": "quantize",
            "saved": "saved",
            "config": _config(task.plans),
        },
        batches={"calibration": _inputs(task.calibration), "probe": _inputs(probes)},
    )
    check_quantized("INC", task.plans, result["quantized"])
    verification = _verify(task, probes, result["grids"])
    shutil.copy2(task.directory / "saved" / "best_model.pt", directory)
    loaded.config.save_pretrained(directory)
    loaded.processor.save_pretrained(directory)
    return Written(verification=verification, note=_note(result))


def _note(result: Mapping[str, Any]) -> WriterNote:
    return note_of(
        result,
        name="Intel Neural Compressor 3.7, static PTQ",
        loaders=LOADERS,
        notes=(
            "best_model.pt is a pickle, which may run code when it is loaded without weights_only; "
            "it is loaded in INC's environment alone, with it",
        ),
    )


def _config(plans: Mapping[str, OpPlan]) -> dict[str, Any]:
    """INC's configuration of the profile, as ``export --to inc`` writes it."""
    act = next(iter(plans.values())).format.activation
    assert act is not None
    return configuration(list(plans), approach="static", bits=act.bits)


def _inputs(batches: Sequence[Batch]) -> list[Batch]:
    """Batches without a mask: of one sample each, they have no padding to hide."""
    return [
        Batch(
            inputs={k: v for k, v in batch.inputs.items() if k != "attention_mask"},
            target=batch.target,
            sample_ids=batch.sample_ids,
            kinds=batch.kinds,
        )
        for batch in batches
    ]


def codes_apart(
    task: Task, found: Mapping[str, Tensor], grids: Mapping[str, Sequence[float]]
) -> float:
    """Share of the ops' output codes that are not those of our integer arithmetic on INC's inputs.

    Nothing adds up from op to op, so that what a rounding does wrong is not taken for ties.

    Args:
        task: The model and the plans.
        found: What each op gets and gives in INC's model, float32, as ``input.OP`` and ``output.OP``.
        grids: Scale and zero point of its input, then of its output.

    Returns:
        The share over all ops, or infinity where a code is more than one step off.

    Raises:
        UserError: An op did not run in integers.
    """
    if missing := sorted(task.plans.keys() - grids.keys()):
        raise UserError(
            f"INC's saved model did not multiply {len(missing)} of {len(task.plans)} ops as integers, "
            f"{missing[0]} first; it was not kept"
        )
    apart = codes = 0
    for op, plan in task.plans.items():
        linear = task.loaded.model.get_submodule(op)
        assert isinstance(linear, nn.Linear)
        in_scale, in_zero, out_scale, out_zero = (torch.tensor(float(v)) for v in grids[op])
        kernel = IntegerKernel((in_scale, in_zero), (out_scale, out_zero), plan.rounds_bias)
        weight = weight_codes(linear.weight.detach().cpu(), plan.format.weight)
        bias = None if linear.bias is None else linear.bias.detach().cpu()
        inputs = kernel.codes(found[f"input.{op}"])
        ours = kernel.apply(functional.linear, inputs, weight, bias)
        steps = ((ours - found[f"output.{op}"]) / out_scale).round().abs()
        if not float(steps.max()) <= 1:
            return math.inf
        apart += int(steps.count_nonzero())
        codes += steps.numel()
    return apart / codes


def _verify(task: Task, probes: Sequence[Batch], grids: Mapping[str, list[float]]) -> Verification:
    """Compare what the saved model computes with our integer simulation, op by op and as a whole."""
    theirs = probe_logits(task.directory)
    loaded, fmt = task.loaded, next(iter(task.plans.values())).format
    act = fmt.activation
    assert act is not None
    ranges = observe_op_ranges(loaded.model, list(task.plans), task.calibration, loaded.device, fmt)
    plans = {
        op: OpPlan(
            format=fmt,
            input_range=ranges.inputs[op],
            output_range=ranges.outputs[op],
            # 7 bits are for engine x86, which the worker takes for them.
            rounds_bias=act.bits == 8,
        )
        for op in task.plans
    }
    apart = codes_apart(
        replace(task, plans=plans), load_file(task.directory / "found.safetensors"), grids
    )
    if not apart <= MAX_CODES_APART:
        raise UserError(
            f"of the codes that ops give in INC's saved model, {apart:.1e} are not those of the integer "
            f"arithmetic of format {fmt.name} (bound {MAX_CODES_APART:.0e}); it was not kept"
        )
    ours = distance(theirs, simulated_logits(loaded, plans, probes))
    damage = distance(theirs, logits_of(loaded, probes))
    # A comparison with NaN is false, so that NaN fails here too.
    if not ours <= damage:
        raise UserError(
            f"what INC saved differs from the simulation by {ours:.2e} (relative L2), more than from "
            f"the unquantized model ({damage:.2e}); it was not kept"
        )
    return Verification(
        relative_l2=ours,
        bound=damage,
        loader="neural-compressor 3.7",
        quantized_tensors=len(task.plans),
        distances={"unquantized": damage, "codes": apart},
    )


def saved_logits(task: Task, directory: Path, batches: Sequence[Batch]) -> list[Tensor]:
    """What a variant of this backend predicts for batches, computed by INC in its environment.

    Args:
        task: The task it was written for; workers leave files in its directory.
        directory: The variant.
        batches: Batches of one sample each.

    Raises:
        UserError: The environment is absent or INC cannot load the variant.
    """
    ask_worker(
        task,
        "inc",
        "inc_static",
        settings={
            "mode": "run",
            "saved": str(directory.resolve()),
            "config": _config(task.plans),
        },
        batches={"probe": _inputs(batches)},
    )
    return probe_logits(task.directory)
