"""docs/performance.md says what the results of the benches say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    spec = importlib.util.spec_from_file_location("tables", ROOT / "bench" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_from_the_results(tables: ModuleType) -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    assert page == tables.page(ROOT / "bench" / "results")


def test_another_result_makes_another_page(tables: ModuleType, tmp_path: Path) -> None:
    for file in (ROOT / "bench" / "results").glob("*.json"):
        (tmp_path / file.name).write_text(file.read_text())
    changed = json.loads((tmp_path / "scan_full_size.json").read_text())
    changed["parts"]["sqnr"]["seconds"] = 77.7
    (tmp_path / "scan_full_size.json").write_text(json.dumps(changed))
    assert "| 77.7 |" in tables.page(tmp_path)


def test_the_readme_says_what_the_results_say() -> None:
    results = ROOT / "bench" / "results"
    found = json.loads((results / "scan_full_size.json").read_text())
    parts = found["parts"]
    mse = parts["mse_v2 isolate"]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert (
        f"all 252 language ops scored with `mse_v2` in {mse['seconds']:.1f} s (peak "
        f"{mse['peak_gib']:.1f} GiB, of which the model is {found['model_gib']:.1f}), with `kl` in "
        f"{parts['kl isolate']['seconds']:.1f} s, with `visibility` in "
        f"{parts['visibility']['seconds']:.1f} s; all 414 ops, vision too, on 16 photographs in "
        f"{parts['images']['seconds']:.1f} s"
    ) in text
    evaluated = json.loads((results / "evaluate_full_size.json").read_text())
    assert len(evaluated["variants"]) == 5
    assert f"on 64 captions in {evaluated['variants_wall_s']:.0f} s" in text
    written = json.loads((results / "write_checkpoint_full_size.json").read_text())
    loaded, streamed = (written[way]["seconds"] for way in ("memory", "stream"))
    assert f"written and verified in {loaded:.0f} s, or {streamed:.0f} s straight" in text


def test_the_readme_says_which_kernels_are_slower() -> None:
    found = json.loads((ROOT / "bench/results/int8_latency.json").read_text())["decoder"]
    timed = [entry for entry in found if "ratio" in entry]
    int8 = [e["verdict"] for e in timed if e["kernel"] in ("int_mm", "torchao")]
    fp8 = [e for e in timed if e["kernel"] in ("fp8", "torchao-fp8")]
    prefills, steps = ([e["verdict"] for e in fp8 if (e["tokens"] > 1) is p] for p in (True, False))
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert (
        f"slower than bf16 in {int8.count('slower')} of {len(int8)} passes through that model's "
        f"decoder, FP8 faster in {prefills.count('faster')} of {len(prefills)} prefills and slower "
        f"in {steps.count('slower')} of {len(steps)} steps"
    ) in text
