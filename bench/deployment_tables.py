"""Of docs/performance.md, what concerns checkpoints at work: writing them, and kernels for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from results_page import load, table

WAYS = {"memory": "loaded", "stream": "from files (`--stream`)"}
INT8 = ("int_mm", "torchao")
FP8 = ("fp8", "torchao-fp8")
KERNELS = {
    "int_mm": "`int_mm`",
    "torchao": "torchao INT8",
    "fp8": "`_scaled_mm`",
    "torchao-fp8": "torchao FP8",
}


def writing(results: Path) -> str:
    """Writing and reading back the variants of one model."""
    return "\n".join(
        [
            "## Writing checkpoints",
            "",
            written(load(results, "write_checkpoint_full_size"), "write_checkpoint_full_size"),
            written(load(results, "write_checkpoint"), "write_checkpoint"),
            "Each variant is read back and verified. Of the loaded way the peak holds the variant that is loaded back to compare",
            "logits, its files as they are mapped included; from files there is none, and a few tensors at a time are all there is in memory.",
            "",
        ]
    )


def written(found: Any, name: str) -> str:
    """The table of one model, and the disk's own speed."""
    rows = [
        [
            WAYS[way],
            f"{found[way]['seconds']:.0f}",
            f"{found[way]['cpu_seconds']:.0f}",
            f"{sum(v['bytes'] for v in found[way]['variants'].values()) / 1e9:.2f}",
            f"{(found[way]['host_bytes_peak'] - found[way]['host_bytes_before']) / 2**20:,.0f}",
            gib(found[way]["peak_device_bytes"]),
        ]
        for way in WAYS
    ]
    where, disk = found["environment"], found["disk"]
    return f"""`bench/write_checkpoint.py` (`{name}.json`): {len(found["stream"]["variants"])} variants of a random model of \
{found["model_bytes"] / 1e9:.2f} GB ({found["model"]}), {where.get("device_name") or "no GPU"},
{where["cpus"]} CPUs under a load of {found["load_average_before"]:.0f}; peak is host memory above what the process had when it began to write.

{table(["model is", "seconds", "CPU seconds", "GB written", "peak MiB", "peak of the GPU, GiB"], rows)}

The same disk takes {disk["written_bytes_per_s"] / 1e6:,.0f} MB/s of a plain file, {disk["flushed_bytes_per_s"] / 1e6:,.0f} MB/s until it is flushed.
"""


def gib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**30:.1f}"


def kernels(results: Path) -> str:
    """Real INT8 and FP8 against bf16 at the 3B's shapes."""
    found, tuned = load(results, "int8_latency"), load(results, "int8_latency_autotune")
    decoder = found["decoder"]
    int8, fp8 = (
        [e for e in decoder if e["kernel"] in names and "ratio" in e] for names in (INT8, FP8)
    )
    prefills, steps = ([e for e in fp8 if (e["tokens"] > 1) is long] for long in (True, False))
    by_shape = table(
        ["decoder, batch × tokens", "bf16, ms", *KERNELS.values()],
        [
            [
                f"{b} × {t}",
                *line([e for e in decoder if (e["batch_size"], e["tokens"]) == (b, t)], 1e3),
            ]
            for b, t in unique((e["batch_size"], e["tokens"]) for e in decoder)
        ],
    )
    ops = [e for e in found["single_ops"] if complete(found["single_ops"], e)]
    by_op = table(
        ["op, outputs × inputs, rows", "bf16, µs", *KERNELS.values()],
        [
            [
                f"{op}, {outputs:,} × {inputs:,}, {rows:,}",
                *line([e for e in ops if (e["op"], e["rows"]) == (op, rows)], 1),
            ]
            for op, (outputs, inputs), rows in unique(
                (e["op"], tuple(e["shape"]), e["rows"]) for e in ops
            )
        ],
    )
    autotuned = "; ".join(
        f"{e['batch_size']} × {e['tokens']}: bf16 {plain(tuned, e)['median_us'] / 1e3:.1f} ms, `int_mm` "
        f"{e['median_us'] / 1e3:.1f} ms ({e['ratio']:.2f})"
        for e in tuned["decoder"]
        if e["kernel"] == "int_mm"
    )
    refused = "; ".join(
        f"{KERNELS[e['kernel']]} at {e['batch_size']} × {e['tokens']}: {e['refused']}"
        for e in decoder
        if "refused" in e
    )
    return f"""## INT8 and FP8 at work

`bench/int8_latency.py` (`int8_latency.json`), one {found["environment"]["device_name"]}: the decoder of Qwen2.5-VL-3B at its size, random
weights, layers under torch.compile, as one CUDA graph. Nothing is emulated, and quantizing the inputs is part of the time. Figures of
kernels are **bf16's time over theirs: below 1 they are slower**. `int_mm` is `torch._int_mm`, `_scaled_mm` PyTorch's FP8 with a scale a row.

{by_shape}

INT8 is slower than bf16 in {count(int8, "slower")} of {len(int8)} passes, faster in {count(int8, "faster")}. FP8 is faster in {count(prefills, "faster")} of {len(prefills)} prefills and slower in {count(steps, "slower")} of
{len(steps)} steps. Refused: {refused}.

Single ops, fused as engines fuse them, weights read from memory:

{by_op}

With Inductor's own kernels beside cuBLAS's (`--autotune`, `int8_latency_autotune.json`; it was cut after these)
{autotuned}.

So on this GPU a W8A8 checkpoint saves memory, and with PyTorch's products it saves time only where a figure above is over 1. Where
time counts take `fp8`, or time your own engine: `quantspectrum latency` measures PyTorch's kernels on your device, and CUTLASS's
INT8, which vLLM uses, was not timed here.
"""


def line(entries: list[Any], per: float) -> list[str]:
    """bf16's time, and the ratio of each kernel."""
    own = {e["kernel"]: e for e in entries}
    ratios = [f"{own[k]['ratio']:.2f}" if "ratio" in own[k] else "–" for k in KERNELS]
    return [f"{own['bf16']['median_us'] / per:.1f}", *ratios]


def complete(entries: list[Any], entry: Any) -> bool:
    """Whether every kernel was timed on this op and number of rows."""
    same = [e for e in entries if (e["op"], e["rows"]) == (entry["op"], entry["rows"])]
    return len(same) == 1 + len(KERNELS)


def plain(found: Any, entry: Any) -> Any:
    same = (entry["batch_size"], entry["tokens"])
    return next(
        e
        for e in found["decoder"]
        if e["kernel"] == "bf16" and (e["batch_size"], e["tokens"]) == same
    )


def count(entries: list[Any], verdict: str) -> int:
    return sum(e["verdict"] == verdict for e in entries)


def unique(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))
