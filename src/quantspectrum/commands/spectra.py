"""The commands ``spectrum`` and ``latency``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from quantspectrum.commands.quality import add_quality, budget_of
from quantspectrum.commands.reading import DONE, Args, json_path, load, ops_request, show
from quantspectrum.errors import UserError
from quantspectrum.progress import Reporter

if TYPE_CHECKING:
    from quantspectrum.artifacts import Profile

__all__ = ["latency", "spectrum"]

_BYTES = (
    "cuts follow the scores; to spend bytes, --budget NAME=bytes:60% follows damage per byte "
    "(docs/spectrum.md)"
)


def spectrum(args: Args) -> int:
    """``quantspectrum spectrum``."""
    from quantspectrum import stages

    out = json_path(args.out)
    budget = budget_of(args)
    # Before anything is written: the model may not be there.
    loaded = load(args) if budget is not None else None
    made = stages.spectrum(
        [Path(report) for report in args.report],
        out,
        cuts=args.cut or (),
        budgets=args.budget or (),
        keeps=args.keep or (),
        latency=Path(args.latency) if args.latency is not None else None,
    )
    told: list[str] = []
    if budget is not None and loaded is not None:
        made, told = add_quality(args, loaded, budget, out)
    lines = [
        f"{p.name:<12} {p.groups:>6} {len(p.ops):>6} {p.predicted_damage:>12.4e} "
        f"{(p.predicted_bytes or 0) / 1e6:>11.2f}"
        for p in made.profiles
    ]
    # Rules of thumb are orders, whose scores are no damages to divide.
    if not args.budget and budget is None and not made.lens.startswith("heuristic:"):
        told.append(_BYTES)
    head = f"{'profile':<12} {'groups':>6} {'ops':>6} {'predicted':>12} {'weights, MB':>11}"
    rules = [_rule(profile) for profile in made.profiles]
    show(args, made, "\n".join([head, *lines, "", *rules, *told, "", str(out)]))
    return DONE


def _rule(profile: Profile) -> str:
    text = f"{profile.name}: {profile.rule}"
    if profile.ties is not None and profile.ties.groups:
        text += (
            f"; {profile.ties.groups} of {profile.ties.judged} groups are tied at the line within "
            "2 standard errors"
        )
    return text


def latency(args: Args) -> int:
    """``quantspectrum latency``."""
    from quantspectrum import stages

    out = json_path(args.out)
    rows = _rows(args.rows)
    reporter = Reporter(args.quiet)
    table = stages.latency(
        load(args),
        out,
        ops=ops_request(args),
        formats=tuple(dict.fromkeys(args.format or ())),
        rows=rows,
        repeats=args.repeats,
        progress=lambda steps: reporter.progress("latency", steps),
    )
    head = f"{'rows':>6} {'shape':<14} {'format':<24} {'median':>10}  kernel"
    lines = [
        f"{e.rows:>6} {'x'.join(map(str, e.shape)):<14} {e.format:<24} "
        f"{e.median_s * 1e6:>7.1f} us  {e.kernel}"
        for e in table.entries
    ]
    reasons = {(a.format, a.reason): 0 for a in table.absent}
    for absent in table.absent:
        reasons[absent.format, absent.reason] += 1
    gone = [f"absent: {fmt}: {why} ({n} cases)" for (fmt, why), n in reasons.items()]
    show(args, table, "\n".join([head, *lines, *gone, "", str(out)]))
    return DONE


def _rows(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*", text):
        raise UserError(f"--rows {text!r}: give counts from 1 to 999999999, such as 1,128")
    return tuple(sorted({int(count) for count in text.split(",")}))
