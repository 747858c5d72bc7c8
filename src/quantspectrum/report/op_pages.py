"""Everything that a run knows of each op, a part of the page for each."""

from __future__ import annotations

from dataclasses import dataclass

from quantspectrum.artifacts import LOWEST, Histogram, Op, OpScore
from quantspectrum.report.inputs import RunFiles
from quantspectrum.report.numbers import ABSENT, count, minus, percent, score
from quantspectrum.report.ranking import kind_of_score
from quantspectrum.report.tables import Table, columns

__all__ = ["Bars", "OpPage", "histograms_note", "op_ids", "op_pages"]

WIDTH, HEIGHT = 480, 72
"""Of a histogram, in units of its drawing."""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A histogram as a drawing: one path, its marks along the axis, and the same in words.

    Attributes:
        marks: Place along the axis and text of each mark.
    """

    title: str
    path: str
    marks: tuple[tuple[int, str], ...]
    says: str
    numbers: str


@dataclass(frozen=True, kw_only=True)
class OpPage:
    """One op.

    Attributes:
        id: Where links lead.
        facts: What it is, term by term.
        group: Names of the ops that must share its format.
        left_out: Report and reason, where one gives it no score.
        histograms: Of its weight and of its input.
    """

    id: str
    name: str
    facts: tuple[tuple[str, str], ...]
    group: tuple[str, ...]
    scores: Table | None
    left_out: tuple[tuple[str, str], ...]
    histograms: tuple[Bars, ...]


def op_ids(files: RunFiles) -> dict[str, str]:
    """Where the part of each op is: of every op that a record of the run names."""
    names: dict[str, None] = {}
    for report in files.reports.values():
        names |= dict.fromkeys(op.name for op in report.ops)
        notes = (*report.coverage.kept, *report.coverage.skipped)
        names |= dict.fromkeys(note.name for note in notes)
    if files.spectrum is not None:
        names |= dict.fromkeys(op.name for op in files.spectrum.candidates)
    return {name: f"op-{number}" for number, name in enumerate(names)}


def histograms_note(files: RunFiles) -> str:
    """What the histograms are of, or that there are none."""
    if files.histograms is None:
        return (
            "No histograms were made (histograms.json is missing), so the shapes of weights and "
            "inputs are not shown."
        )
    return (
        "Histograms count magnitudes by powers of two, of every weight and of the inputs over "
        f"{count(files.histograms.samples)} calibration samples. Eight-bit integers with one scale "
        "round to 0 what is below 1/254 of the largest magnitude."
    )


def op_pages(files: RunFiles) -> list[OpPage]:
    """A part for each op, in the order of the first report."""
    scored: dict[str, list[tuple[str, OpScore]]] = {}
    left_out: dict[str, list[tuple[str, str]]] = {}
    known: dict[str, Op] = {}
    for op in files.spectrum.candidates if files.spectrum else ():
        known[op.name] = op
    for label, report in files.reports.items():
        for found in report.ops:
            scored.setdefault(found.name, []).append((label, found))
            known.setdefault(found.name, found)
        for state in ("kept", "skipped"):
            for note in getattr(report.coverage, state):
                left_out.setdefault(note.name, []).append((label, f"{state}: {note.reason}"))
    groups: dict[str, list[str]] = {}
    for op in known.values():
        groups.setdefault(op.group, []).append(op.name)
    return [
        OpPage(
            id=place,
            name=name,
            facts=_facts(files, name, known.get(name), scored.get(name, [])),
            group=tuple(n for n in groups[known[name].group] if n != name) if name in known else (),
            scores=_scores(files, scored.get(name, [])),
            left_out=tuple(left_out.get(name, ())),
            histograms=_histograms(files, name),
        )
        for name, place in op_ids(files).items()
    ]


def _facts(
    files: RunFiles, name: str, op: Op | None, scored: list[tuple[str, OpScore]]
) -> tuple[tuple[str, str], ...]:
    facts: list[tuple[str, str]] = []
    if op is not None:
        facts = [
            ("Type", op.type),
            ("Component", op.component if op.block is None else f"{op.component} {op.block}"),
            ("Shape", "×".join(map(str, op.shape))),
            ("Parameters", count(op.params)),
        ]
    ranges = {found.input_range for _, found in scored if found.input_range is not None}
    if files.spectrum is not None and name in files.spectrum.input_ranges:
        ranges.add(files.spectrum.input_ranges[name])
    if ranges:
        facts.append(("Input range", "; ".join(f"{_g(a)} to {_g(b)}" for a, b in sorted(ranges))))
    profiles = files.spectrum.profiles if files.spectrum is not None else ()
    formats = [f"{p.name}: {p.ops[name]}" for p in profiles if name in p.ops]
    if profiles:
        facts.append(("Quantized in", ", ".join(formats) or "no profile"))
    return tuple(facts)


def _scores(files: RunFiles, scored: list[tuple[str, OpScore]]) -> Table | None:
    if not scored:
        return None
    return Table(
        caption="",
        columns=columns(
            *("Report", "Rank", "Score", "±", "n", "Kind", "Weights alone", "Activations alone"),
            "Own numbers",
            text=("Report", "Kind", "Own numbers"),
        ),
        rows=tuple(
            (
                label,
                f"{count(found.rank)} of {count(len(files.reports[label].ops))}",
                score(found.score),
                score(found.stderr),
                count(found.n),
                kind_of_score(found, files.reports[label]),
                score(found.weight_score),
                score(found.activation_score),
                ", ".join(f"{key} {_g(value)}" for key, value in found.raw.items()) or ABSENT,
            )
            for label, found in scored
        ),
    )


def _histograms(files: RunFiles, name: str) -> tuple[Bars, ...]:
    found = files.histograms.ops.get(name) if files.histograms else None
    if found is None:
        return ()
    both = (("Weights", found.weight), ("Inputs", found.inputs))
    return tuple(_bars(title, one) for title, one in both if one is not None)


def _bars(title: str, found: Histogram) -> Bars:
    """The octaves from the smallest magnitude seen to the largest, as columns."""
    filled = [i for i, n in enumerate(found.counts) if n]
    first, last = (filled[0], filled[-1]) if filled else (0, 0)
    shown = range(first, last + 1)
    most, step = max(found.counts) or 1, WIDTH / max(len(shown), 12)
    path = "".join(
        f"M{(i - first) * step + 1:.0f} {HEIGHT}v-{HEIGHT * found.counts[i] / most:.1f}"
        f"h{step - 2:.0f}V{HEIGHT}z"
        for i in shown
        if found.counts[i]
    )
    total = sum(found.counts) + found.zeros
    every = max(1, len(shown) // 6)
    return Bars(
        title=title,
        path=path,
        marks=tuple((round((i - first) * step), _power(i)) for i in shown[::every]),
        says=_words(found, total),
        numbers=", ".join(
            f"{_power(i)} {percent(found.counts[i] / total)}" for i in shown if found.counts[i]
        ),
    )


def _words(found: Histogram, total: int) -> str:
    largest = max(abs(found.low), abs(found.high))
    below = found.zeros + sum(
        n for i, n in enumerate(found.counts) if 2.0 ** (LOWEST + i + 1) <= largest / 254
    )
    return (
        f"{count(total)} values from {_g(found.low)} to {_g(found.high)}; {percent(found.zeros / total)} "
        f"are 0, {percent(found.negative / total)} negative; at least {percent(below / total)} are "
        "below 1/254 of the largest magnitude."
    )


def _power(place: int) -> str:
    return minus(f"{LOWEST + place}").join(("2^", ""))


def _g(value: float) -> str:
    return minus(f"{value:.4g}")
