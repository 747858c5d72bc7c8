"""The tables of docs/pareto.md, from the results of bench/pareto.py: put between the page's markers.

python bench/pareto_tables.py --results bench/results --page docs/pareto.md
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from results_page import placed, run

RESULTS = {  # Those that are there are put on the page.
    "pareto_smollm2": "SmolLM2-135M-Instruct",
    "pareto_demo": "The demo model",
    "pareto_demo_loss": "The demo model, ModelOpt's scores of the answers' tokens alone",
    "pareto_stories260k": "stories260k",
}
SIDES = ("kl", "visibility", "fallback", "picked")
"""Ours: `kl` and `visibility` from base isolate, `kl` from base fallback, and the best of these as measured."""

KEPT = {0.01: 8.08, 0.05: 8.4, 0.1: 8.8}
"""For each share of the weights that is kept, ModelOpt's effective bits."""


def main() -> None:
    run(__doc__, filled)


def filled(page: str, results: Path) -> str:
    """The page with the summary and the tables of each model."""
    found = {name: load(results, name) for name in RESULTS if (results / f"{name}.json").exists()}
    made = summary(found) + "".join(section(name, result) for name, result in found.items())
    return placed(page, made)


def load(results: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    return found


def summary(found: dict[str, dict[str, Any]]) -> str:
    """How often ours is better, alike or worse."""
    lines = ["\n| model | ModelOpt's | ours | budgets | KL | loss |", "|---|---|---|---:|---|---|"]
    for name, result in found.items():
        for method in methods(result):
            for side in sides(result):
                some = of(result, side, method)
                counts = [
                    counted(pair[what]["verdict"] for pair in some) for what in ("kl", "loss")
                ]
                cells = [RESULTS[name], f"`{method}`", f"`{side}`", str(len(some)), *counts]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def of(result: dict[str, Any], side: str, method: str) -> list[dict[str, Any]]:
    return [p for p in result["pairs"] if (p["side"], p["method"]) == (side, method)]


def sides(result: dict[str, Any]) -> list[str]:
    """Who of ours is in a result."""
    there = {pair["side"] for pair in result["pairs"]}
    return [side for side in SIDES if side in there]


def methods(result: dict[str, Any]) -> list[str]:
    """ModelOpt's methods that were measured."""
    there = {pair["method"] for pair in result["pairs"]}
    return [method for method in result["modelopt"] if method in there]


def counted(verdicts: Any) -> str:
    counts = Counter(verdicts)
    order = ("better", "same", "tie", "worse")
    return ", ".join(f"{counts[v]} {v}" for v in order if counts[v])


def section(name: str, result: dict[str, Any]) -> str:
    """A model's tables: every budget, and what is recovered."""
    data, everything = result["data"], result["profiles"]["all"]
    lines = [
        f"\n## {RESULTS[name]}\n",
        f"`{name}.json`: {result['groups']} groups, {data['samples']} samples to score, "
        f"{result['eval_samples']} held out, at most {data['max_length']} tokens each, "
        f"loss {result['baseline_loss']:.4f} nats per token before. Everything in `{result['format']}`: KL "
        f"{interval(everything['kl'])}, loss {interval(everything['loss'], '+')}.\n",
    ]
    for method in methods(result):
        lines += curve(result, method)
    return "\n".join([*lines, *recovery(result)]) + "\n"


def curve(result: dict[str, Any], method: str) -> list[str]:
    """Every budget of one method of ModelOpt's: the first of ours in full, of the others the verdict."""
    scored = result["modelopt"][method]["settings"]["batches_scored"]
    first, *others = sides(result)
    heads = ["bits", "MB, theirs", "MB, ours"]
    for what in ("KL", "loss"):
        heads += [f"{what}, theirs", f"{what}, ours", "ours less theirs", f"`{first}`"]
    heads += [f"`{side}`, KL" for side in others]
    lines = [
        f"Against `{method}` ({scored} batches scored):\n",
        f"| {' | '.join(heads)} |",
        "|---:|---:|---:|" + "---|" * (len(heads) - 3),
    ]
    verdicts = {
        (side, pair["effective_bits"]): pair["kl"]["verdict"]
        for side in others
        for pair in of(result, side, method)
    }
    for pair in of(result, first, method):
        bits = pair["effective_bits"]
        key = f"{method} {bits:g}"
        theirs, ours = (result["profiles"][f"{side} {key}"] for side in ("modelopt", first))
        cells = [f"{bits:g}", *(f"{p['bytes'] / 1e6:.3f}" for p in (theirs, ours))]
        for what, sign in (("kl", ""), ("loss", "+")):
            cells += [number(p[what]["value"], sign) for p in (theirs, ours)]
            told = "" if pair["same"] else interval(pair[what], "+")
            cells += [told, pair[what]["verdict"]]
        cells += [verdicts[side, bits] for side in others]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def recovery(result: dict[str, Any]) -> list[str]:
    """Share of the damage that is recovered by keeping a few of the weights."""
    lines = [
        "Recovered by keeping a share of the candidates' weights in 16 bits:\n",
        "| at most | whose | kept | of the KL | of the loss |",
        "|---:|---|---:|---|---|",
    ]
    for share, bits in KEPT.items():
        names = {f"`{side}`": f"{side} kept {share:g}" for side in sides(result)}
        names |= {f"ModelOpt `{m}`": f"modelopt {m} {bits:g}" for m in methods(result)}
        for who, name in names.items():
            row = result["recovered"].get(name)
            if row is None:
                continue
            told = [percent(row[what]) for what in ("kl", "loss")]
            lines.append(f"| {share:.0%} | {who} | {row['kept_share']:.2%} | {' | '.join(told)} |")
    return lines


def interval(made: dict[str, Any], sign: str = "") -> str:
    value, low, high = (number(made[key], sign) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3g}"


def percent(made: dict[str, Any] | None) -> str:
    if made is None:
        return "no damage told apart from none"
    return f"{made['value']:.1%} ({made['low']:.1%} to {made['high']:.1%})"


if __name__ == "__main__":
    main()
