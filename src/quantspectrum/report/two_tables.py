"""Tables of two runs side by side."""

from __future__ import annotations

import math
from typing import Any

from quantspectrum.agreement.agree import group_scores, members_of
from quantspectrum.agreement.rank_statistics import spearman_interval
from quantspectrum.artifacts import Evaluation, SensitivityReport
from quantspectrum.errors import UserError
from quantspectrum.report import pairs
from quantspectrum.report.comparison import Comparison, ComparisonRow
from quantspectrum.report.inputs import BASELINE, RunFiles
from quantspectrum.report.numbers import (
    ABSENT,
    between,
    correlation,
    count,
    number,
    relative,
    score,
    signed,
    size,
    with_interval,
    yes_no,
)
from quantspectrum.report.tables import Table, columns

__all__ = ["own_table", "ranking_table", "settings_table", "unpaired", "variants_table"]


def unpaired(a: Evaluation, b: Evaluation) -> str | None:
    """Why two evaluations cannot be paired; ``None`` where they can."""
    try:
        pairs.check_same_samples(a, b, ("the first", "the second"))
    except UserError as error:
        # The last part is the remedy, which is of no use for two runs that are what they are.
        return str(error).rpartition("; ")[0]
    hashes = [{d.sha256 for d in e.provenance.data if d.split == "evaluation"} for e in (a, b)]
    if not hashes[0] or not hashes[1]:
        return "the hash of the evaluation data is not recorded in both"
    return None


def _evaluations(files: RunFiles) -> dict[str, Evaluation]:
    found = {BASELINE: files.baseline} if files.baseline is not None else {}
    return found | {
        n: files.evaluations[n] for n in files.profile_names() if n in files.evaluations
    }


def variants_table(names: tuple[str, str], files: tuple[RunFiles, RunFiles]) -> Table:
    """A row for each profile of either run: sizes, losses, and the second's less the first's."""
    one, other = (_evaluations(run) for run in files)
    rows = []
    for profile in dict.fromkeys([*one, *other]):
        a, b = one.get(profile), other.get(profile)
        rows.append(
            (
                profile,
                *(size(e.resources.disk_bytes) if e else ABSENT for e in (a, b)),
                *(number(e.loss.loss, e.loss.stderr) if e else ABSENT for e in (a, b)),
                *(_difference(a, b) if a is not None and b is not None else (ABSENT,) * 4),
            )
        )
    return Table(
        caption=f"Profiles of the same name; the change is {names[1]} less {names[0]}, in nats per "
        "token. Paired: on the same samples, its 95 % interval clustered by sample. Not paired: the "
        "errors are independent, and the interval takes in the difference of the samples.",
        columns=columns(
            "Profile",
            *(f"Size, {name}" for name in names),
            *(f"Loss, {name}" for name in names),
            *("Change", "95 % interval", "Differs", "Paired"),
            text=("Profile", "Differs", "Paired"),
        ),
        rows=tuple(rows),
    )


def _difference(a: Evaluation, b: Evaluation) -> tuple[str, str, str, str]:
    if unpaired(a, b) is None:
        found = pairs.compare_loss(a, b)
        if found is None or found.low is None:
            return (signed(found.value) if found else ABSENT, ABSENT, yes_no(None), "yes")
        interval = between(found, lambda value: signed(value, found.stderr))
        return signed(found.value, found.stderr), interval, yes_no(found.differs), "yes"
    change = b.loss.loss - a.loss.loss
    if a.loss.stderr is None or b.loss.stderr is None:
        return signed(change), ABSENT, yes_no(None), "NO"
    half = 1.96 * math.hypot(a.loss.stderr, b.loss.stderr)
    interval = f"{signed(change - half, half)} to {signed(change + half, half)}"
    return signed(change, half), interval, yes_no(abs(change) > half), "NO"


def own_table(names: tuple[str, str], both: tuple[Comparison, Comparison]) -> Table:
    """Every variant of both runs against the baseline of its own run."""
    return Table(
        caption="Each variant against the baseline of its own run: the paired loss change with its "
        "95 % interval, and the KL divergence with its noise floor.",
        columns=columns(
            *("Run", "Profile", "Groups", "Checkpoint", "Loss change", "95 % interval"),
            *("Differs", "KL", "KL floor"),
            text=("Run", "Profile", "Differs"),
        ),
        rows=tuple(
            (name, row.profile, count(row.groups), size(row.bytes_known()), *_own_cells(row))
            for name, comparison in zip(names, both, strict=True)
            for row in comparison.rows
        ),
    )


def _own_cells(row: ComparisonRow) -> tuple[str, ...]:
    whole, paired = row.over(), row.paired
    kl = (
        score(whole.kl_mean.value)
        if whole
        else score(row.divergence.value if row.divergence else None)
    )
    floor = score(whole.kl_mean.floor) if whole else ABSENT
    if paired is None or paired.low is None:
        return (ABSENT, ABSENT, yes_no(None), kl, floor)
    interval = between(paired, lambda value: relative(value, paired.baseline))
    return relative(paired.value, paired.baseline), interval, yes_no(paired.differs), kl, floor


def _key(report: SensitivityReport) -> tuple[str, str, str]:
    return report.lens, report.base, report.format.name


def ranking_table(files: tuple[RunFiles, RunFiles]) -> Table:
    """Rank correlation of the groups' scores, for reports of the same lens, base and format."""
    theirs = {_key(report): report for report in files[1].reports.values()}
    rows = []
    for report in files[0].reports.values():
        if (other := theirs.get(_key(report))) is None:
            continue
        members = members_of([report, other])
        a, b = group_scores(report, members), group_scores(other, members)
        shared = [group for group in a if group in b]
        found = spearman_interval([a[g] for g in shared], [b[g] for g in shared], seed=0)
        rows.append((*_key(report), count(len(shared)), with_interval(found, correlation)))
    return Table(
        caption="Spearman's rank correlation of the group scores of the two runs, with its 95 % "
        "interval from resampling the groups.",
        columns=columns(
            "Lens", "Base", "Format", "Groups", "Spearman", text=("Lens", "Base", "Format")
        ),
        rows=tuple(rows),
    )


def settings_table(names: tuple[str, str], files: tuple[RunFiles, RunFiles]) -> Table:
    """What was asked differently, and what it ran on."""
    sides = [_settings(run) for run in files]
    keys = [k for k in dict.fromkeys([*sides[0], *sides[1]]) if sides[0].get(k) != sides[1].get(k)]
    return Table(
        caption="Only what differs.",
        columns=columns("Setting", *names, text=("Setting", *names)),
        rows=tuple((key, *(_text(side.get(key)) for side in sides)) for key in keys),
    )


def _settings(files: RunFiles) -> dict[str, Any]:
    environment = files.run.environment
    found: dict[str, Any] = {
        f"--{key.replace('_', '-')}": v for key, v in files.run.request.items()
    }
    found |= {"device": environment.device_name, "platform": environment.platform}
    found |= {"quantspectrum": environment.tool_version, "git commit": environment.git_sha}
    return found | environment.packages


def _text(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return yes_no(value)
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
