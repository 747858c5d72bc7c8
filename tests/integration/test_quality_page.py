"""The tables of docs/quality.md hold what bench/guard.py measured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration.docs_commands import ROOT

RESULTS = {
    model: json.loads((ROOT / f"bench/results/guard_{model}.json").read_text(encoding="utf-8"))
    for model in ("smollm2", "stories260k")
}
CASES = [(model, fmt) for model, result in RESULTS.items() for fmt in result["formats"]]
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/quality.md").read_text(encoding="utf-8").splitlines()
    if line.split(" ")[1:2] and line.split(" ")[1] in RESULTS
]


def rows_of(model: str, fmt: str, cells: int) -> list[list[str]]:
    return [row[2:] for row in ROWS if row[:2] == [model, fmt] and len(row) == cells]


def beaten(profile: dict[str, Any]) -> str:
    verdicts = [rival["verdict"] for rival in profile["rivals"]]
    lost = verdicts.count("loses")
    return f"{verdicts.count('beats')} of {len(verdicts)}" + (f", loses {lost}" if lost else "")


@pytest.mark.parametrize(("model", "fmt"), CASES)
def test_profiles(model: str, fmt: str) -> None:
    profiles = {p["name"]: p for p in RESULTS[model]["formats"][fmt]["guard"]["profiles"]}
    rows = rows_of(model, fmt, 9)
    assert [row[0] for row in rows] == ["mild", "medium", "aggressive"]
    for row in rows:
        for place, name in ((1, row[0]), (4, f"{row[0]}-bytes")):
            found = profiles[name]
            assert int(row[place]) == found["reading"]["groups"]
            assert float(row[place + 1]) == pytest.approx(found["damage"]["value"], rel=5e-3)
            assert row[place + 2] == beaten(found)
        cut, budget = (profiles[name]["damage"]["value"] for name in (row[0], f"{row[0]}-bytes"))
        assert budget <= cut
        assert "loses" not in row[6]


@pytest.mark.parametrize(("model", "fmt"), CASES)
def test_additivity(model: str, fmt: str) -> None:
    fit = RESULTS[model]["formats"][fmt]["guard"]["additivity"]["fit"]
    (row,) = rows_of(model, fmt, 7)
    points, slope, r2, median, most = (float(cell.removesuffix(" %")) for cell in row)
    assert points == fit["points"]
    assert slope == pytest.approx(fit["slope"], abs=0.005)
    assert r2 == pytest.approx(fit["r2"], abs=0.0005)
    assert median == pytest.approx(100 * fit["relative_error_median"], abs=0.05)
    assert most == pytest.approx(100 * fit["relative_error_90"], abs=0.05)
