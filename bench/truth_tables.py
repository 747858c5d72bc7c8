"""The tables of docs/truth.md, from the results of bench/truth.py: put between the page's markers.

python bench/truth_tables.py --results bench/results --page docs/truth.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from results_page import placed, run

RESULTS = (
    "truth_smollm2",
    "truth_smollm2_static_cpu",
    "truth_smollm2_w8a8",
    "truth_smollm2_w4a16",
    "truth_stories260k_static",
    "truth_stories260k_w8a8",
    "truth_stories260k_w4a16",
    "truth_demo_static",
    "truth_demo_w8a8",
    "truth_demo_w4a16",
)
SCORES = "truth_smollm2_lenses"
NAMES = {"smol": "SmolLM2-135M-Instruct", "quantspectrum-demo": "the demo model"}


def main() -> None:
    run(__doc__, filled)


def filled(page: str, results: Path) -> str:
    """The page with a table for each model and format."""
    made = "\n".join(
        section(name, load(results, name), fmt)
        for name in RESULTS
        for fmt in formats(load(results, name))
    )
    scores = scores_section(SCORES, load(results, SCORES))
    return placed(page, f"{made}\n{scores}")


def load(results: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    return found


def formats(result: dict[str, Any]) -> list[str]:
    return sorted(result["formats"], reverse=True)


def section(name: str, result: dict[str, Any], fmt: str) -> str:
    """One table: orders by their area; below it the lenses that have none."""
    found = result["formats"][fmt]
    truth = found["truth"]
    data = result["data"]
    machine = result["environment"]["device_name"]
    ceiling = "undefined" if truth["ceiling"] is None else f"{truth['ceiling']:.3f}"
    lines = [
        f"\n## {NAMES.get(result['model']['id'], result['model']['id'])}, `{fmt}`, `{name}.json`\n",
        f"{len(truth['groups'])} groups, {data['samples']} samples to score on and {truth['samples']} held out, "
        f"at most {data['max_length']} tokens each, {result['environment']['device']} ({machine}). "
        f"Measured damages agree with themselves to {ceiling}.\n",
        "| order | scored in | Spearman | area, nats/token | more than the best | "
        "loss at 50 % | loss at 90 % | seconds | memory |",
        "|---|---|---|---|---|---|---|---:|---:|",
    ]
    rows = lens_rows(found)
    for order in sorted(truth["orders"], key=lambda order: order["area"]["value"]):
        lines.append(line(order, rows.get(order["label"]), truth, fmt))
    if few := fewer_samples(found, data):
        lines += ["", few]
    absent = [f"- no `{one['lens']}`: {one['reason']}" for one in found.get("absent", ())]
    return "\n".join([*lines, *([""] if absent else []), *absent]) + "\n"


def scores_section(name: str, result: dict[str, Any]) -> str:
    """A table of lenses whose scores are held against damages that another result measured."""
    data, machine = result["data"], result["environment"]["device_name"]
    lines = [
        f"\n## {NAMES.get(result['model']['id'], result['model']['id'])}, `{result['format']}`, `{name}.json`\n",
        f"Scores made on {result['environment']['device']} ({machine}), held against the {result['groups']} damages of "
        f"`{result['damages_of']}`; samples of at most {data['max_length']} tokens from the same draw.\n",
        "| lens | scored in | samples | groups | Spearman | seconds | memory |",
        "|---|---|---:|---:|---|---:|---:|",
    ]
    for row in sorted(result["lenses"], key=lambda row: -(row["spearman"]["value"] or 0)):
        options = " ".join(f"{key}={value}" for key, value in row["options"].items())
        batches = (row.get("limits") or {}).get("confidence_batches")
        samples = data["samples"] if batches is None else batches * data["batch_size"]
        stopped = f" ({row['stopped_by']})" if row["stopped_by"] else ""
        cells = [
            f"{row['lens']} {options}".strip() + ("" if row["options"] else f" {row['base']}"),
            f"`{row['format']}`" if row["format"] != result["format"] else "",
            f"{samples}",
            f"{row['groups']}{stopped}",
            interval(row["spearman"]),
            *cost({"seconds": None, "peak_bytes": None}, row),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    absent = [f"- no `{one['lens']}`: {one['reason']}" for one in result["absent"]]
    return "\n".join([*lines, *([""] if absent else []), *absent]) + "\n"


def fewer_samples(found: dict[str, Any], data: dict[str, Any]) -> str:
    """Which lenses scored on fewer samples than were drawn, in a sentence."""
    by: dict[int, list[str]] = {}
    for row in found.get("lenses", ()):
        batches = row.get("limits", {}).get("confidence_batches")
        if batches is not None and batches * data["batch_size"] < data["samples"]:
            name = (
                f"{row['lens']} {row['base']}" if row["lens"].startswith("native") else row["lens"]
            )
            by.setdefault(batches * data["batch_size"], []).append(f"`{name}`")
    return "; ".join(
        f"Scored on the first {samples} samples alone: {', '.join(dict.fromkeys(names))}"
        for samples, names in sorted(by.items())
    )


def lens_rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is known of each order's lens, by the order's label: they are in the order of the reports."""
    orders = [
        order
        for order in found["truth"]["orders"]
        if order["kind"] == "lens" and not order.get("per_byte")
    ]
    rows = dict(zip([order["label"] for order in orders], found.get("lenses", ()), strict=False))
    return rows | {f"{label} per byte": row for label, row in rows.items()}


