"""The tables of docs/quality.md hold what bench/guard.py measured."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from integration.docs_commands import ROOT

RESULT = json.loads((ROOT / "bench/results/guard_stories260k.json").read_text(encoding="utf-8"))
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/quality.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| `w\d", line)
]


def beaten(profile: dict[str, Any]) -> str:
    verdicts = [rival["verdict"] for rival in profile["rivals"]]
    lost = verdicts.count("loses")
    return f"{verdicts.count('beats')} of {len(verdicts)}" + (f", loses {lost}" if lost else "")


@pytest.mark.parametrize("fmt", ["w8a8-static", "w8a8", "w4a16"])
def test_profiles(fmt: str) -> None:
    profiles = {p["name"]: p for p in RESULT["formats"][fmt]["guard"]["profiles"]}
    rows = [row for row in ROWS if row[0] == fmt and len(row) == 8]
    assert [row[1] for row in rows] == ["mild", "medium", "aggressive"]
    for row in rows:
        for place, name in ((2, row[1]), (5, f"{row[1]}-bytes")):
            found = profiles[name]
            assert int(row[place]) == found["reading"]["groups"]
            assert float(row[place + 1]) == pytest.approx(found["damage"]["value"], rel=5e-3)
            assert row[place + 2] == beaten(found)


@pytest.mark.parametrize("fmt", ["w8a8-static", "w8a8", "w4a16"])
def test_additivity(fmt: str) -> None:
    fit = RESULT["formats"][fmt]["guard"]["additivity"]["fit"]
    (row,) = [row for row in ROWS if row[0] == fmt and len(row) == 5]
    slope, r2, median, most = (float(cell.removesuffix(" %")) for cell in row[1:])
    assert slope == pytest.approx(fit["slope"], abs=0.005)
    assert r2 == pytest.approx(fit["r2"], abs=0.0005)
    assert median == pytest.approx(100 * fit["relative_error_median"], abs=0.05)
    assert most == pytest.approx(100 * fit["relative_error_90"], abs=0.05)
    assert fit["points"] == 15
