"""What running a model takes: bytes by format, memory, times, and which kernels really ran."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from quantspectrum import backends
from quantspectrum.artifacts import Kernel, Resources
from quantspectrum.backends.probing import probe_batches
from quantspectrum.evaluate.latency import LatencyPlan, measure_latency
from quantspectrum.evaluate.onnx_model import OnnxModel
from quantspectrum.models.loading import Loaded
from quantspectrum.models.placement import named_tensors
from quantspectrum.provenance import peak_host_bytes

__all__ = ["matmuls_of", "measure_resources", "weight_bytes"]

_STORED = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
"""Type of a tensor in a safetensors header to its name in PyTorch, and its bytes."""

_MATMULS = ("mm", "linear", "matmul", "conv", "attention", "einsum")


def measure_resources(loaded: Loaded, *, load_s: float, plan: LatencyPlan) -> Resources:
    """Measure what running a model takes.

    Args:
        loaded: The model, with the arithmetic it is evaluated in.
        load_s: How long loading took.
        plan: Batch sizes and lengths to time.
    """
    by_type = weight_bytes(loaded)
    points = plan.points() if loaded.generates else ()
    device = loaded.device
    return Resources(
        disk_bytes=_weight_file_bytes(loaded),
        load_s=load_s,
        kernel=kernel_of(loaded),
        latency=tuple(measure_latency(loaded, plan, *point) for point in points),
        weight_bytes=by_type,
        matmuls=matmuls_of(loaded),
        peak_host_bytes=peak_host_bytes(),
        peak_device_bytes=int(torch.cuda.max_memory_allocated(device))
        if device.type == "cuda"
        else None,
    )


def kernel_of(loaded: Loaded) -> Kernel:
    """How the model's quantized ops multiply; transformers emulates them wherever any is quantized."""
    if isinstance(loaded.model, OnnxModel):
        return "onnxruntime"
    quantized = any(hasattr(module, "quantization_scheme") for module in loaded.model.modules())
    return "emulated" if quantized else "native"


def weight_bytes(loaded: Loaded) -> dict[str, int]:
    """Bytes of the weights by the type they are stored in: in the files, else in memory."""
    if isinstance(loaded.model, OnnxModel):
        return loaded.model.weight_bytes()
    sizes: Counter[str] = Counter()
    for file in _files(loaded):
        sizes.update(_stored(file))
    if not sizes:
        state = loaded.model.state_dict(keep_vars=True)
        for name, _ in named_tensors(loaded.model):
            tensor = state[name]
            sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel() * tensor.itemsize
    return dict(sorted(sizes.items()))


def _stored(file: Path) -> Counter[str]:
    sizes: Counter[str] = Counter()
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            part = opened.get_slice(name)
            kind = part.get_dtype()
            named, width = _STORED.get(kind, (kind.lower(), 1))
            sizes[named] += math.prod(part.get_shape()) * width
    return sizes


def _files(loaded: Loaded) -> list[Path]:
    if loaded.spec.gguf_file is not None:
        return []
    return sorted(Path(loaded.spec.model).glob("*.safetensors"))


def _weight_file_bytes(loaded: Loaded) -> int:
    """Bytes of the weight files; where they are not at hand, of the same weights written out."""
    files = _files(loaded)
    if isinstance(loaded.model, OnnxModel):
        files = loaded.model.files()
    if files:
        return sum(file.stat().st_size for file in files)
    return backends.BACKENDS["compressed-tensors"].predicted_bytes(loaded, {})


class _Matmuls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the matrix products that reach ATen, by the types of their operands."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = str(func)
        if any(part in name for part in _MATMULS):
            operands = [str(a.dtype).removeprefix("torch.") for a in args if isinstance(a, Tensor)]
            self.calls[f"{name.rpartition('.')[0]}({', '.join(operands)})"] += 1
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def matmuls_of(loaded: Loaded) -> dict[str, int]:
    """What one forward pass of a few tokens, or a picture, multiplies with: operator and types to calls.

    ATen's as dispatched; of an ONNX graph the nodes that ONNX Runtime ran.
    """
    from quantspectrum.models.outputs import run_model

    if isinstance(loaded.model, OnnxModel):
        return loaded.model.products()
    inputs = {"input_ids": torch.zeros((1, 4), dtype=torch.long, device=loaded.device)}
    if not loaded.takes_text:
        inputs = probe_batches(loaded)[0].to(loaded.device).inputs
    mode = _Matmuls()
    watched: AbstractContextManager[Any] = mode
    with watched:
        run_model(loaded.model, inputs)
    return dict(sorted(mode.calls.items()))
