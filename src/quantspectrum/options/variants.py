"""Options of writing variants and of measuring them."""

from __future__ import annotations

import argparse

from quantspectrum.options.values import group_of_options, positive, share

__all__ = ["backend_options", "measuring_options", "writing_options"]


def backend_options() -> argparse.ArgumentParser:
    """What writes variants."""
    group = group_of_options()
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
    group = group_of_options()
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


def measuring_options() -> argparse.ArgumentParser:
    """What is measured of a model besides its loss, and how."""
    group = group_of_options()
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
