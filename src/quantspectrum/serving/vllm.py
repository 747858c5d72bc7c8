"""vLLM 0.32.0: which compressed-tensors checkpoints it loads, and what it does with them.

The rules follow ``CompressedTensorsConfig`` (``get_scheme_dict``, ``_get_scheme_from_parts``) of
``model_executor/layers/quantization/compressed_tensors`` and the conditions of the kernels in
``model_executor/kernels/linear``. Those for a CPU were compared with vLLM at work
(``bench/serve_vllm.py``); those for CUDA come from its source and its issues and were not run.
"""

from __future__ import annotations

from collections.abc import Iterator

from quantspectrum.serving.checkpoint import Checkpoint
from quantspectrum.serving.common import Assigned, check_schemes, check_torn
from quantspectrum.serving.findings import Capability, Finding, error, ok, warning
from quantspectrum.serving.fusion import FUSIONS, fusion_of
from quantspectrum.serving.layers import Layer, layers_of, stored_ops
from quantspectrum.serving.schemes import Scheme

__all__ = ["EVIDENCE", "VERSION", "examine"]

VERSION = "0.32.0"
METHOD = "compressed-tensors"
MARLIN_GROUPS = (None, 32, 64, 128)


def EVIDENCE(capability: Capability | None) -> str:  # noqa: N802 - a constant but for the device
    """``run`` for a CPU, ``read`` for others."""
    return "run" if capability is not None and capability.cpu else "read"


def examine(
    checkpoint: Checkpoint, capability: Capability | None, dtype: str | None
) -> Iterator[Finding]:
    """Everything found about a checkpoint, errors and warnings first."""
    fusion = fusion_of(checkpoint.architecture)
    if checkpoint.architecture not in FUSIONS:
        yield warning(
            f"architecture {checkpoint.architecture} is not in the table of fused layers: q/k/v and "
            "gate/up are taken to be fused, and modules to keep their names",
            advice="look for packed_modules_mapping in its class in vLLM",
        )
    layers = layers_of(stored_ops(checkpoint), fusion)
    config = checkpoint.quantization
    if config is None:
        yield from _unquantized(layers)
        return
    if (method := str(config.get("quant_method", METHOD))) != METHOD:
        yield from _foreign(method, config.get("quant_algo"))
        return
    judged = yield from check_schemes(config, layers, fusion)
    if judged is None:
        return
    quantization, assigned = judged
    for key in quantization.more:
        yield warning(f"{key} is set; this check does not look into it")
    yield from _schemes(assigned, capability, dtype or _dtype(checkpoint))
    quantized = sum(scheme is not None for _, scheme in assigned)
    if len(assigned) == len(layers):
        yield ok(f"{len(layers)} layers in the engine, {quantized} quantized, each with one scheme")


def _dtype(checkpoint: Checkpoint) -> str:
    """The type vLLM computes in by default: the checkpoint's, and never float32."""
    found = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    return "bfloat16" if found in (None, "float32") else str(found)


def _unquantized(layers: list[Layer]) -> Iterator[Finding]:
    stored = [op.name for layer in layers for op in layer.members if op.storage != "plain"]
    if stored:
        yield error(
            f"{len(stored)} weights are stored as integers or FP8 and config.json has no "
            "quantization_config: they would be read as weights",
            *stored,
            advice="write the checkpoint with a backend that says how it is quantized",
        )
    else:
        yield ok("nothing is quantized")
    yield from check_torn(layers)


def _foreign(method: str, algorithm: object) -> Iterator[Finding]:
    if method == "modelopt" and "INT8" in str(algorithm).upper():
        yield error(
            "vLLM reads no INT8 that ModelOpt exported",
            advice="write the same decisions with the backend compressed-tensors",
        )
        return
    yield warning(f"quant_method {method}: this check knows {METHOD} alone and cannot tell")


