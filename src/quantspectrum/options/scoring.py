"""Options of scoring: metrics, formats, limits, and lenses other than the native one."""

from __future__ import annotations

import argparse

from quantspectrum.formats import PRESETS
from quantspectrum.options.values import count, group_of_options, metric, positive
from quantspectrum.sensitivity import METRICS

__all__ = ["lens_options", "scoring_options"]


def scoring_options() -> argparse.ArgumentParser:
    """What is scored, and how."""
    group = group_of_options()
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
    group = group_of_options()
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
