"""Our spectra against ModelOpt's `auto_quantize` at equal bytes, on held-out samples.

    python bench/pareto.py --modelopt-python env_modelopt/bin/python --model DIR [--gguf-file NAME] \
        --data text:FILE --work DIR --out JSON

ModelOpt scores the groups once a method, on the calibration and selection samples that our metrics get, and
its own solver gives a solution for each constraint. For each solution our budget rule gets the bytes
that it takes, not one more. All profiles are then simulated in one format (`w8a8-static`, ModelOpt's
INT8_DEFAULT_CFG) on samples that neither side saw, with the same calibrated ranges. What was made stays in
`--work`: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pareto_figures import figures, kept_share
from peers import machine

from quantspectrum import isolation, stages
from quantspectrum.artifacts import FrameworkNote, Spectrum, write_artifact
from quantspectrum.data.encode import Batch
from quantspectrum.data.splits import identity
from quantspectrum.formats import preset
from quantspectrum.isolation.inputs import batch_tensors, model_request
from quantspectrum.lenses.modelopt import GRADIENT, KL_DIV
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.lenses.scoring import report_of
from quantspectrum.lenses.targets import label_tensors
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.provenance import Stopwatch, environment
from quantspectrum.spectrum.costs import profile_bytes
from quantspectrum.spectrum.meter import Meter, Reading, ops_sha256
from quantspectrum.stages.held_out import meter_on, plans_of

FORMAT, PRESET = "w8a8-static", "INT8_DEFAULT_CFG"
BITS = (8.08, 8.4, 8.8, 9.5, 10.5, 12.0, 13.5, 15.0)
"""Mean weight bits over the candidates: 1, 5, 10, … % of the weights stay in 16 bits."""

KEPT = (0.01, 0.05, 0.10)
METRICS = ("kl", "visibility")
LENSES = {"gradient": GRADIENT, "kl_div": KL_DIV}
TRIES = 100

Ops = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--modelopt-python", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf-file")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--method", action="append", choices=LENSES)
    parser.add_argument("--time-budget", type=float, help="seconds of a method of ModelOpt's")
    parser.add_argument("--tokens", choices=("text", "loss"), default="text", help="ModelOpt's")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--eval-samples", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    os.environ["QUANTSPECTRUM_ENV_MODELOPT"] = args.modelopt_python
    spec = ModelSpec(
        model=args.model, gguf_file=args.gguf_file, device=args.device, dtype="float32"
    )
    bench = Bench(load_model(spec), args)
    methods = args.method or list(LENSES)
    for method in methods:
        bench.theirs(method)
    for metric in METRICS:
        bench.ours(metric)
    profiles = bench.profiles(methods)
    readings, baseline = bench.measure(profiles)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    made = bench.said() | figures(bench.spectrum, profiles, readings, baseline)
    args.out.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")


class Bench:
    """One model, its samples, and what was made of them so far."""

    def __init__(self, loaded: Loaded, args: argparse.Namespace) -> None:
        self.loaded, self.args, self.work = loaded, args, args.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.data = stages.DataRequest(
            data=tuple(args.data),
            calibration=args.samples,
            samples=args.samples,
            eval_samples=args.eval_samples,
            batch_size=args.batch_size,
            max_length=args.max_length,
            seed=args.seed,
        )
        self.ops = stages.OpsRequest()
        self.table = self.ops.table(loaded)
        self.splits = self.data.splits(loaded.takes_images)
        self.format = preset(FORMAT)
        self.spectrum: Spectrum

    # What is made, each part once.

    def timed(self, name: str, make: Callable[[], Any]) -> Any:
        """A part that is kept in a file of the work directory, with its seconds and the load."""
        path = self.work / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())["made"]
        before, start = os.getloadavg(), time.perf_counter()
        made = make()
        spent = {"seconds": time.perf_counter() - start, "before": before}
        path.write_text(json.dumps({"made": made, "time": spent | {"after": os.getloadavg()}}))
        print(f"{name}: {spent['seconds']:.1f} s", flush=True)
        return made

    def theirs(self, method: str) -> dict[str, Any]:
        """ModelOpt's scores and its solution for each constraint."""
        found: dict[str, Any] = self.timed(
            f"modelopt-{method}", lambda: self._auto_quantize(method)
        )
        return found

    def _auto_quantize(self, method: str) -> dict[str, Any]:
        directory = self.work / f"modelopt-{method}"
        directory.mkdir(exist_ok=True)
        calibration, selection = (
            self.data.encode(self.loaded, part)
            for part in (self.splits.calibration, self.splits.selection)
        )
        name = f"modelopt:{method}"
        request = {
            **model_request(self.loaded, self.work / "model"),
            "ops": [op.name for op in self.table.candidates],
            "seed": self.data.seed,
            "time_budget": self.args.time_budget,
            "settings": {
                "preset": PRESET,
                "method": method,
                "groups": "fused",
                "predicts": selection[0].predicts,
                "effective_bits": list(BITS),
            },
        }
        found = isolation.run_worker(
            "modelopt",
            "modelopt_auto_quantize",
            request,
            directory,
            tensors={
                **batch_tensors("calibration", calibration),
                **batch_tensors("selection", selection),
                **label_tensors(name, [self._labelled(batch) for batch in selection], ("next-token",)),
            },
        )
        self._check_same(found)
        return found

    def _labelled(self, batch: Batch) -> Batch:
        """A batch for ModelOpt: what its scores are of are the positions whose KL ours are of.

        They differ from those whose loss counts where a sample has a prompt.
        """
        if self.args.tokens == "loss":
            return batch
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
        text = mask & (ids != self.loaded.layout.image_token_id)
        target = torch.zeros_like(mask)
        # The output at a position is about the next token.
        target[:, 1:] = text[:, :-1] & text[:, 1:]
        return replace(batch, target=target)

    def _check_same(self, found: Mapping[str, Any]) -> None:
        """Both sides choose among the same groups, and count effective bits over the same weights."""
        ours: dict[str, set[str]] = {}
        for op in self.table.candidates:
            ours.setdefault(op.group, set()).add(op.name)
        theirs = {frozenset(group) for group in found["groups"]}
        if theirs != {frozenset(group) for group in ours.values()}:
            raise SystemExit(f"other groups: {sorted(map(sorted, theirs))[:3]} …")
        weights = sum(torch.Size(op.shape).numel() for op in self.table.candidates)
        if found["weights"] != weights:
            raise SystemExit(f"ModelOpt counts {found['weights']:.0f} weights, not {weights}")

    def ours(self, metric: str) -> Path:
        """Our report by a metric."""
        path: Path = self.work / f"native-{metric}.report.json"

        def make() -> None:
            stages.sensitivity(
                self.loaded,
                {(metric, FORMAT): path},
                data=self.data,
                ops=self.ops,
                scoring=stages.ScoringRequest(metric=(metric,), format=(FORMAT,)),
                base="isolate",
                progress=silent,
            )

        self.timed(f"native-{metric}", make)
        return path

    def restated(self, method: str) -> Path:
        """ModelOpt's scores as a report, for our solver: what is left is the solvers' difference."""
        path: Path = self.work / f"modelopt-{method}.report.json"
        found = self.theirs(method)
        selection = self.data.encode(self.loaded, self.splits.selection)
        request = LensRequest(
            format=self.format,
            base="isolate",
            calibration=self.data.encode(self.loaded, self.splits.calibration),
            selection=selection,
            data=(identity(self.splits.selection, self.splits.source, "selection"),),
            seed=self.data.seed,
            directory=self.work,
        )
        note = FrameworkNote(
            name="NVIDIA ModelOpt", asked=len(self.table.candidates), covered=len(found["scores"])
        )
        scores = LensScores(scores=found["scores"], framework=note, n=len(self.splits.selection))
        watch = Stopwatch(self.loaded.device)
        lens = f"modelopt:{method}"
        write_artifact(path, report_of(lens, self.loaded, self.table, request, scores, watch))
        return path

    # Profiles.

    def profiles(self, methods: list[str]) -> dict[str, Ops]:
        """All profiles by name: ``SIDE METHOD BITS``, ``SIDE kept SHARE``, ``all``."""
        made: dict[str, Ops] = {"all": {op.name: FORMAT for op in self.table.candidates}}
        reports = {metric: self.ours(metric) for metric in METRICS}
        self.spectrum = stages.spectrum(reports["kl"], self.work / "spectrum.json")
        for method in methods:
            for solution in self.theirs(method)["solutions"]:
                key = f"{method} {solution['effective_bits']:g}"
                made[f"modelopt {key}"] = dict.fromkeys(solution["ops"], FORMAT)
        theirs = {key: ops for key, ops in made.items() if key.startswith("modelopt ")}
        reports |= {f"solver:{m}": self.restated(m) for m in methods}
        for side, report in reports.items():
            wanted = {
                key.removeprefix("modelopt "): self.bytes_of(ops)
                for key, ops in theirs.items()
                if not side.startswith("solver:") or key.split()[1] == side.partition(":")[2]
            }
            made |= {f"{side} {key}": ops for key, ops in self.within(report, wanted).items()}
        for share in KEPT:
            for metric in METRICS:
                made[f"{metric} kept {share:g}"] = self.keeping(reports[metric], share)
        return made

    def bytes_of(self, ops: Ops) -> int:
        found = self.spectrum
        return profile_bytes(ops, found.candidates, found.formats, found.model)

    def within(self, report: Path, wanted: Mapping[str, int]) -> dict[str, Ops]:
        """For each key the profile of the report's least damage within so many bytes of the whole model."""
        names = {f"b{number}": key for number, key in enumerate(wanted)}
        budgets = [f"{name}=bytes:{wanted[key]}B" for name, key in names.items()]
        solved = stages.spectrum(report, self.work / "budgets.json", budgets=budgets)
        return {names[profile.name]: profile.ops for profile in solved.profiles}

    def keeping(self, report: Path, share: float) -> Ops:
        """The profile that keeps at most that share of the candidates' weights in high precision."""
        least, most = (
            self.bytes_of({op.name: FORMAT for op in self.table.candidates}),
            self.bytes_of({}),
        )
        # Scales make bytes and weights not quite proportional: less is allowed until it fits.
        for tried in range(TRIES):
            limit = least + int(share * (1 - tried / 1000) * (most - least))
            ops = self.within(report, {"kept": limit})["kept"]
            if kept_share(self.spectrum, ops) <= share:
                return ops
        raise SystemExit(f"no profile keeps {share:.0%} or less")

    # Figures.

    def measure(self, profiles: Mapping[str, Ops]) -> tuple[dict[str, Reading], Reading]:
        """Readings of all profiles on the evaluation split, by name, and of the unquantized model."""
        meter = meter_on(
            self.loaded,
            plans_of(self.loaded, self.spectrum, self.splits, self.data),
            self.splits.evaluation,
            self.data,
        )
        with meter.simulating():
            readings = {name: self._reading(meter, ops) for name, ops in profiles.items()}
            return readings, meter.baseline

    def _reading(self, meter: Meter, ops: Ops) -> Reading:
        def make() -> dict[str, Any]:
            (found,) = meter.measure([ops])
            return {"values": dict(found.values), "not_finite": found.not_finite}

        return Reading(**self.timed(f"reading-{ops_sha256(ops)[:16]}", make))

    def said(self) -> dict[str, Any]:
        """What was measured, where, and how long each part took."""
        parts = {path.stem: path for path in sorted(self.work.glob("*.json"))}
        times = {name: json.loads(path.read_text()).get("time") for name, path in parts.items()}
        methods = [name for name in parts if name.removeprefix("modelopt-") in LENSES]
        told = ("settings", "versions", "stopped_by", "own_seconds", "solutions", "weights", "weights_counted")
        return {
            "bench": "pareto",
            "machine": machine(),
            "environment": environment(self.loaded.device).model_dump(mode="json"),
            "model": self.loaded.identity.model_dump(mode="json"),
            # A file's folder says nothing of what was measured.
            "data": self.data.model_dump(mode="json")
            | {"data": [named(spec) for spec in self.data.data]},
            "format": FORMAT,
            "modelopt_scores": self.args.tokens,
            "times": {
                name: spent
                for name, spent in times.items()
                if spent and not name.startswith("reading-")
            },
            "measuring_seconds": sum(
                spent["seconds"]
                for name, spent in times.items()
                if name.startswith("reading-") and spent
            ),
            "modelopt": {
                name.removeprefix("modelopt-"): {
                    key: self.theirs(name.removeprefix("modelopt-"))[key] for key in told
                }
                for name in methods
            },
        }


def named(spec: str) -> str:
    """A data spec without the folder its file is in."""
    kind, _, rest = spec.partition(":")
    return f"{kind}:{Path(rest).name}" if rest else kind


def silent(_steps: int) -> Callable[[], None]:
    return lambda: None


if __name__ == "__main__":
    main()
