"""bench/int8_latency.py: what comes first, what a budget leaves, and what a cut run has written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from quantspectrum.demo import model_dir

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


def test_the_decoder_comes_first_and_bf16_before_what_it_is_compared_with(bench: Any) -> None:
    sizes = bench.Sizes()
    parts = bench.parts_in_order(sizes)
    assert [(p.kernel, p.op, p.items) for p in parts[:3]] == [
        (kernel, None, ((1, 512), (8, 512))) for kernel in ("bf16", "int_mm", "torchao")
    ]
    labels = [part.label(item) for part in parts for item in part.items]
    assert len(set(labels)) == len(labels)
    for part in parts:
        for item in part.items:
            plain = bench.Part("bf16", part.items, part.op).label(item)
            assert labels.index(plain) <= labels.index(part.label(item))
    single = [index for index, part in enumerate(parts) if part.op is not None]
    decoder = [index for index, part in enumerate(parts) if part.op is None]
    assert max(decoder) < min(single)


def test_the_decoder_computes_what_transformers_computes(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AutoConfig.from_pretrained(model_dir()).text_config
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _self, **_options: None)
    own = bench.Decoder(config, lambda layers: layers, torch.device("cpu"))
    torch.manual_seed(0)
    theirs = bench.Qwen2_5_VLTextModel._from_config(config, dtype=torch.bfloat16).eval()
    x = torch.randn(2, 9, config.hidden_size).bfloat16()
    with torch.inference_mode():
        expected = theirs(inputs_embeds=x, use_cache=False).last_hidden_state
        assert torch.equal(own(x, own.turns(x)), expected)
        assert not torch.equal(own(x, own.turns(x.flip(1)[:, :1])), expected)


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
def test_a_tiny_run_writes_what_its_budget_allows(tmp_path: Path) -> None:
    if not ASSETS.is_dir():
        pytest.skip("needs the configuration in ../shared/assets, which is absent")
    out = tmp_path / "r.json"
    command = [sys.executable, str(BENCH / "int8_latency.py"), "--tiny", "--assets", str(ASSETS)]
    command += ["--out", str(out), "--time-budget", "1"]
    paths = os.pathsep.join([str(BENCH.parent / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=500)
    result = json.loads(out.read_text())
    assert result["decoder"][0]["kernel"] == "bf16"
    assert len(result["decoder"]) < 3
    assert result["not_run"]


@pytest.mark.slow
def test_rows_of_an_op_are_timed_beside_bf16(bench: Any) -> None:
    config = SimpleNamespace(
        hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2
    )
    own = bench.Bench(config, torch.device("cpu"), 4)
    parts = [bench.Part(kernel, (3, 32), "qkv") for kernel in ("bf16", "int_mm")]
    assert bench.run_parts(parts, own.measure, budget=None, write=lambda _left: None) == []
    found = bench.with_ratios(own.single_ops, ("op", "rows"))
    assert [(e["kernel"], e["rows"], e["shape"]) for e in found] == [
        (kernel, rows, [128, 64]) for kernel in ("bf16", "int_mm") for rows in (3, 32)
    ]
    assert all(e["ratio"] > 0 for e in found)
    # Codes of 8 bits on either side: apart from bf16 by their rounding, and by no more.
    assert all(e["relative_l2"] < 0.03 for e in found)
    assert all(e["relative_l2"] > 0.002 for e in found if e["kernel"] == "int_mm")
