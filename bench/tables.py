"""docs/performance.md, from the results of the benches: no figure on that page is typed.

python bench/tables.py --results bench/results --out docs/performance.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from deployment_tables import kernels, writing
from results_page import load, table

HEAD = """# How fast, how much memory, how stable

Made by `bench/tables.py` from `bench/results`; every section names the bench and the result it shows.
"""

SCANS = {
    "mse_v2 isolate": "`mse_v2`, base `isolate`",
    "mse_v2 fallback": "`mse_v2`, base `fallback`",
    "kl isolate": "`kl`, base `isolate`",
    "kl fallback": "`kl`, base `fallback`",
    "mse_v2+kl+nll isolate": "`mse_v2`, `kl` and `nll` at once, base `isolate`",
    "visibility": "`visibility`",
    "sqnr": "`sqnr`",
    "hawq_v2": "`hawq_v2`, 8 probes on each of 2 batches",
    "images": "`mse_v2`, base `isolate`, vision too, 16 pictures",
}

PROMISED_GIB = 4
"""What sharing a replay may take, see ``quantspectrum.sensitivity.slots``."""

PRODUCTS = ("nvjet", "gemm", "cutlass")


def full_size(results: Path) -> str:
    """Scans of the 3B on one GPU."""
    found = load(results, "scan_full_size")
    parts, floor = found["parts"], found["parts"]["floor"]
    rows = [
        [
            label,
            str(part["ops"]),
            f"{part['tokens']:,}",
            str(part["engine"]["slots"]) if "scan" in part["engine"]["seconds"] else "–",
            f"{part['seconds']:.1f}",
            f"{part['peak_gib']:.1f}",
        ]
        for key, label in SCANS.items()
        if "seconds" in (part := parts[key])
    ]
    shared = parts["mse_v2 fallback"]["peak_gib"] - parts["mse_v2 isolate"]["peak_gib"]
    over = (
        f"\nSharing took {shared:.1f} GiB here, more than that: stand-ins of skipped blocks took memory in shared replays,\n"
        "which they do no longer; the two scans were not measured again since.\n"
        if shared > PROMISED_GIB
        else ""
    )
    images = parts["images"]["floor"]
    few = [parts[f"few tokens, {how}"]["seconds"] for how in ("alone", "together")]
    return f"""## Qwen2.5-VL-3B at full size

`bench/scan_full_size.py` (`scan_full_size.json`), one {found["environment"]["device_name"]}, random weights, bfloat16,
format `w8a8`, 32 samples of 128 tokens; loading left out. The model itself takes {found["model_gib"]:.1f} GiB.

{table(["scan", "ops", "tokens", "slots", "seconds", "peak GiB"], rows)}

![Seconds of each scan](images/scans.png)

A forward pass takes {1e3 * floor["forward_s"]:.0f} ms as transformers runs it and {1e3 * floor["faster_forward_s"]:.0f} ms
with norms, gated MLPs and rotary embeddings in one pass each. Half a plain pass for each of the 252 ops is
{floor["half_forwards_s"]:.1f} s, replaying every op without perturbing anything {floor["unperturbed_replays_s"]:.1f} s; what a
scan takes beyond that is quantizing, comparing and the checks before it begins. Base `fallback` quantizes every op it
passes; several slots a replay (seven ops and an unperturbed one), with fewer kernels to launch for each op, take less time
there and more memory, and are used by themselves only where they are to fit into {PROMISED_GIB} GiB. With the 16 pictures
({parts["images"]["patches"]:,} patches) a pass takes {1e3 * images["forward_s"]:.0f} ms as transformers runs it, which
attends to window after window, and {1e3 * images["faster_forward_s"]:.0f} ms here.
{over}
With few tokens (1 sample of 64) launching is all there is: {few[0]:.1f} s for 252 ops one by one, {few[1]:.1f} s with
seven ops a replay.
"""


def profile(results: Path) -> str:
    """Where a replay's device time goes."""
    made = load(results, "scan_full_size")["parts"]["kernels isolate"]
    products = sum(k["share"] for k in made["top"] if any(word in k["kernel"] for word in PRODUCTS))
    whole = sum(k["share"] for k in made["top"])
    return f"""### Where the time goes

From the profiler (`scan_full_size.json`, `kernels isolate`: replays of seven ops with `mse_v2` and `kl`, one by one): the
18 largest kernels take {whole:.0%} of the device time, and {products / whole:.0%} of that is matrix products. Norms, gated
MLPs, rotary embeddings, fake quantization and the KL sum are kernels of one pass over memory each. The device is busy for
{made["device_s"]:.2f} of {made["wall_s"]:.2f} s, with the profiler at work.
"""


