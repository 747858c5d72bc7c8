"""Backend ``inc``: Intel Neural Compressor's own way to a Hugging Face W8A8 checkpoint of today.

That is its AutoRound configuration with scheme ``INT8_W8A8`` and export format ``llm_compressor``
(neural-compressor-pt 3.10, auto-round 0.16.1): int8 weights per channel, dynamic int8 inputs per
token. By default nothing is tuned (``iters=0``: round to nearest), and with ``iters`` its rounding
is learned on the calibration samples. INC's names are put right: tensors and ``ignore`` get those
that transformers and serving engines look for (:mod:`quantspectrum.backends.exported`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from quantspectrum.artifacts import Verification
from quantspectrum.backends import compressed_tensors
from quantspectrum.backends.answers import note_of
from quantspectrum.backends.compressed_tensors import predicted_bytes as predicted_bytes
from quantspectrum.backends.exported import Exported, adopt, stored_weights, verified
from quantspectrum.backends.isolated import Task, Written, ask_worker
from quantspectrum.backends.parts import whole as part
from quantspectrum.backends.probing import (
    distance,
    logits_of,
    probe_batches,
    reloaded_logits,
    simulated_logits,
)
from quantspectrum.backends.quantize import MAX_RELATIVE_L2
from quantspectrum.errors import UserError
from quantspectrum.formats import PRESETS
from quantspectrum.models.loading import Loaded
from quantspectrum.simulation import OpPlan

__all__ = [
    "ENVIRONMENT",
    "LOADERS",
    "MAX_DAMAGE",
    "NAME",
    "OPTIONS",
    "PACKAGES",
    "check",
    "needs_calibration",
    "part",
    "predicted_bytes",
    "write",
]

NAME = "inc"
ENVIRONMENT: str | None = "inc-autoround"
PACKAGES: tuple[str, ...] = ()
LOADERS: tuple[str, ...] = ("transformers",)
OPTIONS: Mapping[str, str] = {
    "iters": "steps that AutoRound learns the rounding in (default 0: round to nearest)"
}

MAX_DAMAGE = 2.0
"""How much farther from the unquantized model INC's round-to-nearest may be than ours.

Its grid is another one: AutoRound uses all 256 codes of a channel, and gives it a negative scale
where the largest weight is positive. Both are equally far off; a wrong scale or a swapped op is not.
"""

_SCALE_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def check(loaded: Loaded, plans: Mapping[str, OpPlan]) -> None:
    """Refuse what INC's AutoRound cannot write as W8A8.

    Raises:
        UserError: The model takes no text, an op is not a Linear or shares its weight, or its
            format is not ``w8a8``.
    """
    if not loaded.generates:
        raise UserError(
            f"backend {NAME} (AutoRound) quantizes models that write text; "
            f"use --backend {compressed_tensors.NAME} for this one"
        )
    compressed_tensors.check_plans(loaded, plans)
    wanted = PRESETS["w8a8"]
    for name, plan in plans.items():
        fmt = plan.format
        if (fmt.weight, fmt.activation, fmt.output) != (wanted.weight, wanted.activation, None):
            raise UserError(
                f"backend {NAME} writes format w8a8, and the profile gives {name} {fmt.name}; make "
                f"the spectrum with --format w8a8, or use --backend {compressed_tensors.NAME}"
            )
    head = loaded.layout.head
    if head is not None and head in plans and _tied(loaded, head):
        raise UserError(
            f"INC does not quantize {head}, whose weight is that of the embedding; "
            "leave it out of the profile (--exclude)"
        )


def _tied(loaded: Loaded, head: str) -> bool:
    embedding = loaded.model.get_input_embeddings()  # type: ignore[operator]
    assert isinstance(embedding, nn.Module)
    return embedding.get_parameter("weight") is loaded.model.get_parameter(f"{head}.weight")


def needs_calibration(options: Mapping[str, str]) -> bool:
    """Round-to-nearest with dynamic inputs needs none."""
    return _iters(options) > 0


def write(task: Task, directory: Path) -> Written:
    """Let INC quantize and export, and write its codes under the names loaders look for."""
    loaded, iters = task.loaded, _iters(task.options)
    probes = probe_batches(loaded)
    result = ask_worker(
        task,
        "inc-autoround",
        "inc_autoround",
        settings={
            "iters": iters,
            "language": _language(loaded),
            "head": loaded.layout.head,
            "scale_dtype": _SCALE_DTYPES[str(loaded.storage_dtype).removeprefix("torch.")],
        },
        # Without tuning any input does: it is run once, to be captured.
        batches={"calibration": task.calibration if iters else probes[:1]},
    )
    export = Exported(task.directory / result["export"], loaded)
    findings = adopt(export, loaded, task.plans, directory)
    return Written(
        verification=_verify(task, directory, rounded=not iters),
        note=note_of(
            result,
            name="Intel Neural Compressor, AutoRound",
            loaders=LOADERS,
            findings=findings,
            notes=(
                "tensors and ignore are renamed to the modules' names; INC writes those of the "
                "source checkpoint, under which transformers does not find the ops to ignore",
                "AutoRound uses all 256 codes of a channel, with a negative scale where the largest "
                "weight is positive",
            ),
        ),
    )


def _verify(task: Task, directory: Path, *, rounded: bool) -> Verification:
    """Load it back; compare with its own codes simulated, and with what our rounding does."""
    loaded, plans = task.loaded, task.plans
    probes = probe_batches(loaded)
    quantizer = compressed_tensors.loader_input_quantizer
    with stored_weights(loaded, plans, directory):
        expected = simulated_logits(loaded, plans, probes, quantizer, part="activation")
    found = reloaded_logits(loaded, directory, probes)
    worst = distance(found, expected)
    plain, ours = logits_of(loaded, probes), simulated_logits(loaded, plans, probes, quantizer)
    damage, ours_damage = distance(found, plain), distance(ours, plain)
    # A comparison with NaN is false, so that NaN fails here too.
    if not (worst <= MAX_RELATIVE_L2 and (damage <= MAX_DAMAGE * ours_damage or not rounded)):
        raise UserError(
            f"the variant loaded back differs from its own codes by {worst:.2e} (relative L2, bound "
            f"{MAX_RELATIVE_L2:.0e}) and from the unquantized model by {damage:.2e}, where our "
            f"rounding differs by {ours_damage:.2e}; it was not kept"
        )
    return verified(
        loaded,
        plans,
        directory,
        worst=worst,
        distances={
            "ours": distance(found, ours),
            "unquantized": damage,
            "ours to unquantized": ours_damage,
        },
    )


def _iters(options: Mapping[str, str]) -> int:
    text = options.get("iters", "0")
    if not text.isdigit():
        raise UserError(f"--backend-option iters={text}: give a whole number, 0 or more")
    return int(text)


def _language(loaded: Loaded) -> str | None:
    """Prefix of the ops of the language model, where there is more than that."""
    if not loaded.takes_images:
        return None
    found = [p for p, part in loaded.layout.components.items() if part == "language"]
    return f"{found[0]}." if found else None
