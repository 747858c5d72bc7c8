"""The options of the command line, in groups that several commands share."""

from __future__ import annotations

import argparse

from quantspectrum.formats import PRESETS
from quantspectrum.sensitivity import METRICS
from quantspectrum.spectrum.exporters import EXPORTERS

__all__ = [
    "backend_options",
    "budget_options",
    "common_options",
    "count",
    "cuts_options",
    "data_options",
    "export_options",
    "latency_options",
    "lens_options",
    "loading_options",
    "measuring_options",
    "metric",
    "ops_options",
    "positive",
    "quality_options",
    "scoring_options",
    "share",
    "tracking_options",
    "writing_options",
]


def _group() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False)


def common_options() -> argparse.ArgumentParser:
    """Options of every command."""
    group = _group()
    group.add_argument("--json", action="store_true", help="print the record as JSON")
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    group.add_argument("--debug", action="store_true", help="show where an error was raised")
    return group


def tracking_options() -> argparse.ArgumentParser:
    """Where a run's figures are logged besides its directory."""
    group = _group()
    group.add_argument(
        "--track", choices=("mlflow",), help="log figures and files, where installed"
    )
    return group


def loading_options(*, optional: bool = False) -> argparse.ArgumentParser:
    """What model to load, and how; ``optional`` where a command can do without."""
    group = _group()
    if optional:
        group.add_argument("--model", metavar="MODEL", help="Hub id or local directory")
    else:
        group.add_argument("model", metavar="MODEL", help="Hub id or local directory")
    group.add_argument("--revision", help="Hub branch, tag or commit")
    group.add_argument("--gguf-file", metavar="NAME", help="GGUF file inside MODEL to load")
    group.add_argument(
        "--dtype",
        default="auto",
        help="auto (float32 on a CPU, else bfloat16), float32, bfloat16 or float16",
    )
    group.add_argument(
        "--device", default="auto", help="auto (CUDA where there is one), cpu, cuda or cuda:N"
    )
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


def data_options() -> argparse.ArgumentParser:
    """Which samples to draw."""
    group = _group()
    add = group.add_argument
    add(
        "--data",
        action="append",
        metavar="SPEC",
        help="coco:FILE, text:FILE, jsonl:FILE, pope:FILE, hub:ID[:SPLIT], images:DIR or demo; "
        "again to mix (default: demo, for models that see images)",
    )
    add("--images", metavar="DIR", help="folder of the pictures a COCO file names")
    add(
        "--calibration",
        type=positive,
        default=32,
        metavar="N",
        help="samples that set static ranges (default: 32)",
    )
    add(
        "--samples",
        type=positive,
        default=32,
        metavar="N",
        help="samples that sensitivities are taken on (default: 32)",
    )
    add(
        "--eval-samples",
        type=positive,
        default=64,
        metavar="N",
        help="samples that figures are taken on (default: 64)",
    )
    add("--prompts", metavar="FILE", help="YAML or JSONL file of prompts to answer")
    add(
        "--batch-size",
        type=positive,
        default=8,
        metavar="N",
        help="samples a forward pass (default: 8)",
    )
    add(
        "--max-length",
        type=positive,
        default=1024,
        metavar="N",
        help="longest sample, in tokens (default: 1024)",
    )
    add(
        "--max-new-tokens",
        type=positive,
        default=48,
        metavar="N",
        help="longest answer, in tokens (default: 48)",
    )
    add("--seed", type=int, default=0, metavar="N", help="seed of the draw of samples (default: 0)")
    return group


def measuring_options() -> argparse.ArgumentParser:
    """What is measured of a model besides its loss, and how."""
    group = _group()
    add = group.add_argument
    add(
        "--latency-batch-size",
        action="append",
        type=positive,
        metavar="N",
        help="prompts at a time to measure latency with; again for more",
    )
    add(
        "--latency-prompt-tokens",
        action="append",
        type=positive,
        metavar="N",
        help="length of prompts to measure latency with; again for more",
    )
    add(
        "--noise-floor",
        action="append",
        choices=["batch", "dtype", "none"],
        help="how the baseline is run again to know its noise (default: all this device has)",
    )
    add(
        "--benchmark",
        action="append",
        metavar="HARNESS:TASK",
        help="lm-eval:TASK or lmms-eval:TASK, where installed; again for more",
    )
    add("--benchmark-limit", type=positive, metavar="N", help="questions of each task at most")
    add("--benchmark-tasks", metavar="DIR", help="folder of task files of your own")
    add(
        "--runner",
        action="append",
        choices=["onnxruntime", "torchao", "vllm"],
        help="time the model with this library's real kernels too; again for more",
    )
    return group


