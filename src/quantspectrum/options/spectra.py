"""Options of making profiles of a ranking, and of handing one to another framework."""

from __future__ import annotations

import argparse

from quantspectrum.formats import PRESETS
from quantspectrum.options.values import group_of_options, positive
from quantspectrum.spectrum.exporters import EXPORTERS

__all__ = ["budget_options", "cuts_options", "export_options", "latency_options", "quality_options"]


def cuts_options() -> argparse.ArgumentParser:
    """Where the ranking is cut into profiles."""
    group = group_of_options()
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
    group = group_of_options()
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
    group = group_of_options()
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
    group = group_of_options()
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


def export_options() -> argparse.ArgumentParser:
    """What is exported, and what a target must know besides."""
    group = group_of_options()
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