def _schemes(assigned: Assigned, capability: Capability | None, dtype: str) -> Iterator[Finding]:
    groups: dict[Scheme, list[Layer]] = {}
    for layer, scheme in assigned:
        if scheme is not None:
            groups.setdefault(scheme, []).append(layer)
    for scheme, layers in groups.items():
        kind = _kind(scheme)
        if kind is None:
            yield error(
                f"vLLM has no scheme for {scheme} stored as {scheme.format}",
                *(layer.group for layer in layers),
                advice="take one of the formats w8a8, w8a8-static, fp8, w8a16 or w4a16",
            )
        elif capability is None:
            yield warning(
                f"{scheme}: no --capability was given, so the device was not judged",
                advice="give cpu or the GPU's compute capability, such as --capability 9.0",
            )
        elif capability.cpu:
            yield from _on_cpu(kind, scheme, layers, dtype)
        else:
            yield from _on_cuda(kind, scheme, layers, capability)


def _kind(scheme: Scheme) -> str | None:
    """Which of vLLM's schemes takes it; ``_get_scheme_from_parts`` in the same order."""
    weight, act = scheme.weight, scheme.activation
    grouped = weight.strategy in ("channel", "group") and not weight.dynamic
    if scheme.output:
        return None
    if scheme.format == "pack-quantized":
        if act is None:
            known = weight.kind == "int" and 2 <= weight.bits <= 8
            return "weights alone" if grouped and known else None
        dynamic = act.kind == "int" and act.symmetric and act.dynamic and act.strategy == "token"
        return "packed with inputs" if grouped and dynamic and weight.kind == "int" else None
    if not scheme.stores_activations:
        return None
    whole = weight.strategy in ("tensor", "channel") and weight.symmetric and not weight.dynamic
    if weight.kind == "float":
        if not (whole or weight.strategy == "block") or (act and act.kind != "float"):
            return None
        if act is None:
            return "fp8 weights alone"
        static = act.symmetric and act.strategy == "tensor"
        return "fp8" if act.dynamic or static else None
    if act is None or act.kind != "int" or act.bits != 8:
        return None
    if weight.bits == 8 and whole:
        wanted = "token" if act.dynamic else "tensor"
        return "int8" if act.strategy == wanted else None
    if (
        weight.bits == 4
        and grouped
        and weight.symmetric
        and act.dynamic
        and act.strategy == "token"
    ):
        return "w4a8"
    return None


def _on_cpu(kind: str, scheme: Scheme, layers: list[Layer], dtype: str) -> Iterator[Finding]:
    names = [layer.group for layer in layers]
    if kind in ("int8", "fp8", "w4a8"):
        yield ok(f"{scheme}: runs on a CPU")
        if kind == "fp8":
            yield warning("FP8 is computed through a matrix product of PyTorch; expect no speed")
    elif kind == "weights alone":
        yield from _wna16_on_cpu(scheme, layers, dtype)
    else:
        yield error(
            f"{scheme}: vLLM has no kernel for it on a CPU", *names, advice="take w8a8 there"
        )


def _wna16_on_cpu(scheme: Scheme, layers: list[Layer], dtype: str) -> Iterator[Finding]:
    """``CPUWNA16LinearKernel.can_implement``; its kernel has no float32."""
    names = [layer.group for layer in layers]
    if scheme.weight.bits != 4:
        yield error(f"{scheme}: on a CPU vLLM has weight-only kernels for 4 bits alone", *names,
                    advice="take w8a8 or w4a16 there")  # fmt: skip
        return
    if (scheme.weight.group_size or 2) % 2:
        yield error(f"{scheme}: the CPU kernel wants an even group size", *names)
    odd = [layer.group for layer in layers if any(n % 32 for n in _shape(layer, scheme))]
    if odd:
        yield error(
            f"{scheme}: on a CPU inputs and outputs must be multiples of 32",
            *odd,
            advice="keep these layers in high precision, or in w8a8",
        )
    if dtype == "float32":
        yield error(f"{scheme}: the CPU kernel does not compute in float32", *names,
                    advice="serve with --dtype bfloat16")  # fmt: skip
    elif not odd:
        yield ok(f"{scheme}: runs on a CPU")


