"""The command line: parses, imports lazily, calls; it holds no logic.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 stopped early, or covering less than was asked, with
what was measured written.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

from quantspectrum import __version__, commands
from quantspectrum.errors import UserError
from quantspectrum.formats import PRESETS
from quantspectrum.options import (
    OptionParser,
    answer_options,
    backend_options,
    budget_options,
    check_heeded,
    common_options,
    cuts_options,
    data_options,
    export_options,
    few,
    latency_options,
    lens_options,
    loading_options,
    measuring_options,
    ops_options,
    quality_options,
    scoring_options,
    seed,
    tracking_options,
    writing_options,
)
from quantspectrum.progress import silence_other_bars

__all__ = ["build_parser", "main"]

ENGINE_NAMES = ("vllm", "sglang", "transformers")
DTYPE_NAMES = ("bfloat16", "float16", "float32")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each command's ``call`` is what carries it out."""
    parser: argparse.ArgumentParser = OptionParser(
        prog="quantspectrum",
        description="Which ops quantization hurts, and what each step towards W8A8 costs and buys.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped early or incomplete.",
    )
    parser.add_argument("--version", action="version", version=f"quantspectrum {__version__}")
    sub = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    loading, data, ops, scoring = (
        loading_options(),
        data_options(),
        ops_options(),
        scoring_options(),
    )
    common, cuts, backend = common_options(), cuts_options(), backend_options()
    budget, quality = budget_options(), quality_options()

    one = sub.add_parser(
        "demo", parents=[common], help="the whole way on the embedded model", argument_default=None
    )
    one.add_argument("--out", default="runs/demo", help="run directory (default: %(default)s)")
    one.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    one.set_defaults(call=commands.demo)

    one = sub.add_parser(
        "run",
        parents=[
            *(loading, data, ops, scoring, cuts, budget, quality, backend),
            *(answer_options(), tracking_options(), common),
        ],
        help="all stages into one directory; run again to go on",
        description="Baseline, sensitivity, spectrum, checkpoints, evaluations and report of a model, all below "
        "--out. Run the same again to go on where it was.",
    )
    one.add_argument("--out", required=True, help="run directory")
    one.add_argument(
        "--no-guard", action="store_true", help="compare no profile with others of its size"
    )
    one.set_defaults(call=commands.run)

    one = sub.add_parser("ops", parents=[loading, ops, common], help="list a model's ops")
    one.set_defaults(call=commands.ops)

    one = sub.add_parser(
        "sensitivity",
        parents=[loading, data, ops, scoring, lens_options(), cuts, common],
        help="score every op",
        description="Score every op: a ranked report at --out, the same as Markdown beside it. While it runs, "
        "measurements lie in a .journal.jsonl beside it; the same command goes on from there.",
    )
    one.add_argument("--out", required=True, help="report to write, FILE.json")
    one.set_defaults(call=commands.sensitivity)

    one = sub.add_parser(
        "spectrum",
        parents=[
            *(cuts, budget, quality, loading_options(optional=True), data),
            *(answer_options(prompts=False), common),
        ],
        help="turn reports into profiles",
        description="Turn sensitivity reports into profiles. Nothing is loaded or measured, but for --max-quality, "
        "which needs --model and writes its trials to FILE.quality.json.",
    )
    one.add_argument(
        "report",
        metavar="REPORT",
        nargs="+",
        help="a sensitivity report; several of one model, lens and base, one a format: the first "
        "ranks the groups and is what cuts quantize in",
    )
    one.add_argument("--out", required=True, help="spectrum to write, FILE.json")
    one.add_argument(
        "--quality-name",
        default="quality",
        metavar="NAME",
        help="name of the profile that --max-quality adds (default: %(default)s)",
    )
    one.set_defaults(call=commands.spectrum)

    one = sub.add_parser(
        "latency",
        parents=[loading, ops, latency_options(), common],
        help="time the ops' linears in each format on this machine",
        description="Time every distinct shape of the model's ops in each format, in seconds, with the kernels that "
        "PyTorch has here. Takes minutes on a CPU.",
    )
    one.add_argument("--out", required=True, help="table to write, FILE.json")
    one.set_defaults(call=commands.latency)

    one = sub.add_parser(
        "quantize",
        parents=[loading, backend, writing_options(), data, common],
        help="write the checkpoint of a profile",
        description="Write the checkpoint of a profile into a new directory, with manifest.json. It gets its name "
        "once it was loaded back and compared; otherwise nothing is kept.",
    )
    one.add_argument("--spectrum", required=True, metavar="FILE", help="the spectrum")
    one.add_argument("--profile", required=True, metavar="NAME", help="one of its profiles")
    one.add_argument("--out", required=True, help="checkpoint directory to make")
    one.set_defaults(call=commands.quantize)

    one = sub.add_parser(
        "export", parents=[export_options(), common], help="a profile as a framework's own config"
    )
    one.set_defaults(call=commands.export)

    one = sub.add_parser(
        "evaluate",
        parents=[loading, data, answer_options(), measuring_options(), common],
        help="measure a model or a variant",
        description="Measure a model or a variant on held-out samples: the record at --out, its predictions in "
        ".predictions.safetensors beside it. Losses are in nats per token.",
    )
    one.add_argument("--out", required=True, help="evaluation to write, FILE.json")
    one.add_argument("--label", help="name shown in reports (default: the model's)")
    one.add_argument(
        "--baseline", metavar="FILE", help="the baseline's evaluation, to compare with"
    )
    one.set_defaults(call=commands.evaluate)

    one = sub.add_parser(
        "check", parents=[common], help="will a serving engine load this checkpoint"
    )
    one.add_argument("directory", metavar="DIR", help="a checkpoint, ours or another's")
    one.add_argument("--for", dest="engine", required=True, choices=ENGINE_NAMES, help="the engine")
    one.add_argument("--capability", metavar="C", help="cpu, or CUDA capability such as 9.0")
    one.add_argument("--dtype", choices=DTYPE_NAMES, help="type the engine is told to compute in")
    one.add_argument("--out", help="record to write, FILE.json")
    one.set_defaults(call=commands.check)

    one = sub.add_parser(
        "guard",
        parents=[loading, data, common],
        help="measure profiles beside others of their size chosen without the ranking",
    )
    one.add_argument("--spectrum", required=True, metavar="FILE", help="the spectrum")
    one.add_argument("--out", required=True, help="record to write, FILE.json")
    one.add_argument(
        "--report", metavar="FILE", help="its sensitivity report, to see how far damages add up"
    )
    one.add_argument(
        "--rivals", type=few, default=5, metavar="N", help="random rivals of each profile"
    )
    one.set_defaults(call=commands.guard)

    one = sub.add_parser(
        "compare",
        parents=[tracking_options(), common],
        help="make a run's report again, or compare two runs",
    )
    one.add_argument("run", metavar="RUN", help="a run directory")
    one.add_argument("other", metavar="RUN", nargs="?", help="another, to compare it with")
    one.add_argument(
        "--out", help="directory for compare.html and compare.md of two runs (default: .)"
    )
    one.set_defaults(call=commands.compare)

    one = sub.add_parser("agree", parents=[common], help="how far rankings agree")
    one.add_argument(
        "reports", metavar="REPORT", nargs="+", help="sensitivity reports of one model"
    )
    one.add_argument("--out", metavar="FILE", help="record to write, FILE.json")
    one.add_argument("--seed", type=seed, default=0, help="seed of the resampling")
    one.set_defaults(call=commands.agree)

    one = sub.add_parser("truth", parents=[common], help="hold rankings against held-out damage")
    one.add_argument("run", metavar="RUN", help="a run directory")
    one.add_argument("--report", action="append", metavar="FILE", help="a further report; again")
    one.add_argument("--format", choices=sorted(PRESETS), help="measured (default: the ranking's)")
    one.add_argument("--out", metavar="FILE", help="record to write (default: RUN/truth.json)")
    one.set_defaults(call=commands.truth)

    one = sub.add_parser("doctor", parents=[common], help="what works on this machine")
    one.add_argument(
        "--install", action="append", metavar="NAME", help="make a framework's environment first"
    )
    one.set_defaults(call=commands.doctor)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit code."""
    try:
        try:
            return _carry_out(argv)
        finally:
            # Here and not when the interpreter ends, where a closed pipe would be told as an error.
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return 1


def _carry_out(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    silence_other_bars()
    # Set for SIGINT too: a process started in the background would otherwise ignore it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        check_heeded(args)
        return int(args.call(args))
    except UserError as error:
        if args.debug:
            traceback.print_exc()
        print(f"quantspectrum: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("quantspectrum: interrupted; run the same again to go on", file=sys.stderr)
        return 3


def _drop_output() -> None:
    """Whoever read the output has gone (``| head``): what is still buffered goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