def line(order: dict[str, Any], row: dict[str, Any] | None, truth: dict[str, Any], fmt: str) -> str:
    """An order's row; what it took is said once, not again for the same scores per byte."""
    best = order["label"] == truth["best"]
    cells = [
        named(order, row, len(truth["groups"])),
        f"`{row['format']}`" if row is not None and row["format"] != fmt else "",
        interval(order["spearman"]),
        interval(order["area"]),
        "best" if best else interval(order["area_more"]),
        *(interval(loss_at(order, share)) for share in (0.5, 0.9)),
        *(("", "") if order.get("per_byte") else cost(order, row)),
    ]
    return f"| {' | '.join(cells)} |"


def named(order: dict[str, Any], row: dict[str, Any] | None, groups: int) -> str:
    """The order's name, with the lens's options, and its groups where it does not rank all."""
    label: str = order["label"]
    if row is not None and row["options"]:
        options = " ".join(f"{name}={value}" for name, value in row["options"].items())
        label = f"{row['lens']} {options}{' per byte' if order['per_byte'] else ''}"
    elif row is not None and "#" in label:
        label = f"{row['lens']}{' per byte' if order['per_byte'] else ''}"
    return label if order["groups"] == groups else f"{label}, {order['groups']} groups"


def loss_at(order: dict[str, Any], share: float) -> dict[str, Any] | None:
    """Change of the loss at the point of the curve that is nearest to a share of bytes."""
    nearest = min(order["curve"], key=lambda point: abs(point["share"] - share))
    found: dict[str, Any] | None = nearest["nll"]
    return found


def cost(order: dict[str, Any], row: dict[str, Any] | None) -> tuple[str, str]:
    """Seconds and peak memory of making the ranking."""
    seconds = order["seconds"] if row is None or "seconds" not in row else row["seconds"]
    peak = order["peak_bytes"]
    if row is not None:
        peak = row.get("worker_peak_bytes") or row["peak_device_bytes"] or row.get("peak_bytes")
    together = 1 if row is None else row.get("made_together", 1)
    said = "" if seconds is None else f"{seconds:.1f}"
    return (
        f"{said} for {together}" if together > 1 else said,
        "" if peak is None else f"{peak / 2**20:.0f} MiB",
    )


def interval(made: dict[str, Any] | None) -> str:
    if made is None or made["value"] is None:
        return ""
    if made["low"] is None:
        return f"{made['value']:.3g}"
    return f"{made['value']:.3g} ({made['low']:.3g} to {made['high']:.3g})"


if __name__ == "__main__":
    main()
