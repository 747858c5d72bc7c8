"""Figures of docs/performance.md and docs/pareto.md from results of the benches named there.

pip install -c constraints.txt '.[bench]'
python bench/plots.py --results bench/results --out docs/images
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, BLUE, ORANGE, GREEN = "#222222", "#0072B2", "#D55E00", "#009E73"


def growth(result: dict[str, Any], out: Path) -> None:
    """Time against tokens and ops, memory against ops, on the CPU."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), constrained_layout=True)
    ops, tokens = result["ops"], result["tokens"]
    lines = (
        (axes[0], ops, "ops", "seconds", 1, f"ops, {ops[0]['tokens']} tokens", "seconds"),
        (axes[1], tokens, "tokens", "seconds", 1, f"tokens, {tokens[0]['ops']} ops", "seconds"),
        (axes[2], ops, "ops", "peak_rss_bytes", 2**20, "ops", "peak resident memory (MiB)"),
    )
    for axis, points, x, y, unit, across, up in lines:
        axis.plot([p[x] for p in points], [p[y] / unit for p in points], "o-", color=BLUE)
        axis.set_xlabel(across)
        axis.set_ylabel(up)
        axis.set_xlim(left=0)
        axis.set_ylim(0, 1.15 * max(p[y] / unit for p in points))
        axis.grid(alpha=0.3)
    figure.savefig(out / "growth.png", dpi=110)


def scans(result: dict[str, Any], out: Path) -> None:
    """Seconds of every scan beside half a forward pass an op."""
    wanted = (
        "mse_v2 isolate",
        "mse_v2 fallback",
        "kl isolate",
        "kl fallback",
        "visibility",
        "sqnr",
        "hawq_v2",
        "images",
    )
    found = [(n, result["parts"][n]) for n in wanted if "seconds" in result["parts"].get(n, {})]
    figure, axis = plt.subplots(figsize=(7.5, 3.4), constrained_layout=True)
    labels = [f"{name} ({part['ops']} ops)" for name, part in found]
    axis.barh(labels, [part["seconds"] for _, part in found], color=BLUE)
    for place, (_, part) in enumerate(found):
        axis.text(part["seconds"], place, f" {part['seconds']:.1f} s", va="center", color=INK)
    floor = result["parts"]["floor"]["half_forwards_s"]
    axis.axvline(floor, color=ORANGE, linestyle="--", label="half a plain forward pass an op")
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel("seconds")
    axis.legend(frameon=False)
    figure.savefig(out / "scans.png", dpi=110)


def pareto(results: dict[str, dict[str, Any]], out: Path) -> None:
    """Bytes of the weights against KL: ours by `kl`, and each of ModelOpt's methods."""
    figure, axes = plt.subplots(1, len(results), figsize=(11, 3.4), constrained_layout=True)
    looks = {"modelopt gradient": (ORANGE, "s--"), "modelopt kl_div": (GREEN, "^--")}
    looks |= {"kl": (BLUE, "o-")}
    for axis, (name, result) in zip(axes, results.items(), strict=True):
        for side, (color, style) in looks.items():
            found = [p for key, p in result["profiles"].items() if key.startswith(f"{side} ")]
            points = sorted(found, key=lambda p: p["bytes"])
            kl = [p["kl"]["value"] for p in points]
            reach = [
                [
                    max(0.0, k - max(p["kl"]["low"], k / 100))
                    for k, p in zip(kl, points, strict=True)
                ],
                [p["kl"]["high"] - k for k, p in zip(kl, points, strict=True)],
            ]
            size = [p["bytes"] / 1e6 for p in points]
            axis.errorbar(
                size, kl, yerr=reach, fmt=style, color=color, label=side, markersize=4, alpha=0.8
            )
        axis.set_yscale("log")
        axis.set_title(name)
        axis.set_xlabel("weights (MB)")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("KL (nats per token)")
    axes[0].legend(frameon=False)
    figure.savefig(out / "pareto.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    result = json.loads((args.results / "scan_full_size.json").read_text())
    scans(result, args.out)
    models = ("smollm2", "demo", "stories260k")
    paths = {name: args.results / f"pareto_{name}.json" for name in models}
    there = {name: path for name, path in paths.items() if path.exists()}
    pareto({name: json.loads(path.read_text()) for name, path in there.items()}, args.out)
    growth(json.loads((args.results / "growth.json").read_text()), args.out)


if __name__ == "__main__":
    main()
