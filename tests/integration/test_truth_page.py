"""docs/truth.md says what the results of its bench say."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/truth.md"
RESULTS = ROOT / "bench/results"
PER_BYTE = (
    "truth_stories260k_static",
    "truth_stories260k_w8a8",
    "truth_stories260k_w4a16",
)


@pytest.fixture
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("truth_tables", ROOT / "bench/truth_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def orders(name: str, fmt: str) -> dict[str, Any]:
    truth = json.loads((RESULTS / f"{name}.json").read_text())["formats"][fmt]["truth"]
    return {order["label"]: order for order in truth["orders"]} | {"truth": truth}


def test_the_tables_are_made_from_the_results(tables: ModuleType, tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert tables.filled(page, RESULTS) == page
    for name in (*tables.RESULTS, tables.SCORES):
        shutil.copy(RESULTS / f"{name}.json", tmp_path)
    changed = json.loads((tmp_path / "truth_smollm2.json").read_text())
    changed["formats"]["w8a8-static"]["truth"]["orders"][0]["seconds"] = 77.7
    (tmp_path / "truth_smollm2.json").write_text(json.dumps(changed))
    assert "| 77.7 |" in tables.filled(page, tmp_path)


@pytest.mark.parametrize(
    ("name", "fmt"),
    [("truth_smollm2", "w8a8-static"), ("truth_stories260k_static", "w8a8-static")],
)
def test_what_the_page_concludes(name: str, fmt: str) -> None:
    found = orders(name, fmt)
    ceiling = found["truth"]["ceiling"]
    for lens in ("native:kl isolate", "native:visibility"):
        assert found[lens]["spearman"]["high"] >= ceiling - 0.02
    best = found["native:kl isolate"]["area"]["value"]
    for lens in ("native:kl fallback", "native:mse_v2 fallback"):
        assert found[lens]["area_more"]["low"] > 0
    assert found["native:visibility"]["seconds"] < found["native:kl isolate"]["seconds"] / 2
    chance = [order["area"]["value"] for label, order in found.items() if "random" in label]
    for lens in ("native:sqnr", "native:hawq_v2", "native:nll"):
        assert best < found[lens]["area"]["value"]
    assert found["heuristic:range"]["area"]["value"] < min(chance)
    assert found["heuristic:ends"]["area"]["value"] > min(chance)


def test_the_fallback_direction_on_smollm2() -> None:
    found = orders("truth_smollm2", "w8a8-static")
    for lens in ("native:kl fallback", "native:mse_v2 fallback"):
        interval = found[lens]["spearman"]
        assert interval["low"] < 0 < interval["high"]


def test_the_best_order_of_all_lenses_is_of_native_kl_or_visibility(tables: ModuleType) -> None:
    for name in tables.RESULTS:
        result = json.loads((RESULTS / f"{name}.json").read_text())
        for found in result["formats"].values():
            best = found["truth"]["best"].removesuffix(" per byte").removesuffix(" isolate")
            if name != "truth_smollm2_w4a16":
                assert best in ("native:kl", "native:visibility"), name


def test_on_smollm2_with_dynamic_activations() -> None:
    found = orders("truth_smollm2_w8a8", "w8a8")
    assert found["truth"]["best"] == "native:visibility per byte"
    for lens in ("native:visibility", "native:kl", "native:kl per byte"):
        assert found[lens]["area_more"]["low"] < 0
    for lens in ("native:visibility", "native:kl"):
        assert found[lens]["spearman"]["low"] > 0.95
    assert found["modelopt:gradient"]["spearman"]["high"] < 0.9
    assert found["modelopt:gradient"]["area_more"]["low"] > 0


def test_on_smollm2_in_four_bits_three_orders_per_byte_are_as_good() -> None:
    found = orders("truth_smollm2_w4a16", "w4a16")
    assert found["truth"]["best"] == "native:mse_v2 isolate per byte"
    for lens in ("native:kl isolate", "native:visibility"):
        assert found[f"{lens} per byte"]["area_more"]["low"] < 0
        assert found[lens]["area_more"]["low"] > 0  # By score: surely worse.
        assert found[lens]["spearman"]["value"] > 0.95


@pytest.mark.parametrize("name", PER_BYTE)
def test_per_byte_is_surely_better_on_stories260k(name: str) -> None:
    (fmt,) = json.loads((RESULTS / f"{name}.json").read_text())["formats"]
    found = orders(name, fmt)
    assert found["truth"]["best"].endswith(" per byte")
    for lens in ("native:kl isolate", "native:visibility"):
        assert found[lens]["area_more"]["low"] > 0


def test_what_was_put_down_to_interaction_was_the_bytes() -> None:
    found = orders("truth_stories260k_w4a16", "w4a16")
    kl, measured = found["native:kl isolate"], found["measured"]
    assert kl["spearman"]["low"] > 0.9
    for lens in ("heuristic:range", "heuristic:down-proj", "native:sqnr"):
        area = found[lens]["area"]["value"]
        assert area < min(kl["area"]["value"], measured["area"]["value"])
        assert area > found["measured per byte"]["area"]["value"]
        # Paired over the samples, against native kl per byte, which is the best.
        assert found[lens]["area_more"]["low"] > 0


def test_the_one_framework_in_four_bits() -> None:
    for name, surely in (("truth_stories260k_w4a16", True), ("truth_demo_w4a16", False)):
        found = orders(name, "w4a16")
        lens, per_byte = found["autoround:scheme"], found["autoround:scheme per byte"]
        for best in ("native:kl isolate", "native:visibility"):
            assert 0.8 < lens["spearman"]["value"] < found[best]["spearman"]["value"]
        assert per_byte["area"]["value"] < lens["area"]["value"]
        # Against the best order of the table, paired over the samples.
        assert (per_byte["area_more"]["low"] > 0) is surely
    stories = orders("truth_stories260k_w4a16", "w4a16")
    chance = [order["area"]["value"] for label, order in stories.items() if "random" in label]
    assert stories["autoround:scheme"]["area"]["value"] > min(chance)


def test_incs_hessian_traces_are_in_one_table() -> None:
    demo = orders("truth_demo_static", "w8a8-static")
    hawq = demo["inc:hawq_v2"]
    assert hawq["groups"] < len(demo["truth"]["groups"])
    assert hawq["spearman"]["low"] < 0 < hawq["spearman"]["high"]
    chance = [order["area"]["value"] for label, order in demo.items() if "random" in label]
    assert hawq["area"]["value"] > min(chance)
    stories = json.loads((RESULTS / "truth_stories260k_static.json").read_text())
    absent = {one["lens"]: one["reason"] for one in stories["formats"]["w8a8-static"]["absent"]}
    assert absent == {"inc:hawq_v2": "scored no op: time budget"}


def test_the_smallest_area_of_all_lenses_on_smollm2() -> None:
    found = orders("truth_smollm2_static_cpu", "w8a8-static")
    assert found["truth"]["best"] == "native:kl isolate per byte"
    for lens in ("modelopt:kl_div", "modelopt:gradient", "native:visibility"):
        more = found[f"{lens} per byte"]["area_more"]
        assert more["low"] < 0 < more["value"]
        assert found[lens]["spearman"]["value"] >= 0.965
    assert found["native:kl isolate"]["spearman"]["low"] > 0.98
    assert found["native:kl fallback"]["groups"] < len(found["truth"]["groups"])
    assert {"autoround:scheme #1", "autoround:scheme #2", "inc:mse_v2"} <= found.keys()


def test_frameworks_on_smollm2() -> None:
    result = json.loads((RESULTS / "truth_smollm2_lenses.json").read_text())
    rows = {row["lens"]: row for row in result["lenses"] if not row["options"]}
    assert rows["modelopt:gradient"]["spearman"]["low"] > 0.9
    assert rows["inc:mse_v2"]["stopped_by"] == "time budget"
    assert rows["inc:mse_v2"]["scored"] < rows["inc:mse_v2"]["found"]
    assert "modelopt:kl_div" in {one["lens"] for one in result["absent"]}
