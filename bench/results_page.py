"""What the makers of pages from results share: options, results, tables, and where on a page they go."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["load", "placed", "run", "table"]

_PLACE = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end -->)", re.DOTALL)


def load(results: Path, name: str) -> Any:
    """A result, or ``None`` where there is none."""
    path = results / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose first column is text and whose others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def placed(page: str, made: str) -> str:
    """The page with what was made between its markers."""
    return _PLACE.sub(lambda _: made, page)


def run(about: str, filled: Callable[[str, Path], str]) -> None:
    """Fill the page that the options name from the results that they name."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args()
    args.page.write_text(filled(args.page.read_text(), args.results))
