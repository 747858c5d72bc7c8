"""Real INT8 and FP8 against bf16 on the shapes of Qwen2.5-VL-3B's decoder: who is faster, where.

    python bench/int8_latency.py --assets DIR --out bench/results/int8_latency.json \
        [--time-budget SECONDS] [--autotune]

Every kernel multiplies in its own type; nothing is emulated. Activations are quantized per token
on the way in, weights per output channel beforehand, and both count. Kernels: `bf16` (PyTorch's
linear), `int_mm` (`torch._int_mm` of int8 codes), `torchao`
(its `Int8DynamicActivationInt8WeightConfig` under torch.compile), and, where the GPU has it,
`fp8` (`torch._scaled_mm` per row) and `torchao-fp8`. What is not there, or refuses a number of rows, is listed with its reason.

First the whole decoder of random weights, as one CUDA graph, its layers compiled: the code of one
layer serves all. With `--autotune` Inductor tries cuBLAS and its own kernels for each product and
takes what was fastest alone, which takes minutes; without, products are cuBLAS's. Prefills come before steps of one token, INT8 and FP8
beside bf16; then single ops at several numbers of rows, each replayed from a CUDA graph after the
cache was flushed, so that weights come from memory as they do in a model. A step has no keys from
before: the matrix products are what differs, attention is the same in all. `ratio` is bf16's time
over the kernel's: below 1 the kernel is slower.

The result is written after every figure, so that a run that is cut leaves what it had. No figure is
begun after `--time-budget`; `not_run` lists what is left.

`--tiny` shrinks shapes and repeats, for a look on a CPU; there int_mm is no serving speed.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
from int8_kernels import KERNELS, compared, shapes_of, timed, why_absent, with_ratios
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from quantspectrum.models.loading import pick_device
from quantspectrum.provenance import environment

INT8 = ("bf16", "int_mm", "torchao")
FP8 = ("fp8", "torchao-fp8")
OPS = ("gate_up", "down", "qkv", "o")
"""The most bytes first."""


@dataclass(frozen=True)
class Sizes:
    """Batch size and tokens of passes through the decoder; rows of an op."""

    prefill: tuple[tuple[int, int], ...] = ((1, 512), (8, 512))
    step: tuple[tuple[int, int], ...] = ((1, 1), (32, 1))
    rows: tuple[int, ...] = (4096, 1024, 32)


TINY = Sizes(prefill=((1, 32), (2, 32)), step=((1, 1),), rows=(1, 32))


@dataclass(frozen=True)
class Part:
    """Figures that share a module: of a kernel, passes through the decoder or rows of one op."""

    kernel: str
    items: tuple[Any, ...]
    op: str | None = None

    def label(self, item: Any) -> str:
        if self.op is None:
            return f"decoder {self.kernel} {item[0]}x{item[1]}"
        return f"{self.op} {self.kernel} {item} rows"


def parts_in_order(sizes: Sizes) -> list[Part]:
    """All of the bench, the most telling figures first; bf16 before what is compared with it."""
    return [
        *(Part(kernel, sizes.prefill) for kernel in (*INT8, *FP8)),
        *(Part(kernel, sizes.step) for kernel in (*INT8, *FP8)),
        *(Part(kernel, sizes.rows, op) for op in OPS for kernel in (*INT8, *FP8)),
    ]


@dataclass
class Bench:
    """What a run needs to know, and what it found so far."""

    config: Any
    device: torch.device
    repeats: int
    mode: str | None = None
    decoder: list[dict[str, Any]] = field(default_factory=list)
    single_ops: list[dict[str, Any]] = field(default_factory=list)

    @torch.inference_mode()
    def measure(self, part: Part) -> Iterator[None]:
        """Take the figures of a part, one between two stops."""
        torch._dynamo.reset()
        gc.collect()
        if part.op is None:
            run = Decoder(self.config, KERNELS[part.kernel], self.device, self.mode)
            for point in part.items:
                entry = {"kernel": part.kernel, "batch_size": point[0], "tokens": point[1]}
                self.decoder.append(entry | self._pass(run, point))
                yield
            return
        outputs, inputs = shapes_of(self.config)[part.op]
        plain = nn.Linear(inputs, outputs, bias=False, device=self.device, dtype=torch.bfloat16)
        module = KERNELS[part.kernel](nn.Sequential(copy.deepcopy(plain)))
        op = torch.compile(module, dynamic=False, mode=self.mode)
        for rows in part.items:
            x = torch.randn(rows, inputs).bfloat16().to(self.device)
            entry = {"op": part.op, "shape": [outputs, inputs], "kernel": part.kernel}
            found = compared(op, x, plain(x).float(), self.device, self.repeats)
            self.single_ops.append(entry | {"rows": rows} | found)
            yield

    def _pass(self, model: Decoder, point: tuple[int, int]) -> dict[str, Any]:
        x = torch.randn(*point, self.config.hidden_size).bfloat16().to(self.device)
        turns = model.turns(x)
        start = time.perf_counter()

        def work() -> Any:
            return model(x, turns)

        try:
            found = timed(work, self.device, self.repeats)
        except RuntimeError as refused:
            return {"refused": str(refused).splitlines()[0]}
        return found | {"with_compiling_s": time.perf_counter() - start}


class Decoder(nn.Module):
    """Layers and last norm of a decoder of random weights, with a kernel's linears.

    Positions are turned into cosines beforehand and a causal mask needs no tensor, so that nothing
    in a pass waits for the GPU and all of it can be one CUDA graph.
    """

    def __init__(
        self,
        config: Any,
        make: Callable[[nn.Module], nn.Module],
        device: torch.device,
        mode: str | None = None,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        with torch.device(device):
            model = Qwen2_5_VLTextModel._from_config(config, dtype=torch.bfloat16).eval()
        self.layers, self.norm, self.rotary = model.layers, model.norm, model.rotary_emb
        make(self.layers)
        for layer in self.layers:
            layer.compile(dynamic=False, mode=mode)

    def turns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding for text at positions from 0 on."""
        places = torch.arange(x.shape[1], device=x.device).expand(3, len(x), -1)
        cos, sin = self.rotary(x, places)
        return cos, sin

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        for layer in self.layers:
            x = layer(x, position_embeddings=turns, use_cache=False)
        normed: Tensor = self.norm(x)
        return normed


