"""What else was given, as :mod:`quantspectrum.options.heeding` asks: is there something for an option to do?"""

from __future__ import annotations

import argparse
from typing import Any

__all__ = [
    "argument",
    "calibrates_nothing",
    "draws_nothing",
    "lens_kinds",
    "no_latency_budget",
    "no_metric_of",
    "no_picture_files",
    "writes_no_text",
]

Args = argparse.Namespace


def argument(args: Args, name: str) -> Any:
    """Value of an option; ``None`` where the command has none of the name."""
    return getattr(args, name, None)


def lens_kinds(args: Args) -> set[str]:
    """What stands before the colon of each lens that was given."""
    return {lens.partition(":")[0] for lens in argument(args, "lens") or ()}


def no_metric_of(args: Args, *metrics: str) -> bool:
    """No lens of another framework, and none of these metrics."""
    return not argument(args, "lens") and not set(args.metric or ["mse_v2"]) & set(metrics)


def no_latency_budget(args: Args) -> bool:
    """No budget is of latency."""
    rules = (budget.partition("=")[2] for budget in args.budget or ())
    return all(rule.partition(":")[0].strip() != "latency" for rule in rules)


def no_picture_files(args: Args) -> bool:
    """No source of data names pictures that lie in a folder of their own."""
    from quantspectrum.data.sources import parse_spec

    return all(parse_spec(spec)[0] in ("demo", "text", "hub", "images") for spec in args.data or ())


def calibrates_nothing(args: Args) -> bool:
    """Neither the backend nor what it is asked to do takes calibration samples."""
    from quantspectrum.backends.frameworks import check_backend, isolated_named
    from quantspectrum.backends.isolated import read_options

    options = args.backend_option or ()
    check_backend(args.backend, options=options)
    framework = isolated_named(args.backend)
    if framework is None:
        return args.transform is None and args.algorithm == "rtn"
    return not framework.needs_calibration(read_options(framework, options))


def draws_nothing(args: Args) -> bool:
    """A framework's backend has a seed of its own use, whether or not it calibrates."""
    from quantspectrum.backends import BACKENDS

    return args.backend in BACKENDS and calibrates_nothing(args)


def writes_no_text(args: Args) -> bool:
    """The model, told from its configuration alone, answers no prompts."""
    from quantspectrum.evaluate.onnx_model import is_onnx_variant
    from quantspectrum.models import adapter_for
    from quantspectrum.models.files import check_directory
    from quantspectrum.models.loading import ModelSpec, load_config

    spec = ModelSpec(**{name: getattr(args, name) for name in ModelSpec.__dataclass_fields__})
    if not is_onnx_variant(spec.model):
        check_directory(spec.model, spec.gguf_file)
    return adapter_for(load_config(spec)).task not in ("causal-lm", "image-text-to-text")
