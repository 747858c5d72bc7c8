"""Two runs side by side: paired on the same samples where they share them, or said not to be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantspectrum.agreement.agree import group_scores, members_of
from quantspectrum.agreement.rank_statistics import spearman_interval
from quantspectrum.artifacts import Evaluation, SensitivityReport, write_text
from quantspectrum.errors import UserError
from quantspectrum.report import pairs, prose
from quantspectrum.report.checks import rank_text
from quantspectrum.report.comparison import Comparison, ComparisonRow, compare
from quantspectrum.report.html import page_parts, script_json, template
from quantspectrum.report.inputs import BASELINE, RunFiles, read_run
from quantspectrum.report.markdown import inert, markdown_table
from quantspectrum.report.numbers import ABSENT, count, number, relative, score, signed, size
from quantspectrum.report.recommendation import recommend
from quantspectrum.report.tables import Table, columns
from quantspectrum.report.theme import COMPONENTS, DARK, Figure, axis, figure, label

__all__ = ["TwoRuns", "compare_two", "write_two"]


@dataclass(frozen=True, kw_only=True)
class TwoRuns:
    """What two runs say beside each other.

    Attributes:
        names: How the runs are called.
        sentences: What a reader must know first: models, samples, recommendations.
        tables: Heading and table.
        figure: Loss change by size, both runs.
    """

    names: tuple[str, str]
    sentences: tuple[str, ...]
    tables: tuple[tuple[str, Table], ...]
    figure: Figure | None


def compare_two(first: Path, second: Path) -> TwoRuns:
    """Compare two run directories.

    Raises:
        UserError: One holds no run, or a record of it cannot be read.
    """
    names = _names(first, second)
    files = read_run(first), read_run(second)
    both = compare(files[0]), compare(files[1])
    variants = _variants_table(names, files)
    tables = [("Variants", variants), ("Each against its own baseline", _own_table(names, both))]
    ranks = _ranking_table(files)
    if ranks.rows:
        tables.append(("Rankings", ranks))
    settings = _settings_table(names, files)
    if settings.rows:
        tables.append(("Differences of settings and environment", settings))
    return TwoRuns(
        names=names,
        sentences=_sentences(names, files, both),
        tables=tuple(tables),
        figure=_figure(names, both),
    )


def write_two(first: Path, second: Path, out: Path) -> TwoRuns:
    """Write ``compare.html`` and ``compare.md`` into the directory ``out``."""
    found = compare_two(first, second)
    title = f"{found.names[0]} and {found.names[1]}"
    parts = [f"# Two runs: {inert(title)}", *(inert(said) for said in found.sentences)]
    for heading, table in found.tables:
        parts += [f"## {heading}", markdown_table(table)]
    figures = {"tradeoff": found.figure} if found.figure else {}
    page = template("compare.html.j2").render(
        **page_parts(),
        title=title,
        found=found,
        op_ids={},
        figures=script_json({"dark": DARK, "places": {}, "ops": {"ops": []}, "figures": figures}),
    )
    write_text(out / "compare.md", "\n\n".join(parts) + "\n")
    write_text(out / "compare.html", page)
    return found


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Names of the directories, or their whole paths where those are the same."""
    if first.resolve() == second.resolve():
        raise UserError(f"{first} and {second} are the same run; give two")
    a, b = first.resolve().name, second.resolve().name
    return (a, b) if a != b else (str(first), str(second))


def _sentences(
    names: tuple[str, str], files: tuple[RunFiles, RunFiles], both: tuple[Comparison, Comparison]
) -> tuple[str, ...]:
    models = [one.model for one in both]
    said = [
        f"{name}: {prose.title(one)}. {recommend(one)}"
        for name, one in zip(names, both, strict=True)
    ]
    if models[0] and models[1] and models[0].weights_fingerprint != models[1].weights_fingerprint:
        said.append("The two runs are of different weights: what differs may be the models alone.")
    baselines = files[0].baseline, files[1].baseline
    if baselines[0] is not None and baselines[1] is not None:
        why = _unpaired(baselines[0], baselines[1])
        said.append(
            "Both were evaluated on the same samples, so the variants are compared sample by sample."
            if why is None
            else f"NOT PAIRED: {why}. Losses of the two runs are of different samples; their "
            "differences have independent errors, and say little of the variants."
        )
    else:
        said.append(
            "Not both baselines were evaluated, so nothing says that the samples are the same."
        )
    return tuple(said)


