"""What the makers of pages from results share: options, and where on a page the tables go."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["placed", "run"]

_PLACE = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end -->)", re.DOTALL)


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
