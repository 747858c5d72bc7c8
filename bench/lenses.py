"""Every lens on one model: seconds, coverage, and how far its order agrees with native `kl`.

    python bench/lenses.py --model DIR --data text:FILE [--max-length 128] --out JSON

Each lens scores its own format from its own base, and is held against native `kl` in the same format from
the same base, over the ops that both scored (`quantspectrum agree`). Environments are found as
`quantspectrum doctor` finds them; a lens whose environment is absent fails here and is listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import machine

from quantspectrum import stages
from quantspectrum.agreement import agree_files
from quantspectrum.artifacts import SensitivityReport
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.provenance import environment
from quantspectrum.stages import lens_sensitivity

CASES: tuple[tuple[str, str | None, dict[str, str]], ...] = (
    ("heuristic:ends", None, {}),
    ("heuristic:down-proj", None, {}),
    ("heuristic:range", None, {}),
    ("heuristic:size", None, {}),
    ("modelopt:gradient", "w8a8-static", {}),
    ("modelopt:gradient", "w8a8-static", {"groups": "single"}),
    ("modelopt:gradient", "w8a8-static", {"smoothquant": "true"}),
    ("modelopt:gradient", "fp8", {}),
    ("modelopt:gradient", "fp8", {"fp8": "per-token"}),
    ("modelopt:kl_div", "w8a8-static", {}),
    ("modelopt:kl_div", "w8a8-static", {"groups": "single"}),
    ("autoround:scheme", "w8a8", {}),
    ("autoround:scheme", "w8a8", {"repaired": "true"}),
    ("inc:mse_v2", "inc", {"fast": "true"}),
    ("inc:hawq_v2", "inc", {}),
    ("inc:tune", "inc", {}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf-file")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--time-budget", type=float, default=60.0, help="of a lens")
    parser.add_argument(
        "--lens", action="append", help="these alone; rows of others are kept from --out"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    loaded = load_model(
        ModelSpec(model=args.model, gguf_file=args.gguf_file, device=args.device, dtype="float32")
    )
    data = stages.DataRequest(
        data=tuple(args.data),
        calibration=args.samples,
        samples=args.samples,
        eval_samples=args.samples,
        batch_size=args.batch_size,
        max_length=args.max_length,
    )
    result: dict[str, Any] = {
        "bench": "lenses",
        "machine": machine(),
        "environment": environment(loaded.device).model_dump(mode="json"),
        "model": loaded.identity.model_dump(mode="json"),
        # A file's folder says nothing of what was measured.
        "data": data.model_dump(mode="json") | {"data": [Path(d).name for d in args.data]},
        "native": [],
        "lenses": [],
    }
    rows = kept_rows(args.out, result) if args.lens else {}
    with tempfile.TemporaryDirectory() as work:
        natives: dict[tuple[str, str], Path] = {}
        for index, case in enumerate(CASES):
            lens, fmt, options = case
            if args.lens and lens not in args.lens:
                continue
            path = Path(work) / f"{index}.json"
            row = one(loaded, path, lens, fmt, options, data, args.time_budget)
            row |= {"made_by": made_by(result), "time_budget": args.time_budget}
            if "error" not in row:
                key = (row["format"], row["base"])
                if key not in natives:
                    natives[key] = Path(work) / f"{'.'.join(key)}.json"
                    others = [n for n in result["native"] if (n["format"], n["base"]) != key]
                    result["native"] = [*others, native(loaded, natives[key], *key, data)]
                row["agreement"] = agreement(natives[key], path)
            rows[key_of(*case)] = row
            print(told(row), flush=True)
            # Kept rows too, each time: a call that is cut loses none.
            result["lenses"] = [rows[key_of(*c)] for c in CASES if key_of(*c) in rows]
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def key_of(lens: str, fmt: str | None, options: dict[str, str]) -> str:
    return " ".join(
        [lens, *([fmt] if fmt else []), *(f"{name}={value}" for name, value in options.items())]
    )


def kept_rows(out: Path, result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of an earlier call on the same model and data, by lens, options and format."""
    if not out.exists():
        return {}
    before = json.loads(out.read_text())
    if any(before[key] != result[key] for key in ("model", "data")):
        raise SystemExit(f"{out} is of another model or data: give another --out, or no --lens")
    result["native"] += before["native"]
    found: dict[str, dict[str, Any]] = {}
    for row in before["lenses"]:
        # The rules of thumb are asked for without a format.
        fmt = None if row["lens"].startswith("heuristic") else row["format"]
        found[key_of(row["lens"], fmt, row["options"])] = {"made_by": made_by(before)} | row
    return found


