"""The stage ``quality``: the most aggressive profile that keeps to a budget, searched for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantspectrum.artifacts import (
    QualityBudget,
    QualitySearch,
    sha256_file,
    write_artifact,
)
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded
from quantspectrum.provenance import Stopwatch
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.sensitivity.request import TELLS_TOKENS
from quantspectrum.spectrum.keeps import fixed_groups
from quantspectrum.spectrum.quality import (
    find_profile,
    read_profile,
    with_profile,
)
from quantspectrum.spectrum.rules import parse_keeps
from quantspectrum.stages.held_out import (
    check_held_out,
    meter_on,
    pair,
    plans_of,
    used_samples,
)
from quantspectrum.stages.requests import DataRequest, Progress

__all__ = ["DEFAULT_TRIALS", "check_name", "check_searchable", "find_quality", "quality_path"]

DEFAULT_TRIALS = 24


def quality_path(spectrum: Path) -> Path:
    """Where the record of a search is kept beside its spectrum."""
    return spectrum.with_suffix(".quality.json")


def check_name(name: str) -> None:
    """Refuse a name that no profile of a search can have.

    Raises:
        UserError: It cannot be a file name, or is the baseline's.
    """
    if not name.replace("-", "").replace("_", "").isalnum() or name == "baseline":
        raise UserError(f"profile name {name!r}: use letters, digits, '-' and '_', not baseline")


def check_searchable(loaded: Loaded) -> None:
    """Refuse a quality budget for a model that tells no tokens.

    Raises:
        UserError: It tells none.
    """
    if loaded.task not in TELLS_TOKENS:
        raise UserError(
            f"a quality budget is of tokens, and a model for {loaded.task} tells none; use --cut"
        )


def find_quality(
    loaded: Loaded,
    report_path: Path,
    spectrum_path: Path,
    out: Path,
    *,
    data: DataRequest,
    budget: QualityBudget,
    name: str = "quality",
    keeps: Sequence[str] = (),
    trials: int = DEFAULT_TRIALS,
    progress: Progress,
) -> QualitySearch:
    """Search for the most aggressive profile that keeps to a budget, and add it to the spectrum.

    What is measured is kept in a journal beside ``out`` until the search is over, so that the same
    call goes on where it was interrupted. A profile of the same name is replaced.

    Args:
        loaded: The model.
        report_path: The ranking to follow.
        spectrum_path: The spectrum made from it; written anew with the profile in it.
        out: Record of the search, ``….json``.
        data: Which samples to use: the search is on the selection split, its check on as many of
            the evaluation split.
        budget: What may be lost.
        name: Name of the profile.
        keeps: ``PATTERN=FORMAT`` each: groups whose format is fixed, as in the spectrum.
        trials: Most profiles measured.
        progress: Given the number of steps, returns what is called after each.
    """
    watch = Stopwatch(loaded.device)
    report, spectrum = pair(report_path, spectrum_path)
    check_name(name)
    check_searchable(loaded)
    splits = data.splits(loaded.takes_images)
    check_held_out(report, splits)
    plans = plans_of(loaded, spectrum, splits, data)
    meter = meter_on(loaded, plans, splits.selection, data)
    journal_path = out.with_suffix(".journal.jsonl")
    request = {
        "search": used_samples(splits, data)[0].model_dump(mode="json"),
        "report": sha256_file(report_path),
        "model": loaded.identity.weights_fingerprint,
        "device": loaded.device.type,
        "encoding": [data.batch_size, data.max_length, data.max_new_tokens],
    }
    with Journal(journal_path, request) as journal:
        step = progress(trials)
        found = find_profile(
            meter,
            spectrum,
            report,
            budget,
            name=name,
            fixed=fixed_groups(parse_keeps(keeps), report, spectrum.formats),
            trials=trials,
            journal=journal,
            step=step,
        )
        for _ in range(trials - len(found.trials)):
            step()
    held_out = None
    if found.profile.ops:
        check = meter_on(loaded, plans, splits.evaluation[: data.samples], data)
        held_out = read_profile(check, spectrum, found.profile.ops, budget, Journal(None, {}))
    nll, targets = (sum(meter.baseline.values[key]) for key in ("nll", "targets"))
    record = QualitySearch(
        spectrum_lens=report.lens,
        base=report.base,
        report_sha256=sha256_file(report_path),
        provenance=watch.provenance(loaded.identity, used_samples(splits, data), seed=data.seed),
        budget=budget,
        baseline_nll=nll / targets if targets else None,
        max_trials=trials,
        trials=found.trials,
        profile=found.profile,
        held_out=held_out[0] if held_out else None,
        held_out_judged=held_out[1] if held_out else None,
    )
    write_artifact(out, record)
    write_artifact(spectrum_path, with_profile(spectrum, found.profile))
    journal_path.unlink(missing_ok=True)
    return record