def _shape(layer: Layer, scheme: Scheme) -> tuple[int, int]:
    """Outputs of all members together, and inputs."""
    shapes = [op.shape(scheme) for op in layer.members]
    return sum(rows for rows, _ in shapes), shapes[0][1]


def _on_cuda(
    kind: str, scheme: Scheme, layers: list[Layer], capability: Capability
) -> Iterator[Finding]:
    names = [layer.group for layer in layers]
    if capability.tenfold < 75:
        yield error(f"{scheme}: needs compute capability 7.5 or more", *names,
                    advice="serve the unquantized model, or on another GPU")  # fmt: skip
    elif kind == "int8":
        yield from _int8_on_cuda(scheme, layers, capability)
    elif kind == "fp8":
        yield from _fp8_on_cuda(scheme, layers, capability)
    elif kind in ("weights alone", "fp8 weights alone"):
        yield from _marlin(kind, scheme, layers, capability)
    elif kind == "packed with inputs":
        yield warning(f"{scheme}: wants the package humming-kernels; this check cannot tell")
    else:
        yield error(f"{scheme}: vLLM has no kernel for int4 weights with int8 inputs on CUDA", *names,
                    advice="take w4a16, or w8a8")  # fmt: skip


def _int8_on_cuda(scheme: Scheme, layers: list[Layer], capability: Capability) -> Iterator[Finding]:
    if capability.tenfold >= 100:
        yield error(
            f"{scheme}: CUTLASS has no int8 for compute capability {capability} and vLLM chooses it "
            "all the same: it stops in the first forward pass (Int8 not supported)",
            *(layer.group for layer in layers),
            advice="take fp8 there; or keep vLLM from CUTLASS, which leaves Triton's slower int8: "
            "VLLM_DISABLED_KERNELS=CutlassInt8ScaledMMLinearKernel",
        )
        return
    yield ok(f"{scheme}: CUTLASS int8, compute capability {capability}")
    yield from _multiples_of_16(layers, scheme)


def _fp8_on_cuda(scheme: Scheme, layers: list[Layer], capability: Capability) -> Iterator[Finding]:
    if capability.tenfold < 89:
        yield warning(
            f"{scheme}: below compute capability 8.9 vLLM quantizes no inputs and runs FP8 weights "
            "alone: another result than evaluated, and no faster matrix product",
            *(layer.group for layer in layers),
            advice="take w8a8 there",
        )
        return
    yield ok(f"{scheme}: FP8, compute capability {capability}")
    yield from _multiples_of_16(layers, scheme)


def _multiples_of_16(layers: list[Layer], scheme: Scheme) -> Iterator[Finding]:
    odd = [layer.group for layer in layers if any(n % 16 for n in _shape(layer, scheme))]
    if odd:
        yield warning(
            "inputs or outputs are no multiples of 16, so that Triton runs in CUTLASS's place",
            *odd,
            advice="keep these layers in high precision if it is too slow",
        )


def _marlin(
    kind: str, scheme: Scheme, layers: list[Layer], capability: Capability
) -> Iterator[Finding]:
    names = [layer.group for layer in layers]
    unknown = scheme.weight.bits not in (4, 8) or scheme.weight.group_size not in MARLIN_GROUPS
    if kind == "weights alone" and unknown:
        yield warning(
            f"{scheme} in groups of {scheme.weight.group_size}: not Marlin's (4 or 8 bits, whole "
            "channels or groups of 32, 64, 128); whether another kernel takes it, this check cannot tell",
            *names,
            advice="take one of those groups",
        )
    elif capability.tenfold < 80:
        yield warning(f"{scheme}: below compute capability 8.0 Marlin has no bfloat16", *names,
                      advice="serve with --dtype float16")  # fmt: skip
    else:
        yield ok(f"{scheme}: Marlin, compute capability {capability}")
