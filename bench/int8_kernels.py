"""The kernels that bench/int8_latency.py times, and how it times them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from quantspectrum.formats import preset
from quantspectrum.spectrum.kernels import kernel_for


class KernelLinear(nn.Module):
    """A linear by the kernel that `quantspectrum latency` times for a format."""

    def __init__(self, linear: nn.Linear, fmt: str) -> None:
        super().__init__()
        example = linear.weight.new_empty(1, linear.in_features)
        self.kernel = kernel_for(preset(fmt), linear.weight.detach(), example)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        y = self.kernel.run(x.reshape(-1, x.shape[-1]))
        y = y if self.bias is None else y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], -1)


def replaced(model: nn.Module, made: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, made(child))
    return model


def torchao_int8(model: nn.Module) -> nn.Module:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    return model


def torchao_fp8(model: nn.Module) -> nn.Module:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(), set_inductor_config=False
    )
    quantize_(model, config)
    return model


KERNELS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bf16": lambda model: model,
    "int_mm": lambda model: replaced(model, partial(KernelLinear, fmt="w8a8")),
    "torchao": torchao_int8,
    "fp8": lambda model: replaced(model, partial(KernelLinear, fmt="fp8")),
    "torchao-fp8": torchao_fp8,
}


def why_absent(kernel: str, device: torch.device) -> str | None:
    if kernel.startswith("torchao") and find_spec("torchao") is None:
        return "torchao is not installed"
    if kernel.endswith("fp8") and device.type != "cuda":
        return "no FP8 arithmetic on a CPU"
    if kernel.endswith("fp8") and torch.cuda.get_device_capability(device) < (8, 9):
        return "this GPU has no FP8 arithmetic"
    return None


def timed(work: Callable[[], Any], device: torch.device, repeats: int) -> dict[str, Any]:
    """Median and quartiles in microseconds; on a GPU of a CUDA graph, with a cold cache."""
    for _ in range(3):
        work()
    about: dict[str, Any] = {"repeats": repeats}
    if device.type == "cuda":
        work, about["graph"] = captured(work)
        samples = on_gpu(work, device, repeats)
    else:
        samples = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            samples.append((time.perf_counter() - start) * 1e6)
    low, median, high = statistics.quantiles(samples, n=4)
    return about | {"median_us": median, "low_us": low, "high_us": high}


def captured(work: Callable[[], Any]) -> tuple[Callable[[], Any], str]:
    """The work as a CUDA graph, and whether it could be made one: if not, it is run as it is."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except RuntimeError as error:
        torch.cuda.synchronize()
        first: BaseException = error
        while first.__context__ is not None:  # ending a failed capture fails too, and hides why
            first = first.__context__
        return work, f"not captured: {str(first).splitlines()[0]}"
    return graph.replay, "captured"


def on_gpu(work: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    flush = torch.empty(2**28, dtype=torch.int8, device=device)
    pairs = []
    for _ in range(repeats):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) * 1e3 for begin, end in pairs]


def shapes_of(config: Any) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each distinct linear, fused as serving engines fuse them."""
    hidden, inner = config.hidden_size, config.intermediate_size
    width = hidden // config.num_attention_heads
    keys = config.num_key_value_heads * width
    return {
        "qkv": (hidden + 2 * keys, hidden),
        "o": (hidden, hidden),
        "gate_up": (2 * inner, hidden),
        "down": (hidden, inner),
    }


def with_ratios(entries: list[dict[str, Any]], same: tuple[str, ...]) -> list[dict[str, Any]]:
    """bf16's median over each entry's, and whether the quartiles tell the two apart."""
    plain = {tuple(e[k] for k in same): e for e in entries if e["kernel"] == "bf16"}
    for entry in entries:
        own = plain.get(tuple(entry[key] for key in same))
        if "refused" in entry or own is None or "refused" in own:
            continue
        entry["ratio"] = own["median_us"] / entry["median_us"]
        apart = entry["high_us"] < own["low_us"] or entry["low_us"] > own["high_us"]
        entry["verdict"] = ("faster" if entry["ratio"] > 1 else "slower") if apart else "no telling"
    return entries


def compared(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    expected: Tensor,
    device: torch.device,
    repeats: int,
) -> dict[str, Any]:
    """Distance from the linear in bf16, and times; why there are none where a kernel refuses the rows."""
    try:
        error = (run(x).float() - expected).norm() / expected.norm()
        return {"relative_l2": float(error)} | timed(lambda: run(x), device, repeats)
    except RuntimeError as refused:
        return {"refused": str(refused).splitlines()[0]}
