"""The stage ``guard``: every profile beside rivals of equal size, before any checkpoint is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from quantspectrum.artifacts import (
    Additivity,
    Guard,
    SensitivityReport,
    Spectrum,
    read_artifact,
    sha256_file,
    write_artifact,
)
from quantspectrum.models.loading import Loaded
from quantspectrum.provenance import Stopwatch
from quantspectrum.sensitivity.request import TELLS_TOKENS
from quantspectrum.spectrum import additivity as adding
from quantspectrum.spectrum.groups import Group
from quantspectrum.spectrum.guard import Quantity, compared, rivals_of
from quantspectrum.spectrum.meter import Ops, Reading, ops_sha256
from quantspectrum.spectrum.quality import (
    ranked_groups,
)
from quantspectrum.stages.held_out import (
    check_held_out,
    meter_on,
    pair,
    plans_of,
    used_samples,
)
from quantspectrum.stages.requests import DataRequest, Progress

__all__ = ["DEFAULT_SEEDS", "guard"]

DEFAULT_SEEDS = (0, 1, 2, 3, 4)


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
    report = pair(report_path, spectrum_path)[0] if report_path is not None else None
    splits = data.splits(loaded.takes_images)
    held_out = report is not None and check_held_out(report, splits)
    quantity: Quantity = "kl" if loaded.task in TELLS_TOKENS else "mse_v2"
    names = {"kl", "nll"} if quantity == "kl" else {"mse_v2"}
    if report is not None:
        names.add(adding.metric_of(report)[0])
    meter = meter_on(
        loaded,
        plans_of(loaded, spectrum, splits, data),
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
            loaded.identity, used_samples(splits, data, samples)[1:], seed=data.seed
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
