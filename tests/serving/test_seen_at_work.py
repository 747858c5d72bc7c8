"""What was predicted is what vLLM did: `bench/serve_vllm.py` ran it, and here it is predicted again."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from quantspectrum.serving import Capability, Checkpoint, TensorHeader, check_checkpoint

ROOT = Path(__file__).parents[2]
RESULT: dict[str, Any] = json.loads((ROOT / "bench/results/serve_vllm.json").read_text())
FIXTURES = Path(__file__).parent / "fixtures"


def kept(name: str) -> Checkpoint:
    raw = json.loads(gzip.decompress((FIXTURES / f"{name}.json.gz").read_bytes()))
    tensors = {n: TensorHeader(dtype, tuple(shape)) for n, (dtype, shape) in raw["tensors"].items()}
    return Checkpoint(name=name, config=raw["config"], tensors=tensors)


@pytest.mark.parametrize("name", sorted(RESULT["cases"]))
def test_the_prediction_is_what_happened(name: str) -> None:
    case = RESULT["cases"][name]
    report = check_checkpoint(
        kept(name), engine="vllm", capability=Capability.parse("cpu"), dtype=case["dtype"]
    )
    assert case["vllm"]["versions"]["vllm"] == report.engine_version
    assert report.serves == (case["outcome"] == "right")


def test_every_outcome_was_seen() -> None:
    cases = RESULT["cases"]
    assert {case["outcome"] for case in cases.values()} == {"right", "wrong", "error"}
    # Loaded without a word and computed something else: what only a check beforehand tells.
    assert {n for n, case in cases.items() if case["outcome"] == "wrong"} == {
        "torn-formats", "misnamed-ignore", "lost-scale",
    }  # fmt: skip
    assert sorted(p.name for p in FIXTURES.iterdir()) == sorted(f"{n}.json.gz" for n in cases)


def test_the_table_of_the_page_is_made_from_the_result() -> None:
    spec = importlib.util.spec_from_file_location("serve_table", ROOT / "bench/serve_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    assert module.filled(page, RESULT) == page
    assert module.filled(page, {"cases": {}}) != page
