"""The stages of a run in a row, each from what the ones before it wrote."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from quantspectrum import stages
from quantspectrum.artifacts import (
    Evaluation,
    SensitivityReport,
    Spectrum,
    read_artifact,
)
from quantspectrum.backends.frameworks import require_backend
from quantspectrum.evaluate.reload import load_variant
from quantspectrum.evaluate.session import EvaluationSession
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.report import Comparison, write_report
from quantspectrum.run.request import QUALITY, RunRequest
from quantspectrum.run.states import RunStates, Stopped, variants_written
from quantspectrum.sensitivity import check_metrics

__all__ = ["Run"]


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
                a metric knows no such base, or what writes its variants is absent.
        """
        for base in request.base:
            check_metrics(request.scoring.metric, base)
        if not variants_written(directory):
            require_backend(request.backend)
        self._dir = directory
        self._request = request
        self._progress = progress
        self._say = say
        self._loaded: Loaded | None = None
        self._load_s = 0.0
        self._skeleton: Loaded | None = None
        self._reuses = True
        self._session: EvaluationSession | None = None
        self._states = RunStates(directory, request, say=say)

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
        self._states.do("baseline", self._baseline)
        for base in self._request.base:
            self._states.do(f"sensitivity:{base}", partial(self._sensitivity, base))
        # A run from before this stage goes on without it, and its report says so.
        if "histograms" in self._states:
            self._states.do("histograms", self._histograms)
        self._states.do("spectrum", self._spectrum)
        for name, work in (("quality", self._quality), ("guard", self._guard)):
            if name in self._states:
                self._states.do(name, work)
        made = read_artifact(self._dir / "spectrum.json", Spectrum)
        profiles = [p.name for p in made.profiles if p.ops]
        for name in [p.name for p in made.profiles if not p.ops]:
            # What turned out to quantize nothing is the baseline.
            self._states.skip(f"quantize:{name}")
            self._states.skip(f"evaluate:{name}")
        for name in profiles:
            self._states.do(f"quantize:{name}", partial(self._quantize, name))
        for name in profiles:
            self._states.do(f"evaluate:{name}", partial(self._evaluate, name))
        self._drop_model()
        self._say("report")
        return write_report(self._dir)

    def reports(self) -> list[SensitivityReport]:
        """The sensitivity reports, those that the spectrum is made from first."""
        return [
            read_artifact(path, SensitivityReport)
            for base in self._request.base
            for path in self.report_paths(base).values()
        ]

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
        if "quality" in self._states:
            # Told before anything is measured, and not after the scans.
            stages.check_searchable(loaded)
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
        stages.histograms(
            self._model(), stages.histograms_path(self._dir), data=asked.data, ops=asked.ops
        )

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

    def _ranking(self) -> Path:
        """The report that ranks the groups of the spectrum."""
        return next(iter(self.report_paths(self._request.base[0]).values()))

    def _quality(self) -> None:
        stages.find_quality(
            self._model(),
            self._ranking(),
            self._dir / "spectrum.json",
            self._dir / "quality.json",
            data=self._request.data,
            budget=self._request.quality_budget(),
            name=QUALITY,
            keeps=self._request.keep,
            trials=self._request.trials,
            progress=lambda steps: self._progress("quality", steps),
        )

    def _guard(self) -> None:
        stages.guard(
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
            options=self._request.backend_option,
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
