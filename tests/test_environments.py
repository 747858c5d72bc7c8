"""Other frameworks live in environments of their own: files are all that is exchanged."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKERS = ROOT / "src/quantspectrum/isolation/workers"
FRAMEWORKS = {"neural_compressor", "modelopt", "vllm"}


def imported(file: Path) -> set[str]:
    """Top-level names of every module a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    ("folder", "foreign"), [("bench/workers", {"quantspectrum"}), ("src", FRAMEWORKS)]
)
def test_nothing_is_imported_across_environments(folder: str, foreign: set[str]) -> None:
    files = sorted(set((ROOT / folder).rglob("*.py")) - set(WORKERS.rglob("*.py")))
    assert files
    assert {str(file): imported(file) & foreign for file in files if imported(file) & foreign} == {}


def test_workers_import_nothing_of_this_program() -> None:
    files = sorted(WORKERS.rglob("*.py"))
    assert files
    assert [str(file) for file in files if "quantspectrum" in imported(file)] == []


def test_the_workers_are_where_the_frameworks_are_imported() -> None:
    places = [*(ROOT / "bench/workers").glob("*.py"), *WORKERS.glob("*.py")]
    assert set().union(*map(imported, places)) >= FRAMEWORKS
