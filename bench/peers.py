"""What the benches against other tools share: handing files to their environments, timing ours."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantspectrum import isolation
from quantspectrum.artifacts import DataIdentity, SensitivityReport
from quantspectrum.data.encode import Batch
from quantspectrum.formats import preset
from quantspectrum.isolation.inputs import batch_tensors, model_request
from quantspectrum.lenses.native import NativeRequest, score_ops
from quantspectrum.lenses.targets import label_tensors
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable, list_ops

__all__ = ["machine", "run_inc", "run_modelopt", "text_batch", "timed_scores"]


def run_inc(python: str, model: nn.Module, batches: list[Batch], **settings: str) -> dict[str, Any]:
    """What INC's own MSE_V2 finds on batches: the packaged worker, by INC's own loop."""
    os.environ["QUANTSPECTRUM_ENV_INC"] = python
    linears = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    with tempfile.TemporaryDirectory() as work:
        directory = Path(work)
        model.save_pretrained(directory / "model")  # type: ignore[operator]
        request = {
            "model": str(directory / "model"),
            "class": type(model).__name__,
            "ops": linears,
            "seed": 0,
            "time_budget": None,
            "trust_remote_code": False,
            "settings": {
                "reduce_range": "false",
                "engine": "qnnpack",
                "observer": "minmax",
                "fast": "false",
                **settings,
            },
        }
        tensors = batch_tensors("selection", batches)
        return isolation.run_worker("inc", "inc_mse_v2", request, directory, tensors=tensors)


def run_modelopt(python: str, loaded: Loaded, batch: Batch, **settings: str) -> dict[str, Any]:
    """What ModelOpt's `auto_quantize` finds on a batch, its ranges calibrated on the same one."""
    os.environ["QUANTSPECTRUM_ENV_MODELOPT"] = python
    table = list_ops(loaded.model, loaded.layout).candidates
    # A vision tower, which text does not reach, would cost ModelOpt passes that find nothing.
    ops = [op.name for op in table if op.component == "language" or len(batch.inputs) > 2]
    with tempfile.TemporaryDirectory() as work:
        directory = Path(work)
        request = {
            **model_request(loaded, directory / "model"),
            "ops": ops,
            "seed": 0,
            "time_budget": None,
            "settings": {"groups": "fused", "predicts": batch.predicts, **settings},
        }
        tensors = {
            **batch_tensors("calibration", [batch]),
            **batch_tensors("selection", [batch]),
            **label_tensors("modelopt", [batch], ("next-token",)),
        }
        return isolation.run_worker(
            "modelopt", "modelopt_auto_quantize", request, directory, tensors=tensors
        )


def text_batch(ids: Tensor) -> Batch:
    """Samples (samples, tokens) without padding; every token but the first is a target."""
    target = torch.ones_like(ids, dtype=torch.bool)
    target[:, 0] = False
    return Batch(
        inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        target=target,
        sample_ids=tuple(f"sample {row}" for row in range(len(ids))),
        kinds=("text",) * len(ids),
    )


def timed_scores(
    loaded: Loaded,
    batch: Batch,
    *,
    fmt: str,
    metric: str,
    base: Any,
    repeats: int,
    table: OpTable | None = None,
) -> tuple[SensitivityReport, dict[str, Any]]:
    """Score all ops, ranges calibrated on the same batch; the report and how long it took."""
    request = NativeRequest(
        formats=(preset(fmt),),
        metrics=(metric,),
        base=base,
        calibration=[batch],
        selection=[batch],
        data=(
            DataIdentity(
                source="bench", split="selection", samples=len(batch.sample_ids), sha256="0" * 64
            ),
        ),
        seed=0,
    )
    table = table or list_ops(loaded.model, loaded.layout)
    before, seconds = os.getloadavg(), []
    for _ in range(repeats):
        start = time.perf_counter()
        (report,) = score_ops(loaded, table, request, step=lambda: None)
        seconds.append(time.perf_counter() - start)
    timing = {
        "seconds": statistics.median(seconds),
        "each": seconds,
        "load_average": {"before": before, "after": os.getloadavg()},
    }
    return report, timing


def machine() -> dict[str, Any]:
    """What the timings of this process depend on."""
    model = ""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
