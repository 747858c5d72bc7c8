"""docs/lenses.md says what the results of its bench say, and names every lens there is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from quantspectrum.lenses import LENSES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/lenses.md"


@pytest.fixture
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lens_tables", ROOT / "bench/lens_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_made_from_the_results(tables: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "| `modelopt:kl_div` |" in page
    assert tables.filled(page, ROOT / "bench/results") == page


def test_another_result_makes_another_table(tables: ModuleType, tmp_path: Path) -> None:
    for name in tables.RESULTS:
        text = (ROOT / f"bench/results/{name}.json").read_text(encoding="utf-8")
        changed = json.loads(text)
        changed["lenses"][0]["seconds"] = 77.7
        (tmp_path / f"{name}.json").write_text(json.dumps(changed))
    assert "| 77.7 |" in tables.filled(PAGE.read_text(encoding="utf-8"), tmp_path)


def test_the_page_names_every_lens() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for lens in LENSES:
        kind, _, rest = lens.partition(":")
        assert lens in page or (kind == "heuristic" and f"`:{rest}`" in page), lens
