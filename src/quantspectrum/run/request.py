"""Everything a run is asked, and the demo's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantspectrum import stages
from quantspectrum.artifacts import (
    LatencyTable,
    QualityBudget,
    Record,
    read_artifact,
)
from quantspectrum.errors import UserError
from quantspectrum.models.loading import ModelSpec
from quantspectrum.spectrum.build import DEFAULT_CUTS
from quantspectrum.spectrum.quality_budget import parse_budget
from quantspectrum.spectrum.rules import parse_budgets, parse_cuts, parse_keeps

__all__ = ["QUALITY", "RunRequest", "demo_request"]
QUALITY = "quality"
"""Name of the profile that a quality budget allows."""


class RunRequest(Record):
    """Everything a run is asked; equal requests give the same run."""

    model: str
    revision: str | None = None
    gguf_file: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    offload_folder: str | None = None
    trust_remote_code: bool = False
    data: stages.DataRequest = stages.DataRequest()
    ops: stages.OpsRequest = stages.OpsRequest()
    scoring: stages.ScoringRequest = stages.ScoringRequest()
    base: tuple[stages.Base, ...] = ("isolate",)
    cut: tuple[str, ...] = ()
    budget: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    latency: str | None = None
    backend: str = "compressed-tensors"
    backend_option: tuple[str, ...] = ()
    max_quality: str | None = None
    confident: bool = False
    trials: int = stages.DEFAULT_TRIALS
    no_guard: bool = False

    def options(self) -> dict[str, Any]:
        """The request by the names of the command line's options."""
        return (
            self.model_dump(mode="json", exclude={"data", "ops", "scoring"})
            | self.data.model_dump(mode="json")
            | self.ops.model_dump(mode="json")
            | self.scoring.model_dump(mode="json")
        )

    def spec(self) -> ModelSpec:
        """How to load the baseline."""
        return ModelSpec(
            model=self.model,
            revision=self.revision,
            gguf_file=self.gguf_file,
            dtype=self.dtype,
            device=self.device,
            device_map=self.device_map,
            offload_folder=self.offload_folder,
            trust_remote_code=self.trust_remote_code,
        )

    def quality_budget(self) -> QualityBudget:
        """The quality budget that was asked for."""
        assert self.max_quality is not None
        return parse_budget(self.max_quality, confident=self.confident)

    def profile_names(self) -> list[str]:
        """The profiles asked for that quantize something.

        Raises:
            UserError: A rule is not written as it must be; told before anything is measured.
        """
        budgets = parse_budgets(self.budget)
        parse_keeps(self.keep)
        if self.latency is not None:
            read_artifact(Path(self.latency), LatencyTable)
        cuts = parse_cuts(self.cut) or ({} if budgets else DEFAULT_CUTS)
        names = [*(name for name, share in cuts.items() if share > 0), *budgets]
        if self.max_quality is None:
            return names
        self.quality_budget()
        if QUALITY in (*cuts, *budgets):
            raise UserError(f"--max-quality makes a profile called {QUALITY!r}; rename yours")
        return [*names, QUALITY]

    def stage_names(self) -> list[str]:
        """Every stage of the run, in order.

        Raises:
            UserError: A rule is not written as it must be.
        """
        profiles = self.profile_names()
        return [
            "baseline",
            *(f"sensitivity:{base}" for base in self.base),
            "histograms",
            "spectrum",
            *(["quality"] if self.max_quality is not None else []),
            *(["guard"] if not self.no_guard else []),
            *(f"quantize:{profile}" for profile in profiles),
            *(f"evaluate:{profile}" for profile in profiles),
        ]


def demo_request(device: str = "auto") -> RunRequest:
    """The demo: the embedded model on its own scenes, in per-tensor static W8A8.

    Static activations are what INC, ONNX Runtime and TensorRT use, and what makes the choice of
    ops matter.
    """
    from quantspectrum.demo import model_dir

    return RunRequest(
        model=str(model_dir()),
        device=device,
        scoring=stages.ScoringRequest(format=("w8a8-static",)),
        base=("isolate", "fallback"),
        data=stages.DataRequest(
            data=("demo",), calibration=64, samples=64, eval_samples=1024, batch_size=32
        ),
    )
