"""Which lens foretells the measured damage: rankings of one model against held-out data.

    python bench/truth.py --model DIR [--gguf-file NAME] --data text:FILE --format w8a8-static \
        --lens inc:mse_v2 --lens autoround:scheme,repaired=true --work DIR --out JSON

Scores the model with the native metrics from both bases, with the rules of thumb and with the lenses of
`--lens`, and measures every group alone and every order's prefixes on the evaluation split
(`quantspectrum truth`). What is scored and measured is kept in `--work`: the same call goes on where it
was interrupted. A lens that cannot score a format is asked for the first of its own formats with the same
weights, and the result says which; one that cannot at all is listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers import machine
from truth_native import native_reports

from quantspectrum import stages
from quantspectrum.agreement.agree import labels_of
from quantspectrum.agreement.truth import DEFAULT_SHARES
from quantspectrum.artifacts import SensitivityReport, Truth, read_artifact
from quantspectrum.demo import model_dir
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.lenses import lens_named
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.provenance import environment
from quantspectrum.stages import lens_sensitivity, truth

ISOLATE = ("kl", "mse_v2", "nll", "visibility", "sqnr", "hawq_v2")
FALLBACK = ("kl", "mse_v2")
HEURISTICS = ("heuristic:ends", "heuristic:down-proj", "heuristic:range", "heuristic:size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a directory, or demo")
    parser.add_argument("--gguf-file")
    parser.add_argument("--name", help="of the model in the result")
    parser.add_argument("--data", action="append", required=True, help="data spec")
    parser.add_argument("--format", action="append")
    parser.add_argument("--metric", action="append", choices=ISOLATE, help="isolate (default: all)")
    parser.add_argument(
        "--joint", action="store_true", help="measured metrics of a base in one scan"
    )
    parser.add_argument("--lens", action="append", default=[], help="NAME[,OPTION=VALUE...]")
    parser.add_argument("--lens-budget", type=float, help="seconds a lens of --lens may score for")
    parser.add_argument("--lens-batches", type=int, help="batches that a lens of --lens scores on")
    parser.add_argument("--native-batches", type=int, help="batches that measured metrics take")
    parser.add_argument("--report", type=Path, action="append", default=[])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--eval-samples", type=int, default=64)
    parser.add_argument("--measure", type=int, help="measure on so many of the held-out samples")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--share", type=float, action="append", help="shares of bytes to measure at"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--score-only", action="store_true", help="measure nothing yet")
    parser.add_argument("--only-lenses", action="store_true", help="those of --lens and no others")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = str(model_dir()) if args.model == "demo" else args.model
    spec = ModelSpec(model=model, gguf_file=args.gguf_file, device=args.device, dtype=args.dtype)
    loaded = load_model(spec)
    data = stages.DataRequest(
        data=tuple(args.data),
        calibration=args.samples,
        samples=args.samples,
        eval_samples=args.eval_samples,
        batch_size=args.batch_size,
        max_length=args.max_length,
    )
    result: dict[str, Any] = {
        "bench": "truth",
        "machine": machine(),
        "environment": environment(loaded.device).model_dump(mode="json"),
        "model": loaded.identity.model_dump(mode="json") | ({"id": args.name} if args.name else {}),
        "data": data.model_dump(mode="json") | {"data": [named(one) for one in data.data]},
        "joint": args.joint,
        "formats": {},
    }
    for fmt in args.format or ["w8a8-static", "w8a8", "w4a16"]:
        bench = Bench(loaded=loaded, data=data, fmt=fmt, args=args)
        found = bench.run()
        if found is None:
            # What bench/truth_scores.py must know of scores that are held against other measurements.
            told = result | {"absent": bench.absent}
            (args.work / "asked.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
        else:
            result["formats"][fmt] = found
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def named(spec: str) -> str:
    """A data spec without the folder its file is in."""
    kind, _, rest = spec.partition(":")
    return f"{kind}:{Path(rest).name}" if rest else kind


@dataclass(kw_only=True)
class Bench:
    """Rankings and the truth in one format.

    Attributes:
        said: For each report what the bench itself knows of it.
        absent: Lenses without a report, with the reason.
    """

    loaded: Loaded
    data: stages.DataRequest
    fmt: str
    args: argparse.Namespace
    said: dict[Path, dict[str, Any]] = field(default_factory=dict)
    absent: list[dict[str, str]] = field(default_factory=list)

    def run(self) -> dict[str, Any] | None:
        directory = self.args.work / self.fmt
        directory.mkdir(parents=True, exist_ok=True)
        self._score(directory)
        if self.args.score_only:
            return None
        for path in self.args.report:
            self.said[path] = {"options": {}}
        paths = list(self.said)
        start, load = time.perf_counter(), os.getloadavg()
        out = directory / "truth.json"
        found = self._kept(out, paths) or truth(
            self.loaded,
            paths,
            out,
            data=self.data,
            ops=stages.OpsRequest(),
            format_name=self.fmt,
            samples=self.args.measure,
            shares=self._shares,
            progress=silent,
        )
        seconds = time.perf_counter() - start
        print(out.with_suffix(".md").read_text(), flush=True)
        return {
            "truth_seconds": found.provenance.wall_s,
            "this_call_seconds": seconds,
            "load_average": {"before": load, "after": os.getloadavg()},
            "truth": summary(found),
            "lenses": [lens_row(path, said) for path, said in self.said.items()],
            "absent": self.absent,
        }

    @property
    def _shares(self) -> tuple[float, ...]:
        return tuple(self.args.share or DEFAULT_SHARES)

    def _kept(self, out: Path, paths: list[Path]) -> Truth | None:
        """What an earlier call measured of the same reports, samples and shares."""
        if not out.exists():
            return None
        found = read_artifact(out, Truth)
        orders = [o.label for o in found.orders if o.kind == "lens" and not o.per_byte]
        same = (
            orders == labels_of([read_artifact(path, SensitivityReport) for path in paths])
            and found.samples == (self.args.measure or self.args.eval_samples)
            and found.shares == self._shares
            and out.stat().st_mtime > max(path.stat().st_mtime for path in paths)
        )
        return found if same else None

    def _score(self, directory: Path) -> None:
        for text in self.args.lens:
            lens, _, rest = text.partition(",")
            options = stages.parse_lens_options(rest.split(",") if rest else [])
            self._lens(lens, options, bounded=True)
        if self.args.only_lenses:
            return
        isolate = tuple(self.args.metric or ISOLATE)
        for base, metrics in (("isolate", isolate), ("fallback", FALLBACK)):
            scored = native_reports(
                self.loaded,
                directory,
                metrics,
                base=base,
                fmt=self.fmt,
                data=self.data,
                joint=self.args.joint,
                batches=self.args.native_batches,
                noting=noting,
            )
            self.said |= scored
        for lens in HEURISTICS:
            self._lens(lens, {}, bounded=False)

    def _lens(self, lens: str, options: dict[str, str], *, bounded: bool) -> None:
        asked = " ".join([lens, *(f"{name}={value}" for name, value in options.items())])
        fmt = format_for(lens, self.fmt)
        if fmt is None:
            formats = ", ".join(lens_named(lens).FORMATS)
            self.absent.append(
                {"lens": asked, "reason": f"cannot score {self.fmt}: {formats} only"}
            )
            return
        # In the folder of the format it is scored in: another format's table takes the same report.
        path = self.args.work / fmt / f"{asked.replace(':', '-').replace(' ', ',')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        limits: dict[str, Any] = {}
        if bounded:
            limits = {
                "time_budget": self.args.lens_budget,
                "confidence_batches": self.args.lens_batches,
            }
        if not path.exists():
            try:
                with noting(path, **limits):
                    lens_sensitivity(
                        self.loaded,
                        path,
                        lens=lens,
                        data=self.data,
                        ops=stages.OpsRequest(),
                        format_name=fmt,
                        options=options,
                        progress=silent,
                        **limits,
                    )
            except UserError as error:
                print(f"{self.fmt} {asked}: {error}", flush=True)
                self.absent.append({"lens": asked, "reason": without_paths(str(error))})
                return
        report = read_artifact(path, SensitivityReport)
        if not report.ops:
            self.absent.append({"lens": asked, "reason": f"scored no op: {report.stopped_by}"})
            return
        self.said[path] = {"options": options, **json.loads(note_of(path).read_text())}


def format_for(lens: str, fmt: str) -> str | None:
    """The format itself, or the first of the lens's formats that has the same weights."""
    known = lens_named(lens).FORMATS
    if not known or fmt in known:
        return fmt
    weight = preset(fmt).weight
    return next((name for name in known if preset(name).weight == weight), None)


