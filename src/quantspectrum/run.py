"""``run``: all stages in a row, in one directory, going on from where they were."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from quantspectrum import measured, stages
from quantspectrum.artifacts import (
    Evaluation,
    LatencyTable,
    QualityBudget,
    Record,
    RunRecord,
    SensitivityReport,
    Spectrum,
    StageState,
    read_artifact,
    write_artifact,
)
from quantspectrum.errors import UserError
from quantspectrum.evaluate.reload import load_variant
from quantspectrum.evaluate.session import EvaluationSession
from quantspectrum.histograms import histograms, histograms_path
from quantspectrum.models.loading import Loaded, ModelSpec, load_model, pick_device
from quantspectrum.provenance import Stopwatch, environment, reset_peak_memory
from quantspectrum.report import Comparison, write_report
from quantspectrum.sensitivity import check_metrics
from quantspectrum.spectrum.build import DEFAULT_CUTS, parse_cuts
from quantspectrum.spectrum.quality_budget import parse_budget
from quantspectrum.spectrum.rules import parse_budgets, parse_keeps

__all__ = ["Run", "RunRequest", "Stopped", "demo_request"]


QUALITY = "quality"
"""Name of the profile that a quality budget allows."""


class Stopped(Exception):  # noqa: N818 - not an error: what was measured is written
    """The run was interrupted; its directory holds what was done, and running again goes on."""


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
    max_quality: str | None = None
    confident: bool = False
    trials: int = measured.DEFAULT_TRIALS
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


class Run:
    """A run directory and the stages that fill it.

    Args:
        directory: Where everything goes; made when it is not there.
        request: What is asked.
        progress: Given a title and a number of steps, returns what is called after each step.
        say: Told one line before each stage.
    """

    def __init__(
        self,
        directory: Path,
        request: RunRequest,
        *,
        progress: Callable[[str, int], Callable[[], None]],
        say: Callable[[str], None],
    ) -> None:
        """Start a run, or take up the one that is there.

        Raises:
            UserError: The directory holds a run that was asked something else, or other things, or
                a metric knows no such base.
        """
        for base in request.base:
            check_metrics(request.scoring.metric, base)
        self._dir = directory
        self._request = request
        self._progress = progress
        self._say = say
        self._loaded: Loaded | None = None
        self._load_s = 0.0
        self._skeleton: Loaded | None = None
        self._reuses = True
        self._session: EvaluationSession | None = None
        self._record = self._open()

    def _open(self) -> RunRecord:
        path = self._dir / "run.json"
        asked = self._request.options()
        if path.exists():
            record = read_artifact(path, RunRecord)
            # A run from before an option was there was asked what the option's default is.
            held = RunRequest(model=self._request.model).options() | record.request
            changed = sorted(k for k in asked if held.get(k) != asked[k])
            if changed:
                raise UserError(
                    f"{self._dir} holds a run with another {', '.join(changed)}; choose another "
                    "--out, or ask the same to go on with it"
                )
            return record
        if self._dir.exists() and any(self._dir.iterdir()):
            raise UserError(f"{self._dir} is not empty and holds no run; choose another --out")
        profiles = self._profile_names()
        names = [
            "baseline",
            *(f"sensitivity:{base}" for base in self._request.base),
            "histograms",
            "spectrum",
            *(["quality"] if self._request.max_quality is not None else []),
            *(["guard"] if not self._request.no_guard else []),
            *(f"quantize:{profile}" for profile in profiles),
            *(f"evaluate:{profile}" for profile in profiles),
        ]
        record = RunRecord(
            request=asked,
            environment=environment(pick_device(self._request.device)),
            stages={name: StageState(state="pending") for name in names},
        )
        write_artifact(path, record)
        return record

    def _profile_names(self) -> list[str]:
        """The profiles asked for that quantize something.

        Raises:
            UserError: A rule is not written as it must be; told before anything is measured.
        """
        budgets = parse_budgets(self._request.budget)
        parse_keeps(self._request.keep)
        if self._request.latency is not None:
            read_artifact(Path(self._request.latency), LatencyTable)
        cuts = parse_cuts(self._request.cut) or ({} if budgets else DEFAULT_CUTS)
        names = [*(name for name, share in cuts.items() if share > 0), *budgets]
        if self._request.max_quality is None:
            return names
        self._quality_budget()
        if QUALITY in (*cuts, *budgets):
            raise UserError(f"--max-quality makes a profile called {QUALITY!r}; rename yours")
        return [*names, QUALITY]

    def report_paths(self, base: stages.Base) -> dict[tuple[str, str], Path]:
        """Where the sensitivity reports of a base are; the first one makes the spectrum."""
        scoring = self._request.scoring
        several = len(scoring.format) > 1
        return {
            (metric, fmt): self._dir
            / "sensitivity"
            / f"native-{metric}.{base}{f'.{fmt}' if several else ''}.json"
            for metric in scoring.metric
            for fmt in scoring.format
        }

    def execute(self) -> Comparison:
        """Do every stage that is not done yet, in order.

        Raises:
            Stopped: Interrupted; what was measured is on disk.
            UserError: A stage failed; the stages before it are kept.
        """
        self._stage("baseline", self._baseline)
        for base in self._request.base:
            self._stage(f"sensitivity:{base}", partial(self._sensitivity, base))
        # A run from before this stage goes on without it, and its report says so.
        if "histograms" in self._record.stages:
            self._stage("histograms", self._histograms)
        self._stage("spectrum", self._spectrum)
        for name, work in (("quality", self._quality), ("guard", self._guard)):
            if name in self._record.stages:
                self._stage(name, work)
        made = read_artifact(self._dir / "spectrum.json", Spectrum)
        profiles = [p.name for p in made.profiles if p.ops]
        for name in [p.name for p in made.profiles if not p.ops]:
            self._nothing_to_do(name)
        for name in profiles:
            self._stage(f"quantize:{name}", partial(self._quantize, name))
        for name in profiles:
            self._stage(f"evaluate:{name}", partial(self._evaluate, name))
        self._drop_model()
        self._say("report")
        return write_report(self._dir)

    def incomplete(self) -> list[SensitivityReport]:
        """Sensitivity reports that do not cover all they were asked to."""
        reports = [
            read_artifact(path, SensitivityReport)
            for base in self._request.base
            for path in self.report_paths(base).values()
        ]
        return [report for report in reports if not report.complete]

    def _stage(self, name: str, work: Callable[[], Any]) -> None:
        if self._record.stages[name].state == "done":
            return
        self._say(name)
        device = pick_device(self._request.device)
        reset_peak_memory(device)
        watch = Stopwatch(device)
        self._mark(name, StageState(state="running"))
        try:
            work()
        except (Exception, KeyboardInterrupt, Stopped) as error:
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._mark(name, StageState(state="failed", wall_s=watch.wall_s, error=told))
            if isinstance(error, KeyboardInterrupt):
                raise Stopped(f"interrupted in stage {name}") from None
            raise
        self._mark(
            name,
            StageState(
                state="done", wall_s=watch.wall_s, peak_device_bytes=watch.peak_device_bytes
            ),
        )

    def _nothing_to_do(self, profile: str) -> None:
        """A profile that turned out to quantize nothing is the baseline."""
        for stage in (f"quantize:{profile}", f"evaluate:{profile}"):
            if stage in self._record.stages and self._record.stages[stage].state != "done":
                self._mark(stage, StageState(state="done", wall_s=0.0))

    def _mark(self, name: str, state: StageState) -> None:
        changed = self._record.stages | {name: state}
        self._record = self._record.model_copy(update={"stages": changed})
        write_artifact(self._dir / "run.json", self._record)

    def _model(self) -> Loaded:
        if self._loaded is None:
            start = time.perf_counter()
            self._loaded = load_model(self._request.spec())
            self._load_s = time.perf_counter() - start
        return self._loaded

    def _drop_model(self) -> None:
        self._loaded = self._skeleton = None
        _free_memory()

    def _baseline(self) -> Evaluation:
        loaded = self._model()
        return stages.evaluate(
            loaded,
            self._dir / "baseline" / "evaluation.json",
            data=self._request.data,
            label="baseline",
            load_s=self._load_s,
            session=self._shared(loaded),
        )

    def _shared(self, loaded: Loaded) -> EvaluationSession:
        """What the evaluations of this run share."""
        if self._session is None:
            self._session = stages.evaluation_session(loaded, self._request.data)
        return self._session

    def _sensitivity(self, base: stages.Base) -> None:
        reports = stages.sensitivity(
            self._model(),
            self.report_paths(base),
            data=self._request.data,
            ops=self._request.ops,
            scoring=self._request.scoring,
            base=base,
            progress=lambda steps: self._progress(f"sensitivity ({base})", steps),
            cuts=self._request.cut,
        )
        for report in reports:
            if stages.stopped(report):
                raise Stopped(
                    f"sensitivity ({base}) {report.stopped_by} with {report.coverage.scored} ops "
                    "scored"
                )

    def _histograms(self) -> None:
        asked = self._request
        histograms(self._model(), histograms_path(self._dir), data=asked.data, ops=asked.ops)

    def _spectrum(self) -> Spectrum:
        asked = self._request
        paths = self.report_paths(asked.base[0])
        metric, fmt = next(iter(paths))
        mixed = [path for (scored, _), path in paths.items() if scored == metric]
        return stages.spectrum(
            mixed if asked.budget or asked.keep else paths[metric, fmt],
            self._dir / "spectrum.json",
            cuts=asked.cut,
            budgets=asked.budget,
            keeps=asked.keep,
            latency=Path(asked.latency) if asked.latency is not None else None,
        )

    def _quality_budget(self) -> QualityBudget:
        assert self._request.max_quality is not None
        return parse_budget(self._request.max_quality, confident=self._request.confident)

    def _ranking(self) -> Path:
        """The report that ranks the groups of the spectrum."""
        return next(iter(self.report_paths(self._request.base[0]).values()))

    def _quality(self) -> None:
        measured.find_quality(
            self._model(),
            self._ranking(),
            self._dir / "spectrum.json",
            self._dir / "quality.json",
            data=self._request.data,
            budget=self._quality_budget(),
            name=QUALITY,
            keeps=self._request.keep,
            trials=self._request.trials,
            progress=lambda steps: self._progress("quality", steps),
        )

    def _guard(self) -> None:
        measured.guard(
            self._model(),
            self._dir / "spectrum.json",
            self._dir / "guard.json",
            data=self._request.data,
            report_path=self._ranking(),
            progress=lambda steps: self._progress("guard", steps),
        )

    def _quantize(self, profile: str) -> None:
        out = self._dir / "variants" / profile
        # A variant without a finished stage was complete but not yet noted: it is made again.
        if out.exists():
            _remove_variant(out)
        stages.quantize(
            self._model(),
            self._dir / "spectrum.json",
            profile,
            out,
            backend=self._request.backend,
            data=self._request.data,
        )

    def _evaluate(self, profile: str) -> None:
        variant = self._dir / "variants" / profile
        baseline = read_artifact(self._dir / "baseline" / "evaluation.json", Evaluation)
        spec = ModelSpec(
            model=str(variant),
            dtype=baseline.provenance.model.dtype,
            device=self._request.device,
            device_map=self._request.device_map,
            offload_folder=self._request.offload_folder,
            trust_remote_code=self._request.trust_remote_code,
        )
        # The first variant takes the place of the baseline, the next that of the variant before;
        # where one did not fit, the others are loaded anew, without the baseline beside them.
        like = (self._skeleton or self._model()) if self._reuses else None
        self._loaded = self._skeleton = None
        start = time.perf_counter()
        loaded = load_variant(spec, like)
        self._reuses = like is not None and loaded.model is like.model
        self._skeleton = loaded if self._reuses else None
        stages.evaluate(
            loaded,
            self._dir / "evaluations" / f"{profile}.json",
            data=self._request.data,
            label=profile,
            load_s=time.perf_counter() - start,
            baseline=self._dir / "baseline" / "evaluation.json",
            session=self._shared(loaded),
        )
        # A reloaded variant refers to itself, so that leaving this method does not free it.
        del loaded, like
        _free_memory()


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _remove_variant(directory: Path) -> None:
    assert (directory / "manifest.json").is_file(), f"{directory} is not a variant"
    shutil.rmtree(directory)
