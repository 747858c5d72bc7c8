"""The latency table: real kernels, absent ones with their reason, and its use by budgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import models_tiny
from quantspectrum.artifacts import LatencyTable, Op, read_artifact
from quantspectrum.cli import main
from quantspectrum.errors import UserError
from quantspectrum.formats import PRESETS, Format, preset
from quantspectrum.models.loading import Loaded
from quantspectrum.quantizer import fake_quantize_input, fake_quantize_weight
from quantspectrum.spectrum import latency
from quantspectrum.spectrum.kernels import Kernel, kernel_for
from quantspectrum.spectrum.latency import measure_latency


def op(name: str, *shape: int) -> Op:
    return Op(
        name=name,
        type="Linear",
        component="language",
        block=0,
        group=name,
        shape=shape,
        params=1,
    )


def no_progress(_steps: int) -> Callable[[], None]:
    return lambda: None


OPS = (op("a", 48, 256), op("b", 48, 256), op("c", 32, 64), op("conv", 4, 3, 2, 2))


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return models_tiny.loaded(models_tiny.causal_lm())


def measured(loaded: Loaded, *formats: str, rows: tuple[int, ...] = (1, 5)) -> LatencyTable:
    return measure_latency(
        loaded,
        OPS,
        formats=[preset(name) for name in formats],
        rows=rows,
        repeats=3,
        progress=no_progress,
    )


def test_each_distinct_shape_is_timed_in_each_format_and_count_of_rows(loaded: Loaded) -> None:
    table = measured(loaded, "w8a8", "w8a16")
    found = {(e.shape, e.format, e.rows) for e in table.entries}
    assert found == {
        (shape, fmt, rows)
        for shape in ((48, 256), (32, 64))
        for fmt in ("bf16", "w8a8", "w8a16")
        for rows in (1, 5)
    }
    assert table.rows() == [1, 5]
    assert table.dtype == "float32"
    for entry in table.entries:
        assert 0 < entry.low_s <= entry.median_s <= entry.high_s
        assert entry.n == 3
        assert entry.relative_l2 <= latency.MAX_RELATIVE_L2
    kernels = {(e.format, e.kernel) for e in table.entries}
    assert ("bf16", "torch.nn.functional.linear (float32)") in kernels
    assert ("w8a8", "torch._int_mm (int8)") in kernels
    assert ("w8a16", "torch._weight_int8pack_mm") in kernels


def test_what_has_no_kernel_here_is_absent_with_the_reason(loaded: Loaded) -> None:
    table = measured(loaded, *PRESETS, rows=(2,))
    reasons = {(a.format, a.shape): a.reason for a in table.absent}
    assert "FP8 products need CUDA" in reasons["fp8", (48, 256)]
    assert "no kernel for this pair" in reasons["w4a8", (48, 256)]
    assert "high-precision outputs" in reasons["inc", (48, 256)]
    assert "whole groups" in reasons["w4a16", (32, 64)]
    assert "a convolution" in reasons["bf16", (4, 3, 2, 2)]
    assert table.median((48, 256), "fp8", 2) is None
    assert len(table.entries) + len(table.absent) == 3 * (1 + len(PRESETS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fmt", ["w8a8", "w8a16", "w4a16"])
def test_kernels_compute_what_the_formats_say(fmt: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(64, 256).to(dtype), torch.randn(7, 256).to(dtype)
    form = preset(fmt)
    act = form.activation
    inputs = fake_quantize_input(x.float(), act) if act is not None else x.float()
    kernel = kernel_for(form, weight, x)
    expected = inputs @ fake_quantize_weight(weight.float(), form.weight, kernel.scale_dtype).T
    found = kernel.run(x)
    assert found.dtype == dtype
    bound = 1e-5 if dtype == torch.float32 else 5e-3
    assert float((found.float() - expected).norm() / expected.norm()) < bound


@pytest.mark.parametrize("fmt", ["w8a8-static", "w8a8-static-affine"])
def test_static_inputs_keep_their_zero_points(fmt: str) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(64, 256), torch.randn(7, 256).abs()
    expected = x @ weight.T
    found = kernel_for(preset(fmt), weight, x).run(x)
    assert float((found - expected).norm() / expected.norm()) < 0.03


def test_a_kernel_that_computes_something_else_is_absent(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(_fmt: Format, weight: torch.Tensor, _x: torch.Tensor) -> Kernel:
        return Kernel(name="wrong", run=lambda x: 2 * (x @ weight.T))

    monkeypatch.setattr(latency, "kernel_for", wrong)
    table = measured(loaded, "w8a8")
    assert {e.format for e in table.entries} == {"bf16"}
    assert any("wrong is wrong here: relative L2" in a.reason for a in table.absent)


def test_no_candidate_is_refused(loaded: Loaded) -> None:
    with pytest.raises(UserError, match="no op is a candidate"):
        measure_latency(loaded, [], formats=[], rows=(1,), repeats=1, progress=no_progress)


def test_the_command_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = models_tiny.save(models_tiny.causal_lm(), tmp_path / "model")
    out = tmp_path / "latency.json"
    command = ["latency", str(directory), "--device", "cpu", "--quiet", "--out", str(out)]
    assert main([*command, "--rows", "2", "--format", "w8a8", "--repeats", "2"]) == 0
    table = read_artifact(out, LatencyTable)
    assert table.rows() == [2]
    assert {e.format for e in table.entries} == {"bf16", "w8a8"}
    assert "torch._int_mm" in capsys.readouterr().out
    assert json.loads(out.read_text())["kind"] == "latency"


@pytest.mark.parametrize("rows", ["", "0", "1,", "a", "-1", "1.5", "1 2", "nan", "1000000000"])
def test_rows_of_another_form_are_refused(
    tmp_path: Path, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "l.json")
    assert main(["latency", "MODEL", "--out", out, f"--rows={rows}"]) == 1
    assert "give counts from 1 to 999999999" in capsys.readouterr().err


def test_rows_that_do_not_fit_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr("quantspectrum.spectrum.latency._entry", full)
    directory = models_tiny.save(models_tiny.causal_lm(), tmp_path / "model")
    out = tmp_path / "l.json"
    command = ["latency", str(directory), "--device", "cpu", "--quiet", "--out", str(out)]
    assert main([*command, "--rows", "999999999"]) == 1
    assert "999999999 rows of inputs do not fit into memory" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_real_kernels_run() -> None:
    model = models_tiny.cast(models_tiny.causal_lm(), torch.bfloat16).cuda()
    on_gpu = models_tiny.loaded(model, device=torch.device("cuda"))
    table = measure_latency(
        on_gpu,
        [op("a", 512, 256)],
        formats=[preset(name) for name in ("w8a8", "fp8", "w4a16")],
        rows=(1, 128),
        repeats=3,
        progress=no_progress,
    )
    kernels = {e.format: e.kernel for e in table.entries if e.rows == 128}
    assert kernels["w8a8"] == "torch._int_mm (int8)"
    if torch.cuda.get_device_capability() >= (8, 9):
        assert "_scaled_mm" in kernels["fp8"]
    assert table.median((512, 256), "w8a8", 1) is not None
