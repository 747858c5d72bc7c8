"""Options that would do nothing beside others, or with what they are given to: one table.

An option that has no effect is refused before anything is loaded, in one sentence that says what to
do; where the answer is right without it, a note says that it changed nothing. Only what the user
gave counts, never a default. A new rule is one entry of :data:`RULES`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quantspectrum.errors import UserError
from quantspectrum.options.idle import (
    argument,
    calibrates_nothing,
    draws_nothing,
    lens_kinds,
    no_latency_budget,
    no_metric_of,
    no_picture_files,
    writes_no_text,
)
from quantspectrum.options.values import given
from quantspectrum.sensitivity import MEASURED

__all__ = ["RULES", "Rule", "check_heeded", "unheeded"]

Args = argparse.Namespace


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When options have no effect.

    Attributes:
        options: Their names in the parsed arguments.
        idle: Whether they do nothing with the other arguments.
        told: The sentence; ``{option}`` stands for the option.
        commands: Commands it is about; none means all that have the option.
        note: The answer is right all the same: the sentence is a note and no error.
    """

    options: tuple[str, ...]
    idle: Callable[[Args], bool]
    told: str
    commands: tuple[str, ...] = ()
    note: bool = False


def check_heeded(args: Args) -> None:
    """Refuse the first option that would do nothing; tell on stderr of those that may be ignored.

    A run that was begun before its option was refused must be able to go on: there it is told.

    Raises:
        UserError: An option has no effect.
    """
    begun = args.command == "run" and (Path(args.out) / "run.json").is_file()
    for rule, sentence in unheeded(args):
        if not (rule.note or begun):
            raise UserError(sentence)
        print(f"quantspectrum: note: {sentence}", file=sys.stderr)


def unheeded(args: Args) -> Iterator[tuple[Rule, str]]:
    """The rules that apply, each with its sentence about the first option that was given."""
    for rule in RULES:
        if rule.commands and args.command not in rule.commands:
            continue
        asked = [name for name in rule.options if given(args, name)]
        if asked and rule.idle(args):
            yield rule, rule.told.format(option=f"--{asked[0].replace('_', '-')}")


_LOADING = (
    *("revision", "gguf_file", "dtype", "device", "device_map", "offload_folder"),
    "trust_remote_code",
)
_DRAWING = ("data", "images", "calibration", "samples", "eval_samples", "max_length")
_NO_LIMITS = ("heuristic", "import")
_UNCALIBRATED = (
    "{option} changed nothing: it is of calibration, and nothing asked for calibrates; --transform, "
    "--algorithm gptq and some backends do (docs/backends.md)"
)

