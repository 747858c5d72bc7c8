"""docs/pareto.md says what the results of its bench say; what the bench concludes from readings is right."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quantspectrum.spectrum.meter import Reading

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/pareto.md"
RESULTS = ROOT / "bench/results"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"bench/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def tables() -> ModuleType:
    return module("pareto_tables")


@pytest.fixture
def figures() -> ModuleType:
    return module("pareto_figures")


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def test_the_tables_are_made_from_the_results(tables: ModuleType, tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert tables.filled(page, RESULTS) == page
    for path in RESULTS.glob("pareto_*.json"):
        shutil.copy(path, tmp_path)
    changed = result("pareto_demo")
    changed["pairs"][0]["kl"]["verdict"] = "unheard of"
    (tmp_path / "pareto_demo.json").write_text(json.dumps(changed))
    assert "unheard of" in tables.filled(page, tmp_path)


def reading(kl: list[float]) -> Reading:
    return Reading(values={"kl": tuple(kl), "nll_change": tuple(kl)})


BASELINE = Reading(values={"text_tokens": (2.0, 2.0, 4.0), "targets": (2.0, 2.0, 4.0)})


def test_a_pair_is_ours_less_theirs_per_token(figures: ModuleType) -> None:
    readings = {"kl gradient 8.4": reading([1, 1, 2]), "modelopt gradient 8.4": reading([2, 2, 4])}
    profiles = {"kl gradient 8.4": {"a": "w8a8-static"}, "modelopt gradient 8.4": {}}
    made = figures.compared("kl", "gradient 8.4", profiles, readings, BASELINE)
    # Half a nat a token less in every sample: no spread at all.
    assert made["kl"]["value"] == made["kl"]["low"] == made["kl"]["high"] == -0.5
    assert made["kl"]["verdict"] == "better"
    swapped = {
        key: readings[other] for key, other in zip(readings, reversed(readings), strict=True)
    }
    turned = figures.compared("kl", "gradient 8.4", profiles, swapped, BASELINE)
    assert (turned["kl"]["value"], turned["kl"]["verdict"]) == (0.5, "worse")
    noisy = readings | {"kl gradient 8.4": reading([1, 4, 2])}
    assert (
        figures.compared("kl", "gradient 8.4", profiles, noisy, BASELINE)["kl"]["verdict"] == "tie"
    )
    alike = {name: {"a": "w8a8-static"} for name in profiles}
    assert figures.compared("kl", "gradient 8.4", alike, readings, BASELINE)["same"]


def test_what_is_recovered_is_a_share_of_the_whole_damage(figures: ModuleType) -> None:
    everything = reading([2, 3, 4])
    quarter = reading([0.5, 0.75, 1])
    made = figures.recovered(quarter, everything, BASELINE, "kl")
    assert made["value"] == pytest.approx(0.75)
    assert made["low"] == pytest.approx(0.75)
    assert figures.recovered(everything, everything, BASELINE, "kl")["value"] == 0
    # Nothing has no shares.
    assert figures.recovered(quarter, reading([-2, 3, -1]), BASELINE, "kl") is None


@pytest.mark.parametrize("name", [path.stem for path in sorted(RESULTS.glob("pareto_*.json"))])
def test_ours_never_takes_more_bytes_than_theirs(name: str) -> None:
    found = result(name)
    profiles = found["profiles"]
    assert found["pairs"]
    for pair in found["pairs"]:
        key = f"{pair['method']} {pair['effective_bits']:g}"
        ours, theirs = profiles[f"{pair['side']} {key}"], profiles[f"modelopt {key}"]
        assert ours["bytes"] <= theirs["bytes"]
        assert theirs["effective_bits"] <= pair["effective_bits"] + 1e-9
    for key, row in found["recovered"].items():
        if " kept " in key:
            assert row["kept_share"] <= float(key.split()[-1])


def verdicts(name: str, side: str, method: str, what: str) -> list[str]:
    some = [p for p in result(name)["pairs"] if (p["side"], p["method"]) == (side, method)]
    return [pair[what]["verdict"] for pair in some]


@pytest.mark.parametrize("name", ["pareto_demo", "pareto_stories260k"])
@pytest.mark.parametrize("method", ["gradient", "kl_div"])
@pytest.mark.parametrize("side", ["kl", "picked"])
def test_ours_is_nowhere_worse_in_kl(name: str, method: str, side: str) -> None:
    assert len(verdicts(name, side, method, "kl")) == 8
    assert "worse" not in verdicts(name, side, method, "kl")


def test_where_it_is_worse_is_said() -> None:
    assert verdicts("pareto_demo", "visibility", "kl_div", "kl").count("worse") == 1
    assert verdicts("pareto_demo_loss", "kl", "gradient", "kl").count("worse") == 1
    stories = result("pareto_stories260k")
    (worse,) = [
        pair
        for pair in stories["pairs"]
        if pair["side"] == "kl" and pair["loss"]["verdict"] == "worse"
    ]
    # Theirs gains: its loss is below the unquantized model's. Its KL is the larger one.
    theirs = stories["profiles"][f"modelopt {worse['method']} {worse['effective_bits']:g}"]
    assert theirs["loss"]["high"] < 0
    assert worse["kl"]["verdict"] == "better"


def test_why_modelopt_falls_behind() -> None:
    # One negative score, and the threshold search quantizes everything whatever the constraint.
    loss = result("pareto_demo_loss")
    assert min(group["score"] for group in loss["modelopt"]["kl_div"]["groups"]) < 0
    everything = loss["profiles"]["modelopt kl_div 15"]
    assert everything["quantized"] == loss["candidates"]
    # The linear program's answer depends on the scale of the scores, which changes no optimum.
    solver = result("modelopt_solver")["models"]["pareto_demo_loss"]
    (at,) = [row for row in solver if row["effective_bits"] == 9.5]
    assert at["as_they_are"]["status"] == at["times_a_million"]["status"] == "Optimal"
    assert at["as_they_are"]["score"] > 10 * at["times_a_million"]["score"]
    assert at["times_a_million"]["effective_bits"] <= 9.5
    # By ModelOpt's own scores our solver is nowhere behind its own.
    for name in ("pareto_demo", "pareto_demo_loss", "pareto_stories260k"):
        for pair in result(name)["pairs"]:
            if "predicted" in pair:
                ours, theirs = (max(pair["predicted"][who], 0) for who in ("ours", "theirs"))
                assert ours <= theirs * (1 + 1e-6) + 1e-12


@pytest.mark.parametrize("side", ["kl", "picked"])
def test_what_five_percent_recover(side: str) -> None:
    for name, least in (("pareto_demo", 0.30), ("pareto_stories260k", 0.53)):
        row = result(name)["recovered"][f"{side} kept 0.05"]
        assert row["kept_share"] <= 0.05
        assert row["kl"]["low"] > least


@pytest.mark.parametrize("method", ["gradient", "kl_div"])
def test_on_smollm2_what_is_picked_is_nowhere_worse(method: str) -> None:
    for what in ("kl", "loss"):
        found = verdicts("pareto_smollm2", "picked", method, what)
        assert len(found) == 8
        assert "worse" not in found


def test_smollm2() -> None:
    found = result("pareto_smollm2")
    of_gradient, of_kl_div = (
        [p for p in found["pairs"] if (p["side"], p["method"]) == ("kl", method)]
        for method in ("gradient", "kl_div")
    )
    assert Counter(p["kl"]["verdict"] for p in of_gradient) == {"better": 4, "tie": 3, "same": 1}
    assert Counter(p["kl"]["verdict"] for p in of_kl_div)["better"] == 5
    (worse,) = [p["effective_bits"] for p in of_kl_div if p["kl"]["verdict"] == "worse"]
    assert worse == 8.08
    assert found["modelopt"]["kl_div"]["stopped_by"] == "time budget"
    for pair in (*of_gradient, *of_kl_div):
        assert pair["loss"]["verdict"] in ("tie", "same")
    alone, among = (
        found["recovered"][f"{side} kl_div 8.08"]["kl"]["value"] for side in ("kl", "fallback")
    )
    assert (round(alone, 2), round(among, 2)) == (0.15, 0.18)
    hashes = [
        found["profiles"][f"{who} kl_div 8.08"]["ops_sha256"] for who in ("picked", "modelopt")
    ]
    assert hashes[0] == hashes[1]
    row = found["recovered"]["kl gradient 8.4"]
    assert row["kept_share"] <= 0.05 + 1e-9
    assert (round(row["kl"]["value"], 2), round(row["loss"]["value"], 2)) == (0.71, 0.77)
    assert row["kl"]["low"] > 0.69
    assert row["loss"]["low"] > 0.73
    assert found["recovered"]["kl kept 0.1"]["loss"]["value"] > 0.9
