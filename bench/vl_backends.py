"""What backends `inc-static` and `onnx` make of a vision-language model: the embedded one.

    python bench/vl_backends.py --out bench/results/vl_backends.json

A profile of all groups but the last is written by each, from 16 calibration samples of the demo's own
data; kept are what was found when the variant was read back (`verification`: relative L2 of the logits),
how the framework ran, and which ops are in no part of the variant. `inc-static` needs its environment.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from quantspectrum import stages
from quantspectrum.artifacts import Manifest, write_text
from quantspectrum.demo import model_dir
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.provenance import environment

DATA = stages.DataRequest(data=("demo",), calibration=16, samples=4, eval_samples=1)
CASES = (("onnx", "w8a8-static"), ("inc-static", "inc"), ("inc-static", "inc-reduce-range"))


Case = Callable[[Loaded, Path], dict[str, Any]]


def variant(loaded: Loaded, backend: str, fmt: str, work: Path) -> Manifest:
    """Write all groups but the last into ``work / "v"``; needs no scores, so a rule of thumb ranks."""
    report, spectrum = work / "report.json", work / "spectrum.json"
    stages.lens_sensitivity(
        loaded,
        report,
        lens="heuristic:size",
        data=DATA,
        ops=stages.OpsRequest(),
        format_name=fmt,
        progress=lambda _steps: lambda: None,
    )
    stages.spectrum(report, spectrum, cuts=("most=97%",))
    return stages.quantize(loaded, spectrum, "most", work / "v", backend=backend, data=DATA)


def case(loaded: Loaded, work: Path, *, backend: str, fmt: str) -> dict[str, Any]:
    """Write the variant; what its manifest says of it."""
    manifest = variant(loaded, backend, fmt, work)
    assert manifest.verification is not None
    assert manifest.writer is not None
    return {
        "backend": backend,
        "format": fmt,
        "ops": len(manifest.profile.ops),
        "vision_ops": sum(".visual." in op for op in manifest.profile.ops),
        "verification": manifest.verification.model_dump(mode="json"),
        "writer": manifest.writer.model_dump(mode="json"),
        "calibration": [data.model_dump(mode="json") for data in manifest.provenance.data],
        "wall_s": manifest.provenance.wall_s,
    }


def run_cases(about: str, cases: Mapping[str, Case], **more: Any) -> None:
    """Take every case of the embedded model and write them to ``--out``, anew after each.

    Args:
        about: The bench's description.
        cases: Name of each case, and what takes it, given the model and a directory of its own.
        more: What else the result says.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    loaded = load_model(ModelSpec(model=str(model_dir()), device="cpu"))
    found: dict[str, Any] = {
        "environment": environment(loaded.device).model_dump(mode="json"),
        "cases": [],
        **more,
    }
    for name, take in cases.items():
        with tempfile.TemporaryDirectory() as work:
            found["cases"].append(take(loaded, Path(work)))
        write_text(out, json.dumps(found, indent=1) + "\n")
        print(name, flush=True)


def main() -> None:
    """Every backend in every format it writes."""
    made: dict[str, Case] = {
        f"{backend} {fmt}": partial(case, backend=backend, fmt=fmt) for backend, fmt in CASES
    }
    run_cases(__doc__, made)


if __name__ == "__main__":
    main()