def _unpaired(a: Evaluation, b: Evaluation) -> str | None:
    """Why two evaluations cannot be paired; ``None`` where they can."""
    try:
        pairs.check_same_samples(a, b, ("the first", "the second"))
    except UserError as error:
        return str(error).partition(";")[0]
    hashes = [{d.sha256 for d in e.provenance.data if d.split == "evaluation"} for e in (a, b)]
    if not hashes[0] or not hashes[1]:
        return "the hash of the evaluation data is not recorded in both"
    return None


def _evaluations(files: RunFiles) -> dict[str, Evaluation]:
    found = {BASELINE: files.baseline} if files.baseline is not None else {}
    return found | {
        n: files.evaluations[n] for n in files.profile_names() if n in files.evaluations
    }


def _variants_table(names: tuple[str, str], files: tuple[RunFiles, RunFiles]) -> Table:
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
    if _unpaired(a, b) is None:
        found = pairs.compare_loss(a, b)
        if found is None or found.low is None or found.high is None:
            return (signed(found.value) if found else ABSENT, ABSENT, "unknown", "yes")
        interval = f"{signed(found.low, found.stderr)} to {signed(found.high, found.stderr)}"
        return signed(found.value, found.stderr), interval, _yes(found.differs), "yes"
    change = b.loss.loss - a.loss.loss
    if a.loss.stderr is None or b.loss.stderr is None:
        return signed(change), ABSENT, "unknown", "NO"
    half = 1.96 * math.hypot(a.loss.stderr, b.loss.stderr)
    interval = f"{signed(change - half, half)} to {signed(change + half, half)}"
    return signed(change, half), interval, _yes(abs(change) > half), "NO"


def _yes(differs: bool) -> str:
    return "yes" if differs else "no"


def _own_table(names: tuple[str, str], both: tuple[Comparison, Comparison]) -> Table:
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
    if paired is None or paired.low is None or paired.high is None:
        return (ABSENT, ABSENT, "unknown", kl, floor)
    interval = (
        f"{relative(paired.low, paired.baseline)} to {relative(paired.high, paired.baseline)}"
    )
    return relative(paired.value, paired.baseline), interval, _yes(paired.differs), kl, floor


def _key(report: SensitivityReport) -> tuple[str, str, str]:
    return report.lens, report.base, report.format.name


def _ranking_table(files: tuple[RunFiles, RunFiles]) -> Table:
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
        value = ABSENT if found.value is None else rank_text(found.value, found.low, found.high)
        rows.append((*_key(report), count(len(shared)), value))
    return Table(
        caption="Spearman's rank correlation of the group scores of the two runs, with its 95 % "
        "interval from resampling the groups.",
        columns=columns(
            "Lens", "Base", "Format", "Groups", "Spearman", text=("Lens", "Base", "Format")
        ),
        rows=tuple(rows),
    )


def _settings_table(names: tuple[str, str], files: tuple[RunFiles, RunFiles]) -> Table:
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
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _figure(names: tuple[str, str], both: tuple[Comparison, Comparison]) -> Figure | None:
    """Loss increase over the own baseline (%) against the share of the baseline's size."""
    data = []
    for number_, (name, comparison) in enumerate(zip(names, both, strict=True)):
        rows = [r for r in comparison.rows if r.paired is not None and r.ratio is not None]
        if not rows:
            continue
        percents = [_percents(row) for row in rows]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label(name, 40),
                "x": [100 * (row.ratio or 0.0) for row in rows],
                "y": [value for _, value, _ in percents],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [high - value for _, value, high in percents],
                    "arrayminus": [value - low for low, value, _ in percents],
                },
                "marker": {
                    "size": 12,
                    "color": COMPONENTS[number_],
                    "symbol": ("circle", "diamond")[number_],
                },
                "hoverinfo": "text",
                "hovertext": [f"{label(name)}: {label(row.profile)}" for row in rows],
            }
        )
    if not data:
        return None
    return figure(
        data,
        height=380,
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        margin={"l": 56, "r": 16, "t": 48, "b": 48},
        xaxis=axis("Checkpoint, in % of the baseline's"),
        yaxis=axis("Loss increase (%)"),
    )


def _percents(row: ComparisonRow) -> tuple[float, float, float]:
    paired = row.paired
    assert paired is not None
    whole = 100 / paired.baseline if paired.baseline > 0 else 100.0
    low = paired.value if paired.low is None else paired.low
    high = paired.value if paired.high is None else paired.high
    return low * whole, paired.value * whole, high * whole
