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
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pareto_figures import figures, kept_share
from pareto_modelopt import FORMAT, LENSES, ModelOpt
from peers import machine

from quantspectrum import stages
from quantspectrum.artifacts import Spectrum
from quantspectrum.data.sample import Sample
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.provenance import environment
from quantspectrum.spectrum.costs import profile_bytes
from quantspectrum.spectrum.meter import Meter, Reading, ops_sha256
from quantspectrum.stages.held_out import meter_on, plans_of

KEPT = (0.01, 0.05, 0.10)
METRICS = ("kl", "visibility")
TRIES = 100

Ops = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--modelopt-python", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf-file")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--method", action="append", choices=LENSES)
    parser.add_argument("--metric", action="append", choices=METRICS, help="ours (default: all)")
    parser.add_argument("--bits", type=float, action="append", help="budgets (default: all solved)")
    parser.add_argument("--time-budget", type=float, help="seconds of a method of ModelOpt's")
    parser.add_argument("--tokens", choices=("text", "loss"), default="text", help="ModelOpt's")
    parser.add_argument(
        "--pick",
        action="store_true",
        help="score by kl from base fallback too, and pick by measuring",
    )
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--eval-samples", type=int, default=64)
    parser.add_argument("--measure", type=int, help="of the held-out samples the first so many")
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
    for metric in bench.metrics:
        bench.ours(metric)
    profiles = bench.profiles(methods)
    readings, baseline = bench.measure(profiles)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    made = bench.said() | figures(bench.spectrum, profiles, readings, baseline)
    made["pairs"] = [pair | bench.predicted(pair, profiles) for pair in made["pairs"]]
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
        self.metrics = args.metric or list(METRICS)
        self.ops = stages.OpsRequest()
        self.table = self.ops.table(loaded)
        self.splits = self.data.splits(loaded.takes_images)
        self.modelopt = ModelOpt(
            loaded, self.data, self.work, tokens=args.tokens, time_budget=args.time_budget
        )
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
            f"modelopt-{method}", lambda: self.modelopt.auto_quantize(method)
        )
        return found

    def ours(self, metric: str, base: stages.Base = "isolate") -> Path:
        """Our report by a metric."""
        name = f"native-{metric}" if base == "isolate" else f"native-{metric}-{base}"
        path: Path = self.work / f"{name}.report.json"

        def make() -> None:
            stages.sensitivity(
                self.loaded,
                {(metric, FORMAT): path},
                data=self.data,
                ops=self.ops,
                scoring=stages.ScoringRequest(metric=(metric,), format=(FORMAT,)),
                base=base,
                progress=silent,
            )

        self.timed(name, make)
        return path

    # Profiles.

    def profiles(self, methods: list[str]) -> dict[str, Ops]:
        """All profiles by name: ``SIDE METHOD BITS``, ``SIDE kept SHARE``, ``all``."""
        made: dict[str, Ops] = {"all": {op.name: FORMAT for op in self.table.candidates}}
        reports = {metric: self.ours(metric) for metric in self.metrics}
        self.spectrum = stages.spectrum(reports[self.metrics[0]], self.work / "spectrum.json")
        for method in methods:
            for solution in self.theirs(method)["solutions"]:
                bits = solution["effective_bits"]
                if self.args.bits and bits not in self.args.bits:
                    continue
                key = f"{method} {bits:g}"
                made[f"modelopt {key}"] = dict.fromkeys(solution["ops"], FORMAT)
        theirs = {key: ops for key, ops in made.items() if key.startswith("modelopt ")}
        if self.args.pick:
            reports["fallback"] = self.ours("kl", "fallback")
        rankings = list(reports)
        reports |= {f"solver:{m}": self.modelopt.restated(m, self.theirs(m)) for m in methods}
        for side, report in reports.items():
            wanted = {
                key.removeprefix("modelopt "): self.bytes_of(ops)
                for key, ops in theirs.items()
                if not side.startswith("solver:") or key.split()[1] == side.partition(":")[2]
            }
            made |= {f"{side} {key}": ops for key, ops in self.within(report, wanted).items()}
        for share in KEPT:
            for side in rankings:
                made[f"{side} kept {share:g}"] = self.keeping(reports[side], share)
        return made | (self.picked(made, rankings) if self.args.pick else {})

    def picked(self, profiles: Mapping[str, Ops], rankings: list[str]) -> dict[str, Ops]:
        """For each budget, of our rankings' profiles the one whose KL on the selection samples is least."""
        made: dict[str, Ops] = {}
        meter = self._meter(self.splits.selection)
        with meter.simulating():
            for name in profiles:
                first, _, key = name.partition(" ")
                if first == rankings[0]:
                    some = [profiles[f"{side} {key}"] for side in rankings]
                    kl = [sum(self._reading(meter, ops, "pick").values["kl"]) for ops in some]
                    made[f"picked {key}"] = some[kl.index(min(kl))]
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
        # Scales make bytes and weights not quite proportional: from above, less is allowed until it fits.
        for tried in range(-TRIES // 5, TRIES):
            limit = least + int(share * (1 - tried / 1000) * (most - least))
            ops = self.within(report, {"kept": limit})["kept"]
            if kept_share(self.spectrum, ops) <= share:
                return ops
        raise SystemExit(f"no profile keeps {share:.0%} or less")

    # Figures.

    def measure(self, profiles: Mapping[str, Ops]) -> tuple[dict[str, Reading], Reading]:
        """Readings of all profiles on the evaluation split, by name, and of the unquantized model."""
        first = self.args.measure
        meter = self._meter(self.splits.evaluation[:first])
        kind = f"reading-first{first}" if first else "reading"
        with meter.simulating():
            readings = {name: self._reading(meter, ops, kind) for name, ops in profiles.items()}
            return readings, meter.baseline

    def _meter(self, samples: Sequence[Sample]) -> Meter:
        plans = plans_of(self.loaded, self.spectrum, self.splits, self.data)
        return meter_on(self.loaded, plans, samples, self.data)

    def _reading(self, meter: Meter, ops: Ops, kind: str) -> Reading:
        def make() -> dict[str, Any]:
            (found,) = meter.measure([ops])
            return {"values": dict(found.values), "not_finite": found.not_finite}

        return Reading(**self.timed(f"{kind}-{ops_sha256(ops)[:16]}", make))

    def predicted(self, pair: Mapping[str, Any], profiles: Mapping[str, Ops]) -> dict[str, Any]:
        """What ModelOpt's own scores add up to on both sides, where only the solvers differ."""
        side, method, bits = pair["side"], pair["method"], pair["effective_bits"]
        if not side.startswith("solver:"):
            return {}
        scores = self.theirs(method)["scores"]
        names = {"ours": f"{side} {method} {bits:g}", "theirs": f"modelopt {method} {bits:g}"}
        return {
            "predicted": {
                who: math.fsum(scores[op] for op in profiles[name]) for who, name in names.items()
            }
        }

    def said(self) -> dict[str, Any]:
        """What was measured, where, and how long each part took."""
        parts = {path.stem: path for path in sorted(self.work.glob("*.json"))}
        times = {name: json.loads(path.read_text()).get("time") for name, path in parts.items()}
        methods = [name.removeprefix("modelopt-") for name in parts]
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
                if spent and not name.startswith(("reading-", "pick-"))
            },
            "measuring_seconds": sum(
                spent["seconds"]
                for name, spent in times.items()
                if name.startswith("reading-") and spent
            ),
            "modelopt": {
                method: self.modelopt.told(self.theirs(method))
                for method in methods
                if method in LENSES
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
