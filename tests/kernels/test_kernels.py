"""Kernels against the eager arithmetic: in Triton's interpreter, and on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import CASES, KINDS, rows, same

from quantspectrum import kernels
from quantspectrum.formats import PRESETS, TensorScheme
from quantspectrum.quantizer import (
    fake_quantize,
    fake_quantize_input,
    fake_quantize_weight,
    qparams,
)

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(not kernels.available(), reason="Triton is not installed")


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("cases", "least"), [("rows", 90), ("static", 60), ("float8", 1), ("kl", 18)]
)
def test_interpreted_kernels_equal_the_eager_arithmetic(cases: str, least: int) -> None:
    program = [sys.executable, str(HERE / "interpret.py"), cases]
    run = subprocess.run(program, capture_output=True, text=True, check=False, env=os.environ)
    assert run.returncode == 0, run.stderr
    *differing, count = run.stdout.splitlines()
    assert differing == []
    assert int(count.split()[0]) >= least


def test_the_cpu_needs_no_kernels() -> None:
    assert not kernels.takes(torch.zeros(2))


def test_without_triton_files_of_kernels_can_be_imported() -> None:
    """Where it is missing they define names and nothing runs."""
    hide = "import sys; sys.modules['triton'] = None\n"
    use = "from quantspectrum.kernels import kl, rows, static\n"
    program = [sys.executable, "-c", hide + use + "print('imported')"]
    run = subprocess.run(program, capture_output=True, text=True, check=False, env=os.environ)
    assert run.stdout == "imported\n", run.stderr


gpu = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@gpu
@needs_cuda
@pytest.mark.parametrize("cases", CASES)
def test_kernels_on_a_gpu_equal_the_eager_arithmetic_on_the_cpu(cases: str) -> None:
    found = {name: same(*both) for name, *both in CASES[cases]("cuda")}
    assert found
    assert [name for name, equal in found.items() if not equal] == []


@gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fmt", PRESETS.values(), ids=PRESETS)
def test_formats_on_a_gpu_are_those_on_the_cpu(fmt: Any, dtype: torch.dtype) -> None:
    weight, x = rows(9, 300, dtype, seed=1), rows(12, 300, dtype, seed=2).reshape(3, 4, 300)
    assert kernels.takes(x.cuda())
    found = fake_quantize_weight(weight.cuda(), fmt.weight)
    assert same(found.cpu(), fake_quantize_weight(weight, fmt.weight))
    if fmt.activation is not None and fmt.activation.dynamic:
        found = fake_quantize_input(x.cuda(), fmt.activation)
        assert same(found.cpu(), fake_quantize_input(x, fmt.activation))
    elif fmt.activation is not None:
        known = qparams(torch.tensor(-3.0), torch.tensor(5.0), fmt.activation)
        found = fake_quantize(x.cuda(), *known, fmt.activation)
        assert same(found.cpu(), fake_quantize(x, *known, fmt.activation))


@gpu
@needs_cuda
@pytest.mark.parametrize("kind", KINDS)
def test_without_kernels_a_gpu_computes_the_same(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "available", lambda: False)
    scheme = TensorScheme.model_validate(KINDS[kind].model_dump() | {"granularity": "channel"})
    weight = rows(9, 300, torch.float32, seed=1)
    assert not kernels.takes(weight.cuda())
    assert same(
        fake_quantize_weight(weight.cuda(), scheme).cpu(), fake_quantize_weight(weight, scheme)
    )
    known = qparams(torch.tensor(-3.0), torch.tensor(5.0), KINDS[kind])
    found = fake_quantize(weight.cuda(), *known, KINDS[kind])
    assert same(found.cpu(), fake_quantize(weight, *known, KINDS[kind]))
