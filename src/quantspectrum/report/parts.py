"""Whether an op's weights or its activations do the damage, where both were measured alone."""

from __future__ import annotations

from quantspectrum.artifacts import OpScore, SensitivityReport
from quantspectrum.report.numbers import ABSENT, count, percent
from quantspectrum.report.ops import short_label

__all__ = ["FIRST", "damage_by", "damage_cells", "parts_sentence"]

FIRST = 10
"""Most sensitive ops that the sentence counts."""

_HOW = {"isolate": "quantized", "fallback": "restored"}


def damage_by(op: OpScore) -> str | None:
    """The part that does more alone and its share of both: ``weights, 75 %``; ``None`` if not known."""
    weight, activation = op.weight_score, op.activation_score
    if weight is None or activation is None or min(weight, activation) < 0:
        return None
    if weight == activation:
        return "both alike"
    name = "weights" if weight > activation else "activations"
    return f"{name}, {percent(max(weight, activation) / (weight + activation))}"


def damage_cells(report: SensitivityReport) -> list[str]:
    """The same as a cell for each op, in the report's order."""
    return [damage_by(op) or ABSENT for op in report.ops]


def parts_sentence(report: SensitivityReport) -> str:
    """Which part does more in the most sensitive ops, and in each of the first three; maybe empty."""
    found = [(op, said) for op in report.ops[:FIRST] if (said := damage_by(op)) is not None]
    if not found:
        return ""
    names = ("weights", "activations")
    more = {name: sum(said.startswith(name) for _, said in found) for name in names}
    alike = len(found) - sum(more.values())
    counts = [f"activations do more of the damage in {count(more['activations'])}"]
    counts.append(f"weights in {count(more['weights'])}")
    counts += [f"both alike in {count(alike)}"] if alike else []
    first = "; ".join(f"{short_label(op)}: {said}" for op, said in found[:3])
    which = f"the {count(len(found))} most sensitive ops" if len(found) > 1 else "the first op"
    if len(found) < min(FIRST, len(report.ops)):
        which = (
            f"{count(len(found))} of the {count(min(FIRST, len(report.ops)))} most sensitive ops"
        )
    return (
        f"Of {which}, each part {_HOW[report.base]} alone, {', '.join(counts)}. "
        f"Share of both in the first: {first}."
    )
