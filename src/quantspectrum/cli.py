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
from quantspectrum.progress import silence_other_bars
from quantspectrum.sensitivity import METRICS

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each command's ``call`` is what carries it out."""
    parser = argparse.ArgumentParser(
        prog="quantspectrum",
        description="Which ops quantization hurts, and what each step towards W8A8 costs and buys.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped early or incomplete.",
    )
    parser.add_argument("--version", action="version", version=f"quantspectrum {__version__}")
    sub = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    loading, data, ops, scoring = _loading(), _data(), _ops(), _scoring()
    common, cuts, backend = _common(), _cuts(), _backend()

    one = sub.add_parser(
        "demo", parents=[common], help="the whole way on the embedded model", argument_default=None
    )
    one.add_argument("--out", default="runs/demo", help="run directory (default: %(default)s)")
    one.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    one.set_defaults(call=commands.demo)

    one = sub.add_parser(
        "run",
        parents=[loading, data, ops, scoring, cuts, backend, common],
        help="all stages into one directory; run again to go on",
    )
    one.add_argument("--out", required=True, help="run directory")
    one.set_defaults(call=commands.run)

    one = sub.add_parser("ops", parents=[loading, ops, common], help="list a model's ops")
    one.set_defaults(call=commands.ops)

    one = sub.add_parser(
        "sensitivity", parents=[loading, data, ops, scoring, cuts, common], help="score every op"
    )
    one.add_argument("--out", required=True, help="report to write, FILE.json")
    one.set_defaults(call=commands.sensitivity)

    one = sub.add_parser("spectrum", parents=[cuts, common], help="turn a report into profiles")
    one.add_argument("report", metavar="REPORT", help="a sensitivity report")
    one.add_argument("--out", required=True, help="spectrum to write, FILE.json")
    one.set_defaults(call=commands.spectrum)

    one = sub.add_parser(
        "quantize", parents=[loading, backend, common], help="write the checkpoint of a profile"
    )
    one.add_argument("--spectrum", required=True, metavar="FILE", help="the spectrum")
    one.add_argument("--profile", required=True, metavar="NAME", help="one of its profiles")
    one.add_argument("--out", required=True, help="checkpoint directory to make")
    one.set_defaults(call=commands.quantize)

    one = sub.add_parser(
        "evaluate", parents=[loading, data, common], help="measure a model or a variant"
    )
    one.add_argument("--out", required=True, help="evaluation to write, FILE.json")
    one.add_argument("--label", help="name shown in reports (default: the model's)")
    one.add_argument(
        "--baseline", metavar="FILE", help="the baseline's evaluation, to measure KL from"
    )
    one.set_defaults(call=commands.evaluate)

    one = sub.add_parser("compare", parents=[common], help="make a run's report again")
    one.add_argument("run", metavar="RUN", help="a run directory")
    one.set_defaults(call=commands.compare)

    one = sub.add_parser("doctor", parents=[common], help="what works on this machine")
    one.set_defaults(call=commands.doctor)
    return parser


def _group() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False)


def _common() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument("--json", action="store_true", help="print the record as JSON")
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    group.add_argument("--debug", action="store_true", help="show where an error was raised")
    return group


def _loading() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument("model", metavar="MODEL", help="Hub id or local directory")
    group.add_argument("--revision", help="Hub branch, tag or commit")
    group.add_argument("--gguf-file", metavar="NAME", help="GGUF file inside MODEL to load")
    group.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument(
        "--device-map",
        metavar="MAP",
        help="spread the weights: auto, balanced, balanced_low_0, sequential, cpu-offload, or a "
        "JSON file of module names and devices",
    )
    group.add_argument(
        "--offload-folder", metavar="DIR", help="where a device map keeps weights on disk"
    )
    group.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with the model"
    )
    return group


def _data() -> argparse.ArgumentParser:
    group = _group()
    add = group.add_argument
    add(
        "--data",
        action="append",
        metavar="SPEC",
        help="coco:FILE, text:FILE, jsonl:FILE, hub:ID[:SPLIT], images:DIR or demo; again to mix",
    )
    add("--images", metavar="DIR", help="folder of the pictures a COCO file names")
    add("--calibration", type=_positive, default=32, help="samples that set static ranges")
    add("--samples", type=_positive, default=32, help="samples that sensitivities are taken on")
    add("--eval-samples", type=_positive, default=64, help="samples that figures are taken on")
    add("--prompts", metavar="FILE", help="JSONL file of prompts to answer")
    add("--batch-size", type=_positive, default=8, help="samples a forward pass")
    add("--max-length", type=_positive, default=1024, help="longest sample, in tokens")
    add("--max-new-tokens", type=_positive, default=48, help="longest answer, in tokens")
    add("--seed", type=int, default=0, help="seed of the draw of samples")
    return group


def _ops() -> argparse.ArgumentParser:
    group = _group()
    add = group.add_argument
    add("--include", action="append", metavar="PATTERN", help="only ops that match")
    add("--exclude", action="append", metavar="PATTERN", help="no op that matches")
    add("--type", action="append", help="op types to quantize (default: Linear)")
    return group


def _scoring() -> argparse.ArgumentParser:
    group = _group()
    add = group.add_argument
    add(
        "--metric",
        action="append",
        choices=METRICS,
        help="what is scored (default: mse_v2); again for more, a report each",
    )
    add(
        "--format",
        action="append",
        choices=sorted(PRESETS),
        help="format tried on every op (default: w8a8); again for more, a report each",
    )
    add(
        "--base",
        choices=["isolate", "fallback"],
        action="append",
        help="what surrounds the op under test (default: isolate); in `run`, give both to "
        "have both, the first of which makes the spectrum",
    )
    add("--attribute", action="store_true", help="score weights and activations apart too")
    add("--max-ops", type=_positive, metavar="N", help="measure N ops, estimate the others")
    add("--time-budget", metavar="TIME", help="measure for so long (90s, 5m), then estimate")
    add(
        "--confidence-batches",
        type=_positive,
        metavar="N",
        help="score on the first N batches only",
    )
    add(
        "--rescore",
        type=_count,
        default=0,
        metavar="N",
        help="rank again (base fallback) with the N most sensitive groups restored",
    )
    add("--memory-limit", metavar="SIZE", help="captured tensors on the device, such as 4GiB")
    add("--slots", type=_positive, metavar="N", help="ops replayed together (default: by timing)")
    add("--probes", type=_positive, default=8, help="random probes of hawq_v2 a batch")
    return group


def _cuts() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument(
        "--cut",
        action="append",
        metavar="NAME=SHARE",
        help="profile and the share of groups it quantizes, such as mild=15%%; replaces them all",
    )
    return group


def _backend() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument("--backend", default="compressed-tensors", help="what writes variants")
    return group


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit code."""
    args = build_parser().parse_args(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    silence_other_bars()
    # Set for SIGINT too: a process started in the background would otherwise ignore it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return int(args.call(args))
    except UserError as error:
        if args.debug:
            traceback.print_exc()
        print(f"quantspectrum: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("quantspectrum: interrupted; run the same again to go on", file=sys.stderr)
        return 3


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