def ops_options() -> argparse.ArgumentParser:
    """Which ops are candidates."""
    group = _group()
    add = group.add_argument
    add("--include", action="append", metavar="PATTERN", help="only ops that match")
    add("--exclude", action="append", metavar="PATTERN", help="no op that matches")
    add("--type", action="append", metavar="TYPE", help="op types to quantize (default: Linear)")
    return group


def scoring_options() -> argparse.ArgumentParser:
    """What is scored, and how."""
    group = _group()
    add = group.add_argument
    add(
        "--metric",
        action="append",
        type=metric,
        metavar=f"{{{','.join(METRICS)}}}",
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
    add("--max-ops", type=positive, metavar="N", help="measure N ops, estimate the others")
    add("--time-budget", metavar="TIME", help="measure for so long (90s, 5m), then estimate")
    add(
        "--confidence-batches",
        type=positive,
        metavar="N",
        help="score on the first N batches only",
    )
    add(
        "--rescore",
        type=count,
        default=0,
        metavar="N",
        help="rank again (base fallback) with the N most sensitive groups restored (default: 0, not)",
    )
    add("--memory-limit", metavar="SIZE", help="captured tensors on the device, such as 4GiB")
    add("--slots", type=positive, metavar="N", help="ops replayed together (default: by timing)")
    add(
        "--probes",
        type=positive,
        default=8,
        metavar="N",
        help="random probes of hawq_v2 a batch (default: 8)",
    )
    return group


def lens_options() -> argparse.ArgumentParser:
    """Lenses that are not the native one."""
    group = _group()
    add = group.add_argument
    add(
        "--lens",
        action="append",
        metavar="NAME",
        help="score with another lens than the native engine, such as inc:mse_v2, modelopt:gradient, "
        "heuristic:range or import:FILE; again for more, a report each",
    )
    add(
        "--lens-option",
        action="append",
        metavar="NAME=VALUE",
        help="a setting of that lens; again for more",
    )
    return group


def cuts_options() -> argparse.ArgumentParser:
    """Where the ranking is cut into profiles."""
    group = _group()
    group.add_argument(
        "--cut",
        action="append",
        metavar="NAME=SHARE",
        help="profile and the share of groups it quantizes, such as mild=15%%; again for more; replaces "
        "the default cuts mild=15%%, medium=45%%, aggressive=75%%, max=100%%; cuts follow the scores: to "
        "spend bytes, --budget NAME=bytes:60%% follows damage per byte",
    )
    return group


def budget_options() -> argparse.ArgumentParser:
    """What a profile may cost, and ops whose format is fixed."""
    group = _group()
    add = group.add_argument
    add(
        "--budget",
        action="append",
        metavar="NAME=KIND:AMOUNT",
        help="profile and what it may cost: bytes:60%% of the model's weight bytes, or bytes:1.5GB, "
        "by damage per byte, the better way to spend bytes than a cut; "
        "damage:0.01 in the lens's unit, with the fewest bytes; time:70%% of the bytes of weights "
        "that a pass reads; latency:80%% or latency:4ms of a --latency table (@ROWS where it has "
        "several); all reports' formats may be mixed; replaces the default cuts",
    )
    add(
        "--keep",
        action="append",
        metavar="PATTERN=FORMAT",
        help="ops that match have that format in every profile, such as mlp.down_proj=bf16 (high "
        "precision); again for more, the most specific pattern decides",
    )
    add("--latency", metavar="FILE", help="a table of `quantspectrum latency`")
    return group


def quality_options() -> argparse.ArgumentParser:
    """The profile that a quality budget allows."""
    group = _group()
    add = group.add_argument
    add(
        "--max-quality",
        metavar="BUDGET",
        help="add the most aggressive profile found that keeps to it, measured without a "
        "checkpoint: 'kl 0.01', 'nll +1%%', 'nll +0.02', 'perplexity +1%%' or 'accuracy -0.5pt'",
    )
    add(
        "--confident",
        action="store_true",
        help="the upper end of the 95%% interval must keep to it, not only the estimate",
    )
    add(
        "--trials",
        type=positive,
        default=24,
        metavar="N",
        help="most profiles measured for it (default: 24)",
    )
    return group


def latency_options() -> argparse.ArgumentParser:
    """What a latency table holds."""
    group = _group()
    add = group.add_argument
    add(
        "--rows",
        default="1,128",
        metavar="N[,N...]",
        help="rows of the input that are timed: tokens of a pass (default: %(default)s)",
    )
    add(
        "--format",
        action="append",
        choices=sorted(PRESETS),
        help="formats timed beside high precision (default: all)",
    )
    add("--repeats", type=positive, default=20, metavar="N", help="timed repeats (default: 20)")
    return group


def backend_options() -> argparse.ArgumentParser:
    """What writes variants."""
    group = _group()
    group.add_argument(
        "--backend",
        default="compressed-tensors",
        help="what writes variants: compressed-tensors (default), or with a framework of its own inc, "
        "inc-static, modelopt or onnx (docs/backends.md)",
    )
    group.add_argument(
        "--backend-option",
        action="append",
        metavar="NAME=VALUE",
        help="a setting of a framework's backend, such as iters=200 of inc; again for more",
    )
    return group


def writing_options() -> argparse.ArgumentParser:
    """How one variant is made."""
    group = _group()
    add = group.add_argument
    add(
        "--stream",
        action="store_true",
        help="quantize tensor by tensor from the model's files, without loading it; needs "
        "memory for a few tensors, and compares tensors on disk in place of logits",
    )
    add(
        "--transform",
        choices=["smoothquant"],
        help="move outliers from activations into weights first (llm-compressor)",
    )
    add(
        "--smoothing",
        type=share,
        default=0.5,
        metavar="ALPHA",
        help="how much SmoothQuant moves, from 0 to 1 (default: %(default)s)",
    )
    add(
        "--algorithm",
        choices=["rtn", "gptq"],
        default="rtn",
        help="what rounds weights: each to the nearest (default), or GPTQ (llm-compressor)",
    )
    return group


def export_options() -> argparse.ArgumentParser:
    """What is exported, and what a target must know besides."""
    group = _group()
    group.add_argument("spectrum", metavar="SPECTRUM", help="the spectrum")
    group.add_argument("--profile", required=True, metavar="NAME", help="one of its profiles")
    group.add_argument("--to", required=True, choices=list(EXPORTERS), help="the framework")
    group.add_argument("--out", required=True, metavar="FILE", help="configuration to write")
    group.add_argument(
        "--report",
        metavar="FILE",
        help="the sensitivity report the spectrum was made from, which names the ops that were no "
        "candidates (compressed-tensors and autoround)",
    )
    group.add_argument(
        "--onnx", metavar="FILE", help="the model's ONNX graph, which names the nodes (onnxruntime)"
    )
    group.add_argument(
        "--component",
        action="append",
        metavar="NAME",
        help="export the ops of this component alone, such as language (may be repeated)",
    )
    return group


def metric(text: str) -> str:
    """A metric of the native lens; what another lens is called by is pointed to as that lens."""
    if text in METRICS:
        return text
    from quantspectrum.lenses import LENSES

    lenses = [name for name in LENSES if name == text or name.partition(":")[2] == text]
    calls = " or ".join(f"--lens {name}" for name in lenses)
    there = (
        f"; it is a lens: `quantspectrum sensitivity` with {calls} and no --metric"
        if lenses
        else ""
    )
    raise argparse.ArgumentTypeError(
        f"{text!r} is no metric of the native lens (choose from {', '.join(METRICS)}){there}"
    )


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not from 0 to 1")
    return value


def count(text: str) -> int:
    """An integer of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def positive(text: str) -> int:
    """An integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value