def made_by(result: dict[str, Any]) -> dict[str, Any]:
    """What may differ between the calls whose rows one result holds."""
    return {
        "git_sha": result["environment"]["git_sha"],
        "threads": result["machine"]["threads"],
        "torch": result["machine"]["torch"],
    }


def one(
    loaded: Loaded,
    path: Path,
    lens: str,
    fmt: str | None,
    options: dict[str, str],
    data: stages.DataRequest,
    budget: float,
) -> dict[str, Any]:
    """A lens's report in short, or why there is none."""
    row: dict[str, Any] = {"lens": lens, "options": options, "format": fmt}
    before, start = os.getloadavg(), time.perf_counter()
    try:
        report: SensitivityReport = lens_sensitivity(
            loaded,
            path,
            lens=lens,
            data=data,
            ops=stages.OpsRequest(),
            format_name=fmt,
            time_budget=budget,
            options=options,
            progress=silent,
        )
    except UserError as error:
        return row | {"error": str(error), "seconds": time.perf_counter() - start}
    assert report.framework is not None
    if not report.ops:
        error = f"no op was scored: {report.stopped_by}"
        return row | {"error": error, "seconds": time.perf_counter() - start}
    return row | {
        "format": report.format.name,
        "base": report.base,
        "seconds": time.perf_counter() - start,
        "framework": report.framework.model_dump(mode="json"),
        "scored": report.coverage.scored,
        "skipped": [note.model_dump(mode="json") for note in report.coverage.skipped],
        "stopped_by": report.stopped_by,
        "load_average": {"before": before, "after": os.getloadavg()},
        "scores": {op.name: op.score for op in report.ops},
    }


def native(
    loaded: Loaded, path: Path, fmt: str, base: Any, data: stages.DataRequest
) -> dict[str, Any]:
    """Native `kl`: seconds and scores."""
    start = time.perf_counter()
    (report,) = stages.sensitivity(
        loaded,
        {("kl", fmt): path},
        data=data,
        ops=stages.OpsRequest(),
        scoring=stages.ScoringRequest(metric=("kl",), format=(fmt,)),
        base=base,
        progress=silent,
    )
    return {
        "format": fmt,
        "base": base,
        "seconds": time.perf_counter() - start,
        "scores": {op.name: op.score for op in report.ops},
        "load_average": os.getloadavg(),
    }


def agreement(a: Path, b: Path) -> dict[str, Any]:
    """Spearman's rank correlation over ops and over groups."""
    return {
        pair.unit: {"n": pair.n} | pair.spearman.model_dump(mode="json")
        for pair in agree_files([a, b]).pairs
        if pair.component == "all"
    }


def told(row: dict[str, Any]) -> str:
    options = " ".join(f"{k}={v}" for k, v in row["options"].items())
    name = f"{row['lens']} {options}".strip()
    if "error" in row:
        return f"{name}: {row['error']}"
    found = " ".join(_figure(unit, pair) for unit, pair in row["agreement"].items())
    return f"{name} {row['format']} {row['base']}: {row['seconds']:.1f} s, {row['scored']} ops, {found}"


def _figure(unit: str, pair: dict[str, Any]) -> str:
    if pair["value"] is None:
        return f"{unit} none (n {pair['n']})"
    low, high = (f"{pair[end]:.2f}" if pair[end] is not None else "none" for end in ("low", "high"))
    return f"{unit} {pair['value']:.3f} ({low} to {high}, n {pair['n']})"


def silent(_steps: int) -> Callable[[], None]:
    return lambda: None


if __name__ == "__main__":
    main()