RULES: tuple[Rule, ...] = (
    # What is loaded.
    Rule(
        options=("revision",),
        idle=lambda args: argument(args, "model") is not None and Path(args.model).is_dir(),
        told="{option} chooses among the versions on the Hub, and MODEL is a local directory, which "
        "holds one; leave {option} out, or give the Hub id",
    ),
    Rule(
        options=("offload_folder",),
        idle=lambda args: args.device_map in (None, "cpu-offload"),
        told="{option} is where a device map keeps weights on disk; give --device-map auto or a "
        "JSON file too, or leave {option} out",
    ),
    Rule(
        options=("dtype", "device_map"),
        commands=("quantize",),
        idle=lambda args: args.stream,
        told="--stream loads no model to place or convert, and takes weights as their files hold "
        "them: leave out {option}",
    ),
    # Which samples.
    Rule(
        options=("images",),
        idle=no_picture_files,
        told="{option} is the folder of pictures that --data coco:, pope: or jsonl: names, and none "
        "of them is given; give one, or leave {option} out",
    ),
    Rule(
        options=("prompts", "max_new_tokens", "latency_batch_size", "latency_prompt_tokens"),
        commands=("run", "evaluate"),
        idle=writes_no_text,
        told="{option} is of models that write text, and MODEL writes none; leave {option} out",
    ),
    # Scores.
    Rule(
        options=("attribute", "rescore", "memory_limit", "slots", "probes", "cut"),
        commands=("sensitivity",),
        idle=lambda args: bool(args.lens),
        told="{option} is of the native lens; give --lens or {option}, not both",
    ),
    Rule(
        options=("max_ops", "time_budget", "confidence_batches"),
        commands=("sensitivity",),
        idle=lambda args: bool(lens_kinds(args) & set(_NO_LIMITS)),
        told="{option} bounds what is measured, and lenses heuristic: and import: measure nothing "
        "op by op; leave {option} out, or give them in a call of their own",
    ),
    Rule(
        options=("probes",),
        commands=("sensitivity", "run"),
        idle=lambda args: no_metric_of(args, "hawq_v2"),
        told="{option} is of metric hawq_v2; give --metric hawq_v2 too, or leave {option} out",
    ),
    Rule(
        options=("slots", "rescore"),
        commands=("sensitivity", "run"),
        idle=lambda args: no_metric_of(args, *MEASURED),
        told=f"{{option}} is of metrics that replay ops ({', '.join(MEASURED)}); give one of them, or "
        "leave {option} out",
    ),
    Rule(
        options=("cut",),
        commands=("sensitivity",),
        idle=lambda args: args.max_ops is None and args.time_budget is None,
        told="{option} tells a bounded scan where to measure first; give --max-ops or --time-budget "
        "too, or give {option} to `quantspectrum spectrum`",
    ),
    # Profiles.
    Rule(
        options=("confident", "trials", "quality_name"),
        commands=("spectrum", "run"),
        idle=lambda args: args.max_quality is None,
        told="{option} is for --max-quality; give a budget of quality too, or leave {option} out",
    ),
    Rule(
        options=("model", *_LOADING, *_DRAWING, "batch_size", "max_new_tokens", "seed"),
        commands=("spectrum",),
        idle=lambda args: args.max_quality is None,
        told="{option} is for --max-quality, without which nothing is loaded or measured; give a "
        "budget of quality too, or leave {option} out",
    ),
    Rule(
        options=("max_new_tokens",),
        commands=("spectrum",),
        idle=lambda args: not (args.max_quality or "accuracy").strip().startswith("accuracy"),
        told="{option} is of answers, which a budget of accuracy alone looks at; leave {option} out",
    ),
    Rule(
        options=("latency",),
        commands=("spectrum", "run"),
        idle=no_latency_budget,
        told="{option} holds the times that budgets of latency are over; give --budget "
        "NAME=latency:100% too, or leave {option} out",
    ),
    Rule(
        options=("report",),
        commands=("spectrum",),
        idle=lambda args: len(args.report) > 1 and not args.budget and not args.keep,
        told="reports after the first are recorded and change no profile: cuts quantize in the "
        "format of the first; give --budget or --keep to mix formats",
        note=True,
    ),
    Rule(
        options=("report",),
        commands=("export",),
        idle=lambda args: args.to not in ("compressed-tensors", "autoround"),
        told="{option} changed nothing: it names the ops that were no candidates, to --to "
        "compressed-tensors and autoround alone",
        note=True,
    ),
    Rule(
        options=("onnx",),
        commands=("export",),
        idle=lambda args: args.to != "onnxruntime",
        told="{option} names the nodes of a graph, to --to onnxruntime alone; leave {option} out",
    ),
    # Variants.
    Rule(
        options=("smoothing",),
        idle=lambda args: args.transform is None,
        told="{option} is how much SmoothQuant moves; give --transform smoothquant too, or leave "
        "{option} out",
    ),
    Rule(
        options=("algorithm",),
        idle=lambda args: args.backend != "compressed-tensors",
        told="{option} is of backend compressed-tensors; leave {option} out for another",
    ),
    # The same script may quantize with every backend: what one of them needs is no fault of another.
    Rule(
        options=("batch_size",),
        commands=("quantize",),
        idle=lambda _: True,
        told="{option} changed nothing: who quantizes calibrates on one sample at a time",
        note=True,
    ),
    Rule(
        options=_DRAWING,
        commands=("quantize",),
        idle=calibrates_nothing,
        told=_UNCALIBRATED,
        note=True,
    ),
    Rule(
        options=("seed",),
        commands=("quantize",),
        idle=draws_nothing,
        told=_UNCALIBRATED,
        note=True,
    ),
    # Measurements.
    Rule(
        options=("noise_floor",),
        commands=("evaluate",),
        idle=lambda args: args.baseline is not None and args.noise_floor != ["none"],
        told="{option} is measured of the baseline alone, and its evaluation holds it; leave out "
        "{option} or --baseline",
    ),
    Rule(
        options=("benchmark_limit", "benchmark_tasks"),
        idle=lambda args: not args.benchmark,
        told="{option} is of benchmarks; give --benchmark HARNESS:TASK too, or leave {option} out",
    ),
    Rule(
        options=("capability",),
        commands=("check",),
        idle=lambda args: args.engine == "transformers",
        told="{option} changed nothing: transformers computes quantized ops in high precision, on any device",
        note=True,
    ),
    Rule(
        options=("dtype",),
        commands=("check",),
        idle=lambda args: args.engine != "vllm" or (args.capability or "").strip() != "cpu",
        told="{option} changed nothing: it matters to --for vllm --capability cpu alone",
        note=True,
    ),
)
"""Every rule, in the order in which they are told."""
