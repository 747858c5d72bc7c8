"""The stages that measure profiles before any checkpoint is written: from files to files.

The search for a profile that keeps to a quality budget decides, and so uses the selection split; the
guard and the check of what was found use the evaluation split, which decides nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from quantspectrum.artifacts import (
    Additivity,
    DataIdentity,
    Guard,
    QualityBudget,
    QualitySearch,
    SensitivityReport,
    Spectrum,
    read_artifact,
    sha256_file,
    write_artifact,
)
from quantspectrum.data.encode import encode_for
from quantspectrum.data.sample import Sample
from quantspectrum.data.splits import Splits, identity
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded
from quantspectrum.provenance import Stopwatch
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.sensitivity.request import TELLS_TOKENS
from quantspectrum.spectrum import additivity as adding
from quantspectrum.spectrum.groups import Group
from quantspectrum.spectrum.guard import Quantity, compared, rivals_of
from quantspectrum.spectrum.keeps import fixed_groups
from quantspectrum.spectrum.meter import Meter, Ops, Plans, Reading, ops_sha256, plans_for
from quantspectrum.spectrum.quality import (
    find_profile,
    ranked_groups,
    read_profile,
    with_profile,
)
from quantspectrum.spectrum.rules import parse_keeps
from quantspectrum.stages import DataRequest

__all__ = [
    "DEFAULT_SEEDS",
    "DEFAULT_TRIALS",
    "check_name",
    "find_quality",
    "guard",
    "quality_path",
]

DEFAULT_TRIALS = 24
DEFAULT_SEEDS = (0, 1, 2, 3, 4)

Progress = Callable[[int], Callable[[], None]]


def quality_path(spectrum: Path) -> Path:
    """Where the record of a search is kept beside its spectrum."""
    return spectrum.with_suffix(".quality.json")


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
    report, spectrum = _pair(report_path, spectrum_path)
    check_name(name)
    if loaded.task not in TELLS_TOKENS:
        raise UserError(
            f"a quality budget is of tokens, and a model for {loaded.task} tells none; use --cut"
        )
    splits = data.splits(loaded.takes_images)
    _check_held_out(report, splits)
    plans = _plans(loaded, spectrum, splits, data)
    meter = _meter(loaded, plans, splits.selection, data)
    journal_path = out.with_suffix(".journal.jsonl")
    request = {
        "search": _used(splits, data)[0].model_dump(mode="json"),
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
        check = _meter(loaded, plans, splits.evaluation[: data.samples], data)
        held_out = read_profile(check, spectrum, found.profile.ops, budget, Journal(None, {}))
    nll, targets = (sum(meter.baseline.values[key]) for key in ("nll", "targets"))
    record = QualitySearch(
        spectrum_lens=report.lens,
        base=report.base,
        report_sha256=sha256_file(report_path),
        provenance=watch.provenance(loaded.identity, _used(splits, data), seed=data.seed),
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


def guard(
    loaded: Loaded,
    spectrum_path: Path,
    out: Path,
    *,
    data: DataRequest,
    report_path: Path | None = None,
    seeds: tuple[int, ...] = DEFAULT_SEEDS,
    samples: int | None = None,
    progress: Progress,
) -> Guard:
    """Measure every profile beside rivals of equal size, and how far damages add up.

    Args:
        loaded: The model.
        spectrum_path: The profiles.
        out: Record to write, ``….json``.
        data: Which samples to use: those of the evaluation split, which no ranking saw.
        report_path: The ranking behind the spectrum; without it additivity is left out.
        seeds: Seeds of the random rivals.
        samples: How many samples; by default as many as the ranking used.
        progress: Given the number of steps, returns what is called after each.

    Raises:
        UserError: The spectrum is of another model, or was made from another report.
    """
    watch = Stopwatch(loaded.device)
    spectrum = read_artifact(spectrum_path, Spectrum)
    report = _pair(report_path, spectrum_path)[0] if report_path is not None else None
    splits = data.splits(loaded.takes_images)
    held_out = report is not None and _check_held_out(report, splits)
    quantity: Quantity = "kl" if loaded.task in TELLS_TOKENS else "mse_v2"
    names = {"kl", "nll"} if quantity == "kl" else {"mse_v2"}
    if report is not None:
        names.add(adding.metric_of(report)[0])
    meter = _meter(
        loaded,
        _plans(loaded, spectrum, splits, data),
        splits.evaluation[: samples or data.samples],
        data,
        tuple(sorted(names)),
    )
    order = [name for name, _ in loaded.model.named_modules()]
    rivals = [rivals_of(profile, spectrum, order, seeds) for profile in spectrum.profiles]
    groups = ranked_groups(report, spectrum) if report is not None else []
    counts = adding.counts_of(len(groups))
    wanted: list[Ops] = [profile.ops for profile in spectrum.profiles]
    wanted += [rival.ops for some in rivals for rival in some]
    fmt = report.format.name if report is not None else ""
    prefixes = [adding.prefix_ops(groups, count, fmt) for count in counts]
    unique = {ops_sha256(ops): ops for ops in (*wanted, *prefixes)}
    measured = meter.measure(list(unique.values()), step=progress(len(unique) * len(meter.batches)))
    readings = dict(zip(unique, measured, strict=True))
    made = Guard(
        lens=spectrum.lens,
        base=spectrum.base,
        spectrum_sha256=sha256_file(spectrum_path),
        provenance=watch.provenance(
            loaded.identity, _used(splits, data, samples)[1:], seed=data.seed
        ),
        held_out=held_out,
        quantity=quantity,
        random_seeds=seeds,
        profiles=tuple(
            compared(profile, some, readings, meter.baseline, spectrum, quantity)
            for profile, some in zip(spectrum.profiles, rivals, strict=True)
        ),
        additivity=_additivity(report, groups, counts, prefixes, readings, meter.baseline),
    )
    write_artifact(out, made)
    return made


def _pair(report_path: Path, spectrum_path: Path) -> tuple[SensitivityReport, Spectrum]:
    """A report and the spectrum made from it.

    Raises:
        UserError: The spectrum was made from another report.
    """
    report = read_artifact(report_path, SensitivityReport)
    spectrum = read_artifact(spectrum_path, Spectrum)
    if spectrum.report_sha256 != sha256_file(report_path):
        raise UserError(
            f"{spectrum_path} was not made from {report_path}; give the report it was made from, or "
            "make the spectrum again"
        )
    return report, spectrum


def check_name(name: str) -> None:
    """Refuse a name that no profile of a search can have.

    Raises:
        UserError: It cannot be a file name, or is the baseline's.
    """
    if not name.replace("-", "").replace("_", "").isalnum() or name == "baseline":
        raise UserError(f"profile name {name!r}: use letters, digits, '-' and '_', not baseline")


def _check_held_out(report: SensitivityReport, splits: Splits) -> bool:
    """Whether the evaluation split is known to hold nothing that the ranking was made on.

    It is where the ranking's samples are the very selection split of this draw, which is disjoint
    from it. Of a ranking made on data of another source nothing is known.

    Raises:
        UserError: The source is the same, but other samples of it were drawn.
    """
    mine = identity(splits.selection, splits.source, "selection")
    for used in report.provenance.data:
        if used.split == "selection" and used.source == mine.source:
            if used.sha256 == mine.sha256:
                return True
            raise UserError(
                "the ranking was made on other samples of the same data, which may be among those "
                "that are to be held out; give the --data, --calibration, --samples, "
                "--eval-samples and --seed that the report was made with"
            )
    return False


def _plans(loaded: Loaded, spectrum: Spectrum, splits: Splits, data: DataRequest) -> Plans:
    return plans_for(
        loaded,
        spectrum,
        lambda: encode_for(
            loaded, splits.calibration, batch_size=data.batch_size, max_length=data.max_length
        ),
    )


def _meter(
    loaded: Loaded,
    plans: Plans,
    samples: Sequence[Sample],
    data: DataRequest,
    metrics: tuple[str, ...] = ("kl", "nll"),
) -> Meter:
    return Meter(
        loaded,
        plans,
        encode_for(loaded, samples, batch_size=data.batch_size, max_length=data.max_length),
        metrics=metrics,
        asked=samples if loaded.generates else (),
        batch_size=data.batch_size,
        max_new_tokens=data.max_new_tokens,
    )


def _used(
    splits: Splits, data: DataRequest, samples: int | None = None
) -> tuple[DataIdentity, DataIdentity]:
    """Identities of the selection samples, and of the evaluation samples that were measured."""
    held_out = splits.evaluation[: samples or data.samples]
    return (
        identity(splits.selection, splits.source, "selection"),
        identity(held_out, splits.source, "evaluation"),
    )


def _additivity(
    report: SensitivityReport | None,
    groups: Sequence[Group],
    counts: Sequence[int],
    prefixes: Sequence[Ops],
    readings: Mapping[str, Reading],
    baseline: Reading,
) -> Additivity | None:
    # What is only an order is not added up.
    if report is None or report.lens.startswith("heuristic:"):
        return None
    measured = [readings[ops_sha256(ops)] for ops in prefixes]
    return adding.additivity_of(report, groups, counts, measured, baseline)