def run_parts(
    parts: list[Part],
    measure: Callable[[Part], Iterator[None]],
    *,
    budget: float | None,
    write: Callable[[list[str]], None],
    clock: Callable[[], float] = time.perf_counter,
) -> list[str]:
    """Measure parts in order until the budget is spent; returns what was not.

    Args:
        parts: What to measure.
        measure: Takes one figure of a part each time it is asked to go on.
        budget: Seconds after which no figure is begun.
        write: Told after each figure what is left.
        clock: Seconds.
    """
    start = clock()
    left = [part.label(item) for part in parts for item in part.items]
    for part in parts:
        steps = measure(part)
        for item in part.items:
            if budget is not None and clock() - start >= budget:
                return left
            next(steps)
            left.remove(part.label(item))
            write(left)
        steps.close()
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--time-budget", type=float, metavar="SECONDS")
    parser.add_argument("--autotune", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    device = pick_device("auto")
    config = AutoConfig.from_pretrained(args.assets / "models/qwen2.5-vl-3b-config").text_config
    if args.tiny:
        config.hidden_size, config.intermediate_size, config.num_hidden_layers = 256, 512, 2
        config.layer_types = config.layer_types[:2]
        config.num_attention_heads, config.num_key_value_heads = 2, 1
    torch._dynamo.config.recompile_limit = 64
    # torchao's own recommendation for INT8, here for every kernel: one setting for all.
    torch._inductor.config.force_fuse_int_mm_with_mul = True
    mode = "max-autotune-no-cudagraphs" if args.autotune else None
    bench = Bench(config, device, 4 if args.tiny else args.repeats, mode)
    absent = {kernel: why for kernel in KERNELS if (why := why_absent(kernel, device))}
    parts = [p for p in parts_in_order(TINY if args.tiny else Sizes()) if p.kernel not in absent]
    about = environment(device).model_dump(mode="json")
    start = time.perf_counter()
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def write(left: list[str]) -> None:
        result = {
            "bench": "int8_latency",
            "tiny": args.tiny,
            "environment": about,
            "absent": absent,
            "compile_mode": mode,
            "time_budget_s": args.time_budget,
            "not_run": left,
            "decoder": with_ratios(bench.decoder, ("batch_size", "tokens")),
            "single_ops": with_ratios(bench.single_ops, ("op", "rows")),
            "wall_s": time.perf_counter() - start,
        }
        partial = args.out.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
        partial.replace(args.out)
        print(f"{time.perf_counter() - start:6.1f} s, {len(left)} figures left", flush=True)

    left = run_parts(parts, bench.measure, budget=args.time_budget, write=write)
    for entry in bench.decoder:
        told = ("kernel", "batch_size", "tokens", "median_us", "ratio", "graph", "refused")
        print({key: entry[key] for key in told if key in entry})
    if left:
        print(f"not run within {args.time_budget:g} s: {', '.join(left)}")


if __name__ == "__main__":
    main()
