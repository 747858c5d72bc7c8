"""The tables of docs/lenses.md, from the results of bench/lenses.py: put between the page's markers.

python bench/lens_tables.py --results bench/results --page docs/lenses.md
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from results_page import placed, run

RESULTS = {
    "lenses_stories260k": "stories260k, WikiText-2, at most 128 tokens a sample",
    "lenses_demo": "the embedded Qwen2.5-VL, with pictures in part of the samples",
}


def main() -> None:
    run(__doc__, filled)


def filled(page: str, results: Path) -> str:
    """The page with the tables of the results."""
    made = "\n".join(
        section(says, name, json.loads((results / f"{name}.json").read_text()))
        for name, says in RESULTS.items()
    )
    return placed(page, made)


def section(says: str, name: str, result: dict[str, Any]) -> str:
    """A table of one model's lenses."""
    head = "| lens | format | seconds | ops | Spearman, ops | Spearman, groups |"
    rows = [head, "|---|---|---:|---:|---:|---|", *(line(row) for row in result["lenses"])]
    return f"\n`{name}.json`: {says}.\n\n" + "\n".join(rows) + "\n"


def line(row: dict[str, Any]) -> str:
    """A lens's row; of one that failed, its last words."""
    options = " ".join(f"{name}={value}" for name, value in row["options"].items())
    cells = [f"`{row['lens']}` {options}".strip(), f"`{row['format']}`", f"{row['seconds']:.1f}"]
    if "error" in row:
        reason = re.sub(r":[^:]*\|.*", "", row["error"])
        return "| " + " | ".join([*cells, "0", "", f"failed: {reason}"]) + " |"
    stopped = f" ({row['stopped_by']})" if row["stopped_by"] else ""
    ops, groups = row["agreement"]["op"], row["agreement"]["group"]
    cells += [f"{row['scored']}{stopped}", _number(ops["value"])]
    interval = (
        "" if groups["low"] is None else f" ({_number(groups['low'])} to {_number(groups['high'])})"
    )
    return "| " + " | ".join([*cells, _number(groups["value"]) + interval]) + " |"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
