"""SmoothQuant and GPTQ through llm-compressor, before a profile is written.

llm-compressor runs in an environment of its own (``llmcompressor``), on a plain checkpoint of the
loaded model. It is told by name which ops to touch, and gives back the weights it changed (and
GPTQ's scales). From there on a variant is made, verified and recorded like any other, by the names
both transformers and vLLM know, whichever names llm-compressor would have written.

* SmoothQuant (Xiao et al. 2023, https://arxiv.org/abs/2211.10438) divides what a norm gives by one
  factor a channel and multiplies the weights of all Linears it feeds by the same. Before anything
  is quantized the model must compute what it did: that is checked.
* GPTQ (Frantar et al. 2023, https://arxiv.org/abs/2210.17323) rounds one input column of a weight
  after another, and makes the later ones up for the error. Its weights lie on the grid of its
  scales; they are not rounded again.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from quantspectrum.artifacts import DataIdentity, Spectrum, Treatment
from quantspectrum.backends.quantize import Treated, plans_of, probe_logits, relative_l2
from quantspectrum.backends.weights import codes_by_rows
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.isolation import run_worker
from quantspectrum.isolation.inputs import batch_tensors, model_request
from quantspectrum.models.loading import Loaded
from quantspectrum.models.outputs import run_model
from quantspectrum.models.placement import is_offloaded
from quantspectrum.quantization_config import check_format, group_size_on_disk, weight_args
from quantspectrum.quantizer import dequantize
from quantspectrum.sensitivity.calibration import observe_op_ranges
from quantspectrum.simulation import OpPlan

__all__ = ["TreatmentRequest", "norms_feeding", "treat"]

Plans = Mapping[str, OpPlan]


@dataclass(frozen=True, kw_only=True)
class TreatmentRequest:
    """What llm-compressor is to do.

    Attributes:
        transform: Applied to weights and norms first.
        algorithm: What rounds the weights; ``rtn`` is this program itself.
        strength: SmoothQuant's alpha: 0 leaves outliers in activations, 1 moves all to weights.
        batches: Calibration batches, of one sample each: padding would be calibrated on too.
        data: What they are, for the record.
    """

    transform: Literal["smoothquant"] | None
    algorithm: Literal["rtn", "gptq"]
    strength: float = 0.5
    batches: Sequence[Batch]
    data: tuple[DataIdentity, ...]


def treat(
    loaded: Loaded,
    spectrum: Spectrum,
    profile: str,
    request: TreatmentRequest,
) -> Treated:
    """Let llm-compressor change a copy of the model for one profile.

    Raises:
        UserError: The environment is absent, the model is of no kind llm-compressor takes, no norm
            feeds an op of the profile, GPTQ has no spelling for a weight's groups, the worker
            failed, or the transformed model computes something else.
    """
    _check_model(loaded)
    if any(batch.target.shape[0] != 1 for batch in request.batches):
        raise AssertionError("calibration batches have one sample each")
    # Ranges are calibrated again below: those of the spectrum only have to be there.
    plans = plans_of(spectrum, profile, loaded)
    for plan in plans.values():
        check_format(plan.format)
    mappings = None
    if request.transform is not None:
        mappings = norms_feeding(loaded, list(plans), request.batches[0])
        if not mappings:
            raise UserError(
                f"profile {profile}: no norm feeds an op that is to be quantized, so that "
                f"{request.transform} has nothing to do: leave out --transform"
            )
    groups = _gptq_groups(loaded, plans) if request.algorithm == "gptq" else None
    changed, result = _run(loaded, request, mappings, groups)
    model = copy.deepcopy(loaded.model)
    scales = _apply(model, changed, plans, loaded.storage_dtype)
    treated = replace(loaded, model=model, layout=loaded.adapter.layout(model))
    moved = None
    if mappings is not None and groups is None:
        moved = _moved(loaded, treated)
    return Treated(
        loaded=treated,
        scales=scales,
        input_ranges=_ranges(treated, plans, request.batches),
        record=Treatment(
            transform=request.transform,
            algorithm=request.algorithm,
            framework=f"llm-compressor {result['versions'].get('llmcompressor', 'unknown')}",
            packages=result["versions"],
            changed=len(changed),
            relative_l2=moved,
            data=request.data,
        ),
    )


def _check_model(loaded: Loaded) -> None:
    if not loaded.generates:
        raise UserError(
            "llm-compressor takes language models, with or without pictures: leave out "
            "--transform and --algorithm"
        )
    if is_offloaded(loaded.model):
        raise UserError(
            "weights are offloaded, and llm-compressor is given a copy of them: use --device cpu, "
            "or a device map of GPUs alone"
        )


def norms_feeding(loaded: Loaded, ops: Sequence[str], batch: Batch) -> list[tuple[list[str], str]]:
    """Norms whose output some of the ops take, each with all Linears that take it.

    Found by running the model: a Linear is fed by the norm whose output is the very tensor it is
    called with. All of them are listed, also those that are not to be quantized: a norm cannot be
    changed for some of its readers alone.
    """
    made: dict[int, tuple[str, Tensor]] = {}
    fed: dict[str, list[str]] = {}

    def norm_hook(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            if isinstance(output, Tensor):
                # Kept, so that no later tensor gets the same identity.
                made[id(output)] = name, output

        return hook

    def linear_hook(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[object, ...]) -> None:
            if args and (found := made.get(id(args[0]))) is not None:
                readers = fed.setdefault(found[0], [])
                readers += [] if name in readers else [name]

        return hook

    handles = []
    try:
        for name, module in loaded.model.named_modules():
            if isinstance(module, nn.Linear):
                handles.append(module.register_forward_pre_hook(linear_hook(name)))
            elif getattr(getattr(module, "weight", None), "ndim", None) == 1:
                handles.append(module.register_forward_hook(norm_hook(name)))
        with torch.inference_mode():
            run_model(loaded.model, batch.to(loaded.device).inputs)
    finally:
        for handle in handles:
            handle.remove()
    wanted = set(ops)
    return [(readers, norm) for norm, readers in fed.items() if wanted.intersection(readers)]


def _gptq_groups(loaded: Loaded, plans: Plans) -> dict[str, Any]:
    """Config groups of weights alone: activations are quantized by what serves the variant."""
    groups: dict[str, dict[str, Any]] = {}
    for op, plan in plans.items():
        scheme = plan.format.weight
        columns = loaded.model.get_parameter(f"{op}.weight").shape[1]
        if scheme.kind == "float":
            raise UserError(f"op {op}: GPTQ rounds to integers, not to {plan.format.name}")
        if scheme.granularity == "group" and group_size_on_disk(scheme, columns) not in (
            None,
            scheme.group_size,
        ):
            raise UserError(
                f"op {op}: groups of {scheme.group_size} do not divide its {columns} inputs, which "
                "GPTQ has no groups for: keep it out of the profile, or leave out --algorithm gptq"
            )
        args = weight_args(scheme, columns)
        key = str(sorted(args.items()))
        groups.setdefault(key, {"weights": args, "targets": []})["targets"].append(op)
    return {f"group_{number}": group for number, group in enumerate(groups.values())}


def _run(
    loaded: Loaded,
    request: TreatmentRequest,
    mappings: list[tuple[list[str], str]] | None,
    groups: dict[str, Any] | None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="quantspectrum-") as work:
        result = run_worker(
            "llmcompressor",
            "llmcompressor_oneshot",
            {
                **model_request(loaded, Path(work) / "model"),
                "mappings": mappings,
                "strength": request.strength,
                "groups": groups,
                # Layer after layer needs the model to be traced, which pictures stand against.
                "pipeline": "basic" if loaded.takes_images else "sequential",
            },
            Path(work),
            tensors=batch_tensors("calibration", request.batches),
        )
        return load_file(Path(work) / "changed.safetensors"), result


@torch.no_grad()
def _apply(
    model: nn.Module, changed: Mapping[str, Tensor], plans: Plans, storage: torch.dtype
) -> dict[str, Tensor]:
    """Give the model its new weights, as a checkpoint keeps them; returns GPTQ's scales."""
    scales: dict[str, Tensor] = {}
    for name, value in changed.items():
        op, _, leaf = name.rpartition(".")
        if leaf == "weight_scale":
            continue
        parameter = model.get_parameter(name)
        scale = changed.get(f"{op}.weight_scale")
        if leaf == "weight" and scale is not None:
            scheme = plans[op].format.weight
            scale = scale.float().reshape(()) if scheme.granularity == "tensor" else scale.float()
            codes = codes_by_rows(value, scale, torch.zeros_like(scale), scheme)
            scale = scales[op] = scale.to(storage).float()
            value = dequantize(codes, scale, torch.zeros_like(scale), scheme, parameter.dtype)
        parameter.copy_(value.to(storage) if scale is None else value)
    return scales


def _moved(loaded: Loaded, treated: Loaded) -> float:
    """How far the transform alone moved the logits.

    Raises:
        UserError: Further than rounding explains.
    """
    moved = max(
        relative_l2(found, expected)
        for found, expected in zip(probe_logits(treated), probe_logits(loaded), strict=True)
    )
    bound = 1e-3 if loaded.storage_dtype == torch.float32 else 5e-2
    if not moved <= bound:
        raise UserError(
            f"the transform changed what the model computes: relative L2 {moved:.2e} of the "
            f"logits, bound {bound:.0e}; leave out --transform"
        )
    return moved


def _ranges(
    treated: Loaded, plans: Plans, batches: Sequence[Batch]
) -> dict[str, tuple[float, float]]:
    """Input ranges of the ops with static inputs, which the transform has changed."""
    found: dict[str, tuple[float, float]] = {}
    for fmt in {plan.format.name: plan.format for plan in plans.values()}.values():
        ops = [op for op, plan in plans.items() if plan.format.name == fmt.name]
        found |= observe_op_ranges(treated.model, ops, batches, treated.device, fmt).inputs
    return found
