"""Options of nearly every command: the model, the samples, the ops, what is printed."""

from __future__ import annotations

import argparse

from quantspectrum.options.values import group_of_options, positive, seed

__all__ = [
    "answer_options",
    "common_options",
    "data_options",
    "loading_options",
    "ops_options",
    "tracking_options",
]


def common_options() -> argparse.ArgumentParser:
    """Options of every command."""
    group = group_of_options()
    group.add_argument("--json", action="store_true", help="print the record as JSON")
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    group.add_argument("--debug", action="store_true", help="show where an error was raised")
    return group


def tracking_options() -> argparse.ArgumentParser:
    """Where a run's figures are logged besides its directory."""
    group = group_of_options()
    group.add_argument(
        "--track", choices=("mlflow",), help="log figures and files, where installed"
    )
    return group


def loading_options(*, optional: bool = False) -> argparse.ArgumentParser:
    """What model to load, and how; ``optional`` where a command can do without."""
    group = group_of_options()
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
    group = group_of_options()
    add = group.add_argument
    add(
        "--data",
        action="append",
        metavar="SPEC",
        help="coco:FILE, text:FILE, jsonl:FILE, pope:FILE, hub:ID[:SPLIT], images:DIR or demo; "
        "again to mix (default: demo, for models that see images)",
    )
    add("--images", metavar="DIR", help="folder of the pictures that a file names")
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
        "--seed", type=seed, default=0, metavar="N", help="seed of the draw of samples (default: 0)"
    )
    return group


def answer_options(*, prompts: bool = True) -> argparse.ArgumentParser:
    """What is answered, and at what length; without ``prompts`` the samples alone are."""
    group = group_of_options()
    add = group.add_argument
    if prompts:
        add("--prompts", metavar="FILE", help="YAML or JSONL file of prompts to answer")
    add(
        "--max-new-tokens",
        type=positive,
        default=48,
        metavar="N",
        help="longest answer, in tokens (default: 48)",
    )
    return group


def ops_options() -> argparse.ArgumentParser:
    """Which ops are candidates."""
    group = group_of_options()
    add = group.add_argument
    add("--include", action="append", metavar="PATTERN", help="only ops that match")
    add("--exclude", action="append", metavar="PATTERN", help="no op that matches")
    add("--type", action="append", metavar="TYPE", help="op types to quantize (default: Linear)")
    return group