def without_paths(text: str) -> str:
    """A reason without this machine's folders."""
    words = text.split(" ")
    return " ".join(Path(word).name if word.startswith("/") else word for word in words)


def note_of(path: Path) -> Path:
    return path.with_suffix(".note")


@contextmanager
def noting(*paths: Path, **limits: float | None) -> Iterator[None]:
    """Note beside reports what making them took: seconds, peak memory of this process, load."""
    _forget_peak()
    start, load = time.perf_counter(), os.getloadavg()
    yield
    noted = {
        "seconds": time.perf_counter() - start,
        "peak_bytes": _peak(),
        "load_average": {"before": load, "after": os.getloadavg()},
        "made_together": len(paths),
        "limits": limits,
    }
    for path in paths:
        note_of(path).write_text(json.dumps(noted))
    print(f"{paths[0].parent.name} {[p.stem for p in paths]}: {noted['seconds']:.1f} s", flush=True)


def _forget_peak() -> None:
    """Begin the count of peak resident memory anew, where the kernel lets one."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("peak memory is that of the whole process: this kernel keeps its count", flush=True)


def _peak() -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def lens_row(path: Path, said: dict[str, Any]) -> dict[str, Any]:
    """What a report is of; in the order of the truth's lenses."""
    report = read_artifact(path, SensitivityReport)
    device = report.provenance.peak_device_bytes
    row: dict[str, Any] = {
        "lens": report.lens,
        "base": report.base,
        "format": report.format.name,
        "found": report.coverage.scored + len(report.coverage.skipped),
        "scored": report.coverage.scored,
        "stopped_by": report.stopped_by,
        "missing": sorted({note.reason for note in report.coverage.skipped}),
        **said,
    }
    if report.framework is not None:
        row |= {
            "framework": report.framework.model_dump(mode="json"),
            "worker_peak_bytes": report.framework.peak_bytes,
            "worker_seconds": report.framework.seconds,
        }
    return row | {"peak_device_bytes": device}


def summary(found: Truth) -> dict[str, Any]:
    """The record without what is long: provenance is the bench's own."""
    kept = found.model_dump(mode="json", exclude={"provenance"})
    for group in kept["groups"]:
        del group["ops"]
    return kept


def silent(_steps: int) -> Callable[[], None]:
    return lambda: None


if __name__ == "__main__":
    main()
