"""bench/int8_latency.py: what comes first, what a budget leaves, and what a cut run has written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
ASSETS = Path(__file__).parents[3] / "shared/assets"


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    sys.path.insert(0, str(BENCH))
    try:
        import int8_latency

        yield int8_latency
    finally:
        sys.path.remove(str(BENCH))


def test_int8_at_prefill_and_step_comes_first_and_bf16_before_what_it_is_compared_with(
    bench: Any,
) -> None:
    sizes = bench.Sizes()
    parts = bench.parts_in_order(sizes)
    assert [(p.kernel, p.op, p.items) for p in parts[:3]] == [
        (kernel, None, ((1, 512), (1, 1))) for kernel in ("bf16", "int_mm", "torchao")
    ]
    labels = [part.label(item) for part in parts for item in part.items]
    assert len(set(labels)) == len(labels)
    for part in parts:
        for item in part.items:
            plain = bench.Part("bf16", part.items, part.op).label(item)
            assert labels.index(plain) <= labels.index(part.label(item))
    single = [index for index, part in enumerate(parts) if part.op is not None]
    int8 = [i for i, p in enumerate(parts) if p.op is None and p.kernel in bench.INT8]
    assert max(int8) < min(single)


def test_no_figure_is_begun_after_the_budget_and_each_is_written(bench: Any) -> None:
    now, taken, written = [0.0], [], []

    def measure(part: Any) -> Iterator[None]:
        for item in part.items:
            now[0] += 10
            taken.append(part.label(item))
            yield

    parts = [bench.Part("bf16", ((1, 8), (1, 1))), bench.Part("int_mm", ((1, 8), (1, 1)))]
    run = {"write": lambda left: written.append(list(left)), "clock": lambda: now[0]}
    left = bench.run_parts(parts, measure, budget=25, **run)
    assert taken == ["decoder bf16 1x8", "decoder bf16 1x1", "decoder int_mm 1x8"]
    assert left == ["decoder int_mm 1x1"] == written[-1]
    assert [len(one) for one in written] == [3, 2, 1]
    assert bench.run_parts(parts, measure, budget=None, **run) == []
    assert bench.run_parts(parts, measure, budget=0, **run) == [
        part.label(item) for part in parts for item in part.items
    ]


def test_ratios_wait_for_bf16(bench: Any) -> None:
    times = {"median_us": 2.0, "low_us": 1.9, "high_us": 2.1}
    (alone,) = bench.with_ratios([{"kernel": "int_mm", "rows": 1} | times], ("rows",))
    assert "ratio" not in alone
    plain = {"kernel": "bf16", "rows": 1, "median_us": 1.0, "low_us": 0.9, "high_us": 1.1}
    found = bench.with_ratios([plain, {"kernel": "int_mm", "rows": 1} | times], ("rows",))
    assert (found[1]["ratio"], found[1]["verdict"]) == (0.5, "slower")


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["1", None])
def test_a_tiny_run_writes_what_its_budget_allows(tmp_path: Path, budget: str | None) -> None:
    if not ASSETS.is_dir():
        pytest.skip("needs the configuration in ../shared/assets, which is absent")
    out = tmp_path / "r.json"
    command = [sys.executable, str(BENCH / "int8_latency.py"), "--tiny", "--assets", str(ASSETS)]
    command += ["--out", str(out), *(("--time-budget", budget) if budget else ())]
    paths = os.pathsep.join([str(BENCH.parent / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=500)
    result = json.loads(out.read_text())
    assert result["decoder"][0]["kernel"] == "bf16"
    if budget:
        assert len(result["decoder"]) < 3
        assert result["not_run"]
        return
    assert result["not_run"] == []
    kernels = {"bf16", "int_mm", "torchao"} - set(result["absent"])
    assert {entry["kernel"] for entry in result["decoder"]} == kernels
    assert all("ratio" in entry or "refused" in entry for entry in result["decoder"])
    assert {entry["op"] for entry in result["single_ops"]} == {"qkv", "o", "gate_up", "down"}
