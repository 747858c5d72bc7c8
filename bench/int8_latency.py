"""Real INT8 and FP8 against bf16 on the shapes of Qwen2.5-VL-3B's decoder: who is faster, where.

    python bench/int8_latency.py --assets DIR --out bench/results/int8_latency.json

Every kernel multiplies in its own type; nothing is emulated. Activations are quantized per token
on the way in, weights per output channel beforehand, and both count. Kernels: `bf16` (PyTorch's
linear), `int_mm` (`torch._int_mm` of int8 codes), `torchao`
(its `Int8DynamicActivationInt8WeightConfig` under torch.compile), and, where the GPU has it,
`fp8` (`torch._scaled_mm` per row) and `torchao-fp8`. What is not there, or refuses a number of rows, is listed with its reason.

First single ops at several numbers of rows, each replayed from a CUDA graph after the cache was
flushed, so that weights come from memory as they do in a model. Then the whole decoder of random
weights, its layers compiled one by one, as one CUDA graph: a prefill, and a step of one token a
sequence (with no keys from before: the matrix products are what differs, attention is the same in
all). `ratio` is bf16's time over the kernel's: below 1 the kernel is slower.

`--tiny` shrinks shapes and repeats, for a look on a CPU; there int_mm is no serving speed.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from quantspectrum.formats import preset
from quantspectrum.models.loading import pick_device
from quantspectrum.provenance import environment
from quantspectrum.spectrum.kernels import kernel_for

ROWS = (1, 16, 1024, 4096)
POINTS = ((1, 512), (8, 512), (1, 1), (16, 1))
"""Batch size and tokens of each: prefills, then steps."""


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

    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def torchao_fp8(model: nn.Module) -> nn.Module:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    quantize_(model, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))
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
        return work, f"not captured: {str(error).splitlines()[0]}"
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


@torch.inference_mode()
def single_ops(
    config: Any, rows: tuple[int, ...], device: torch.device, repeats: int
) -> list[dict[str, Any]]:
    found = []
    for op, (outputs, inputs) in shapes_of(config).items():
        linear = nn.Linear(inputs, outputs, bias=False, device=device, dtype=torch.bfloat16)
        for kernel, make in KERNELS.items():
            if why_absent(kernel, device):
                continue
            torch._dynamo.reset()
            module = make(nn.Sequential(copy.deepcopy(linear)))
            run = module if kernel == "bf16" else torch.compile(module, dynamic=False)
            for count in rows:
                x = torch.randn(count, inputs, device=device, dtype=torch.bfloat16)
                entry = {"op": op, "shape": [outputs, inputs], "kernel": kernel, "rows": count}
                found.append(entry | compared(run, x, linear(x).float(), device, repeats))
    return with_ratios(found, ("op", "rows"))


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


@torch.inference_mode()
def decoder(
    config: Any, points: tuple[tuple[int, int], ...], device: torch.device, repeats: int
) -> list[dict[str, Any]]:
    """The whole decoder without embedding and head, at several batch sizes and lengths."""
    found = []
    for kernel, make in KERNELS.items():
        if why_absent(kernel, device):
            continue
        start = time.perf_counter()
        for entry in one_decoder(config, make, points, device, repeats):
            found.append({"kernel": kernel} | entry)
        gc.collect()
        print(f"decoder {kernel}: {time.perf_counter() - start:.0f} s", flush=True)
    return with_ratios(found, ("batch_size", "tokens"))


def one_decoder(
    config: Any,
    make: Callable[[nn.Module], nn.Module],
    points: tuple[tuple[int, int], ...],
    device: torch.device,
    repeats: int,
) -> list[dict[str, Any]]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2_5_VLTextModel._from_config(config, dtype=torch.bfloat16).eval()
    make(model.layers)
    for layer in model.layers:
        layer.compile(dynamic=False)
    found = []
    for batch, tokens in points:
        x = torch.randn(batch, tokens, config.hidden_size, device=device).bfloat16()

        def work(x: Tensor = x) -> Any:
            return model(inputs_embeds=x, use_cache=False)

        entry: dict[str, Any] = {"batch_size": batch, "tokens": tokens}
        try:
            found.append(entry | timed(work, device, repeats))
        except RuntimeError as refused:
            found.append(entry | {"refused": str(refused).splitlines()[0]})
    return found


def with_ratios(entries: list[dict[str, Any]], same: tuple[str, ...]) -> list[dict[str, Any]]:
    """bf16's median over each entry's, and whether the quartiles tell the two apart."""
    plain = {tuple(e[k] for k in same): e for e in entries if e["kernel"] == "bf16"}
    for entry in entries:
        if "refused" in entry:
            continue
        own = plain[tuple(entry[key] for key in same)]
        entry["ratio"] = own["median_us"] / entry["median_us"]
        apart = entry["high_us"] < own["low_us"] or entry["low_us"] > own["high_us"]
        entry["verdict"] = ("faster" if entry["ratio"] > 1 else "slower") if apart else "no telling"
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    device = pick_device("auto")
    config = AutoConfig.from_pretrained(args.assets / "models/qwen2.5-vl-3b-config").text_config
    rows, points, repeats = ROWS, POINTS, args.repeats
    if args.tiny:
        config.hidden_size, config.intermediate_size, config.num_hidden_layers = 256, 512, 2
        config.layer_types = config.layer_types[:2]
        config.num_attention_heads, config.num_key_value_heads = 2, 1
        rows, points, repeats = (1, 32), ((1, 8), (2, 1)), 4
    torch._dynamo.config.recompile_limit = 64
    start = time.perf_counter()
    result = {
        "bench": "int8_latency",
        "tiny": args.tiny,
        "environment": environment(device).model_dump(mode="json"),
        "absent": {k: why for k in KERNELS if (why := why_absent(k, device))},
        "single_ops": single_ops(config, rows, device, repeats),
        "decoder": decoder(config, points, device, repeats),
        "wall_s": time.perf_counter() - start,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    for entry in result["decoder"]:
        told = ("kernel", "batch_size", "tokens", "ratio", "verdict", "refused")
        print({key: entry[key] for key in told if key in entry})


if __name__ == "__main__":
    main()
