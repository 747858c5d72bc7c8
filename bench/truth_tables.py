"""The tables of docs/truth.md, from the results of bench/truth.py: put between the page's markers.

python bench/truth_tables.py --results bench/results --page docs/truth.md
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

RESULTS = ("truth_smollm2", "truth_stories260k")
_PLACE = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args()
    args.page.write_text(filled(args.page.read_text(), args.results))


def filled(page: str, results: Path) -> str:
    """The page with a table for each model and format."""
    made = "\n".join(
        section(name, load(results, name), fmt)
        for name in RESULTS
        for fmt in formats(load(results, name))
    )
    return _PLACE.sub(lambda _: made, page)


def load(results: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    return found


def formats(result: dict[str, Any]) -> list[str]:
    return sorted(result["formats"], reverse=True)


def section(name: str, result: dict[str, Any], fmt: str) -> str:
    """One table: orders by their area."""
    truth = result["formats"][fmt]["truth"]
    machine = result["environment"]["device_name"]
    ceiling = "undefined" if truth["ceiling"] is None else f"{truth['ceiling']:.3f}"
    lines = [
        f"\n## {result['model']['id']}, `{fmt}`\n",
        f"`{name}.json`: {len(truth['groups'])} groups, {truth['samples']} held-out samples, "
        f"{result['environment']['device']} ({machine}). Measured damages agree with themselves to {ceiling}.\n",
        "| order | Spearman | area, nats/token | more than the best | seconds |",
        "|---|---|---|---|---:|",
    ]
    for order in sorted(truth["orders"], key=lambda order: order["area"]["value"]):
        more = "best" if order["label"] == truth["best"] else interval(order["area_more"])
        seconds = "" if order["seconds"] is None else f"{order['seconds']:.1f}"
        cells = [
            order["label"],
            interval(order["spearman"]),
            interval(order["area"]),
            more,
            seconds,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def interval(made: dict[str, Any] | None) -> str:
    if made is None or made["value"] is None:
        return ""
    if made["low"] is None:
        return f"{made['value']:.3g}"
    return f"{made['value']:.3g} ({made['low']:.3g} to {made['high']:.3g})"


if __name__ == "__main__":
    main()
