"""The noise floor: the baseline against itself, computed another way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from quantspectrum.evaluate.onnx_model import OnnxModel
from quantspectrum.models.loading import Loaded
from quantspectrum.models.placement import is_placed

__all__ = ["NOISES", "Noise", "in_dtype", "other_batch_size", "other_dtype", "why_not_dtype"]

Noise = Literal["batch", "dtype"]

NOISES: tuple[Noise, ...] = ("batch", "dtype")


def other_batch_size(batch_size: int) -> int:
    """Half as many samples a forward pass; two for one."""
    return max(1, batch_size // 2) if batch_size > 1 else 2


def other_dtype(loaded: Loaded) -> torch.dtype:
    """float32 for a model in a half type, bfloat16 for one in float32."""
    own = next(loaded.model.parameters()).dtype
    return torch.bfloat16 if own == torch.float32 else torch.float32


def why_not_dtype(loaded: Loaded, *, asked: bool) -> str | None:
    """Why the model is not run in another dtype; ``None`` where it can be.

    Args:
        loaded: The baseline.
        asked: The user wants it, however slow.
    """
    dtype = other_dtype(loaded)
    if isinstance(loaded.model, OnnxModel):
        return "ONNX Runtime computes the graph in its own type"
    if is_placed(loaded.model):
        return "its weights are spread over devices"
    if any(hasattr(module, "quantization_scheme") for module in loaded.model.modules()):
        return "it is quantized"
    if loaded.device.type == "cuda":
        needed = sum(p.numel() for p in loaded.model.parameters()) * dtype.itemsize
        free, _ = torch.cuda.mem_get_info(loaded.device)
        if needed > 0.8 * free:
            return f"the device has no room for a copy in {_name(dtype)}"
    elif dtype == torch.bfloat16 and not asked and not _cpu_computes_bfloat16():
        return "this CPU has no bfloat16 arithmetic; --noise-floor dtype runs it all the same"
    return None


def _cpu_computes_bfloat16() -> bool:
    has: Callable[[], bool] = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return bool(has())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def in_dtype(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Hold a model's weights in another floating type; the very same tensors come back.

    Buffers in float32, such as rotary frequencies, are float32 in models of any type and stay.
    """
    kept = [
        (tensor, tensor.data)
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.is_floating_point() and tensor.dtype != dtype
    ]
    parameters = {id(parameter) for parameter in model.parameters()}
    try:
        for tensor, data in kept:
            if id(tensor) in parameters or tensor.dtype != torch.float32:
                tensor.data = data.to(dtype)
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data
