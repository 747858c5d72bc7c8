"""Everything that a run knows of each op, a part of the page for each."""

from __future__ import annotations

from typing import Any

from quantspectrum.artifacts import LOWEST, Histogram, Op, OpScore
from quantspectrum.report.inputs import RunFiles
from quantspectrum.report.numbers import ABSENT, count, minus, percent, score
from quantspectrum.report.parts import damage_by
from quantspectrum.report.quantities import quantity_of
from quantspectrum.report.ranking import kind_of_score

__all__ = ["histograms_note", "op_ids", "op_pages"]


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


def op_pages(files: RunFiles) -> dict[str, Any]:
    """Everything of each op, from which the page's script makes a part when it is opened.

    Returns:
        ``titles`` of the table of scores, and ``ops`` in the order of the first report: ``name``;
        ``facts``, term by term; ``group``, the ops that must share its format; ``scores``, a row for
        each of ``reports``; ``left``, the reports that give it no score with their reasons;
        ``histograms`` of its weight and its inputs. Everything is text but the counts.
    """
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
    names = list(op_ids(files))
    members = {name: groups[op.group] for name, op in known.items()}
    return {
        "titles": list(_TITLES),
        "lowest": LOWEST,
        "reports": [
            [
                f"{label} ({unit})" if (unit := quantity_of(report.lens).unit) else label,
                count(len(report.ops)),
            ]
            for label, report in files.reports.items()
        ],
        "ops": [
            {
                "name": name,
                "facts": _facts(files, known.get(name), scored.get(name, [])),
                "group": [other for other in members.get(name, ()) if other != name],
                "scores": [_score_cells(files, label, op) for label, op in scored.get(name, [])],
                "left": left_out.get(name, []),
                "histograms": _histograms(files, name),
            }
            for name in names
        ],
    }


_TITLES = (
    *("Report", "Rank", "Score", "±", "n", "Kind", "Weights alone", "Activations alone"),
    "The lens's own numbers",
)


def _facts(
    files: RunFiles, op: Op | None, scored: list[tuple[str, OpScore]]
) -> list[tuple[str, str]]:
    if op is None:
        return []
    name = op.name
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
    parts = next((said for label, found in scored if (said := _parts(label, found))), None)
    if parts is not None:
        facts.append(("What does the damage", parts))
    profiles = files.spectrum.profiles if files.spectrum is not None else ()
    formats = [f"{p.name}: {p.ops[name]}" for p in profiles if name in p.ops]
    if profiles:
        facts.append(("Quantized in", ", ".join(formats) or "no profile"))
    return facts


def _parts(label: str, found: OpScore) -> str | None:
    """Which of weights and activations does more when quantized alone; ``None`` if not known."""
    said = damage_by(found)
    return said and f"{said} ({label})"


def _score_cells(files: RunFiles, label: str, found: OpScore) -> list[str | int]:
    """A row: the report by its place, as its name would be repeated for every op."""
    return [
        list(files.reports).index(label),
        count(found.rank),
        score(found.score),
        score(found.stderr),
        count(found.n),
        kind_of_score(found, files.reports[label]),
        score(found.weight_score),
        score(found.activation_score),
        ", ".join(f"{key} {_g(value)}" for key, value in found.raw.items()) or ABSENT,
    ]


def _histograms(files: RunFiles, name: str) -> list[dict[str, Any]]:
    found = files.histograms.ops.get(name) if files.histograms else None
    both = (("Weights", found.weight), ("Inputs", found.inputs)) if found is not None else ()
    return [_bins(title, one) for title, one in both if one is not None]


def _bins(title: str, found: Histogram) -> dict[str, Any]:
    """The octaves from the smallest magnitude seen to the largest, in ten-thousandths of all."""
    total = sum(found.counts) + found.zeros
    filled = [i for i, n in enumerate(found.counts) if n]
    first, last = (filled[0], filled[-1]) if filled else (0, -1)
    return {
        "title": title,
        "first": first,
        "shares": [round(1e4 * n / total) / 1e4 for n in found.counts[first : last + 1]],
        "says": _words(found, total),
    }


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


def _g(value: float) -> str:
    return minus(f"{value:.4g}")