def against_inc(results: Path) -> str:
    """INC's own loop on the same model and machine."""
    found, few = load(results, "scan"), load(results, "scan_few_tokens")
    rows = [
        [
            f"{made['samples'][0]} × {made['samples'][1]}",
            str(run["ops"]),
            f"{run['inc']['seconds']:.0f}",
            f"{run['ours']['seconds']:.2f}",
            f"{run['ratio']:.0f}",
        ]
        for made in (found, few)
        for run in made["runs"]
    ]
    return f"""## Against INC 3.7's MSE_V2

`bench/scan.py` (`scan.json`; with `--samples 1 --tokens 16` `scan_few_tokens.json`), a random Qwen2 of hidden size
{found["hidden"]}, CPU ({found["machine"]["cpu"]}, {found["machine"]["cores"]} cores), base `fallback`, format `inc`:

{table(["samples × tokens", "ops", "INC, s", "quantspectrum, s", "times faster"], rows)}

INC converts the whole model again for each op, so that its time grows with the square of their number, whatever the
data; ours is that of the replays themselves.
"""


def against_modelopt(results: Path) -> str:
    """ModelOpt's auto_quantize scores on the same model and machine."""
    found, large = load(results, "scan_modelopt"), load(results, "scan_modelopt_full_size")
    rows = [
        [
            f"`{run['method']}` / `{run['metric']}`",
            str(run["groups"]),
            f"{run['modelopt']['seconds']:.0f}",
            str(run["ops"]),
            f"{run['ours']['seconds']:.0f}",
            f"{run['ratio']:.1f}",
            f"{run['spearman']:.3f}",
        ]
        for run in found["runs"]
    ]
    (one,) = large["runs"]
    first, again = one["ours"]["each"][0], one["ours"]["seconds"]
    theirs = one["modelopt"]["seconds"]
    head = ["ModelOpt / ours", "groups", "s", "ops", "s", "times faster", "Spearman over groups"]
    return f"""## Against ModelOpt's auto_quantize

`bench/scan_modelopt.py` (`scan_modelopt.json`), SmolLM2-135M-Instruct, {found["samples"][0]} samples of {found["samples"][1]}
tokens, CPU, static W8A8, while other work ran on the machine (load averages are in the result). ModelOpt scores groups of
ops, ours scores each op:

{table(head, rows)}

On one {large["environment"]["device_name"]} (`scan_modelopt_full_size.json`: `--assets DIR --device cuda --dtype bfloat16 --samples 16
--repeats 3`), Qwen2.5-VL-3B of random weights, {large["samples"][0]} samples of {large["samples"][1]} tokens, text alone: `{one["method"]}` took
{theirs:.0f} s for {one["groups"]} groups, `{one["metric"]}` {first:.1f} s for {one["ops"]} ops at first and {again:.1f} s once its kernels were
compiled, {theirs / first:.0f} and {theirs / again:.0f} times faster; Spearman over groups {one["spearman"]:.3f}. ModelOpt ran once, in a new process:
what it compiles there is in its time. `kl_div` had not ended when the time on that machine was over, so there is no figure of it.
"""


def growth(results: Path) -> str:
    """Time and memory against ops and tokens."""
    found = load(results, "growth")
    if found is None:
        return ""
    rows = [
        [
            str(p["ops"]),
            f"{p['tokens']:,}",
            f"{p['seconds']:.2f}",
            f"{p['seconds'] / p['forward_s'] / p['ops']:.2f}",
            f"{p['peak_rss_bytes'] / 2**20:.0f}",
        ]
        for p in (*found["ops"], *found["tokens"])
    ]
    head = ["ops", "tokens", "seconds", "forward passes an op", "peak resident MiB"]
    return f"""## Growth

`bench/growth.py` (`growth.json`), a random Llama of 16 layers and hidden size 256 on the CPU, `mse_v2`, base `isolate`;
ops are spread evenly over the layers. Peak memory includes Python, torch and the model.

{table(head, rows)}

![Time against ops and tokens, memory against ops](images/growth.png)
"""


def stability(results: Path) -> str:
    """Rank correlation between numbers of samples."""
    found = load(results, "rank_stability")
    if found is None:
        return ""
    pairs = sorted(next(iter(found["between_samples"].values())))
    rows = [
        [f"`{metric}`", *(f"{values[pair]:.3f}" for pair in pairs)]
        for metric, values in found["between_samples"].items()
        if set(pairs) <= values.keys()
    ]
    agree = ", ".join(
        f"{pair.replace(' vs ', ' and ')} {value:.3f}"
        for pair, value in found["between_metrics"].items()
        if pair.startswith("kl ") and value is not None
    )
    told = f"Agreement of metrics on the largest set (Spearman): {agree}.\n" if agree else ""
    return f"""## How many samples

`bench/rank_stability.py` (`rank_stability.json`), SmolLM2-135M-Instruct, {found["ops"]} ops, format `{found["format"]}`,
base `isolate`, samples of at most {found["max_length"]} tokens; Spearman's rank correlation of the scores between sets of
samples, the smaller inside the larger:

{table(["metric", *(f"{pair} samples" for pair in pairs)], rows)}

{told}"""


SECTIONS: tuple[Callable[[Path], str], ...] = (
    full_size,
    profile,
    against_inc,
    against_modelopt,
    growth,
    stability,
    writing,
    kernels,
)


def page(results: Path) -> str:
    """The whole page."""
    return "\n".join([HEAD, *(text for section in SECTIONS if (text := section(results)))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.write_text(page(args.results))


if __name__ == "__main__":
    main()
