"""Profiles measured without a checkpoint: the command ``guard``, and ``spectrum --max-quality``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quantspectrum.commands.reading import DONE, Args, data_request, json_path, load, show
from quantspectrum.errors import UserError
from quantspectrum.progress import Reporter

if TYPE_CHECKING:
    from quantspectrum.artifacts import QualityBudget, Spectrum
    from quantspectrum.models.loading import Loaded

__all__ = ["add_quality", "budget_of", "guard"]


def guard(args: Args) -> int:
    """``quantspectrum guard``."""
    from quantspectrum import stages
    from quantspectrum.report.quality import guard_document
    from quantspectrum.report.tables import document_text

    out = json_path(args.out)
    reporter = Reporter(args.quiet)
    made = stages.guard(
        load(args),
        Path(args.spectrum),
        out,
        data=data_request(args),
        report_path=Path(args.report) if args.report else None,
        seeds=tuple(range(args.rivals)),
        progress=lambda steps: reporter.progress("guard", steps),
    )
    show(args, made, f"{document_text(guard_document(made))}\n\n{out}")
    return DONE


def budget_of(args: Args) -> QualityBudget | None:
    """The quality budget asked for, if any.

    Raises:
        UserError: It is not understood, or there is no model to measure.
    """
    from quantspectrum.spectrum.build import DEFAULT_CUTS
    from quantspectrum.spectrum.quality_budget import parse_budget
    from quantspectrum.stages import check_name

    if args.max_quality is None:
        return None
    budget = parse_budget(args.max_quality, confident=args.confident)
    check_name(args.quality_name)
    rules = (*(args.cut or ()), *(args.budget or ()))
    if args.quality_name in ([rule.partition("=")[0] for rule in rules] or DEFAULT_CUTS):
        raise UserError(f"there is a profile called {args.quality_name!r}; give --quality-name")
    if args.model is None:
        raise UserError("--max-quality is measured; give the model with --model MODEL")
    return budget


def add_quality(
    args: Args, loaded: Loaded, budget: QualityBudget, out: Path
) -> tuple[Spectrum, list[str]]:
    """Search for the profile that a budget allows; the spectrum with it, and what was found."""
    from quantspectrum import stages
    from quantspectrum.artifacts import Spectrum, read_artifact
    from quantspectrum.report.quality import search_sentence

    reporter = Reporter(args.quiet)
    record = stages.find_quality(
        loaded,
        Path(args.report[0]),
        out,
        stages.quality_path(out),
        data=data_request(args),
        budget=budget,
        name=args.quality_name,
        keeps=args.keep or (),
        trials=args.trials,
        progress=lambda steps: reporter.progress("quality", steps),
    )
    told = [search_sentence(record), "", str(stages.quality_path(out))]
    return read_artifact(out, Spectrum), told
