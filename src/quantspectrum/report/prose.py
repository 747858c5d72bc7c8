"""Sentences both report.html and report.md say, above all about what is missing."""

from __future__ import annotations

from quantspectrum.artifacts import SensitivityReport, Spectrum
from quantspectrum.report.comparison import Comparison
from quantspectrum.report.coverage import partial_sentence
from quantspectrum.report.drawn import shows_divergence
from quantspectrum.report.figures import RANKED
from quantspectrum.report.inputs import RunFiles
from quantspectrum.report.numbers import count, percent, plural
from quantspectrum.report.ops import places_of_notes
from quantspectrum.report.provenance import failures
from quantspectrum.report.quantities import quantity_of
from quantspectrum.report.recommendation import TOLERANCE
from quantspectrum.report.variants import EMULATED

__all__ = [
    "AGAIN",
    "NOTHING_POSITIVE",
    "NOTHING_SCORED",
    "NO_PROMPTS",
    "NO_REPORT",
    "PROMPTS",
    "damage_caption",
    "emulated_note",
    "grid_notes",
    "heatmap_caption",
    "model_sentence",
    "no_tradeoff",
    "ranking_caption",
    "title",
    "tradeoff_caption",
    "variant_notes",
    "warnings",
]

NOTHING_POSITIVE = "No score is above 0, so there is nothing to draw on a logarithmic scale."
NOTHING_SCORED = "No op was scored."
NO_REPORT = (
    "This run has no sensitivity report (sensitivity/ holds none), so there is no ranking, no "
    "heatmap and no coverage to show."
)
AGAIN = "The command that asks for this run again, with every choice spelled out:"
PROMPTS = (
    "Greedy answers. Marked words differ from the baseline's answer; struck words are gone from it."
)
NO_PROMPTS = "No evaluation of this run has prompts, so no answers can be shown."


def warnings(files: RunFiles) -> list[str]:
    """What a reader must know before anything else: partial rankings, and stages not done."""
    partial = partial_sentence(files.reports)
    said = [partial] if partial else []
    if files.spectrum is not None and files.spectrum.edited:
        said.append(
            "The spectrum was edited by hand; the figures of its profiles were computed again."
        )
    if files.guard_stale:
        said.append(
            "guard.json is of another spectrum than the one here, so what it says of a profile may be "
            "of another one of that name; make it again."
        )
    return [*said, *failures(files.run)]


def title(comparison: Comparison) -> str:
    """Heading of both reports."""
    return comparison.model.id if comparison.model else "Model not recorded"


def model_sentence(comparison: Comparison) -> str:
    """Type, size and precision of the model."""
    model = comparison.model
    if model is None:
        return "No record of this run names the model."
    revision = f", revision {model.revision[:12]}" if model.revision else ""
    dtype = model.dtype.removeprefix("torch.")
    return f"{model.model_type}, {count(model.parameters)} parameters, {dtype}{revision}"


def tradeoff_caption(comparison: Comparison) -> str:
    """How to read the trade-off, why it shows what it shows, and what the floor is."""
    said = _tradeoff_caption(comparison)
    if any(row.fidelity and row.fidelity[0].loss.floor is not None for row in comparison.rows):
        return (
            f"{said} The dotted line is the noise floor, the baseline's distance from itself: what "
            "lies below it is not known to be quantization."
        )
    if comparison.rows:
        return f"{said} No noise floor was measured."
    return said


def _tradeoff_caption(comparison: Comparison) -> str:
    if shows_divergence(comparison):
        return (
            "KL divergence from the baseline's predictions, with its 95 % interval, on a "
            "logarithmic scale that has 0 at its foot; the best place is bottom left. The loss "
            f"tells the profiles apart too little: all are within {percent(TOLERANCE)} of the "
            "baseline's. A diamond is the recommended profile."
        )
    return (
        "Loss increase over the baseline, paired over the same samples, with its 95 % interval; "
        "the best place is bottom left. The dashed line is the tolerance of the recommendation, "
        "relative to the baseline's loss; a diamond is the recommended profile."
    )


def no_tradeoff(comparison: Comparison) -> str:
    """Why there is no trade-off figure."""
    if comparison.baseline is None:
        return "The baseline was not evaluated (baseline/evaluation.json is missing)."
    return "No variant was evaluated (evaluations/ holds none), so there is nothing to compare."


_CLASSES = {
    "classes": "This model gives each sample a class: a sample counts as one token, and its class, which the "
    "data name, as the token to predict. Accuracy is the share of samples whose likeliest class it is.",
    "baseline's classes": "This model gives each sample a class, and the data name none: a sample counts as one "
    "token, and the class that the baseline takes as the token to predict. The loss says how sure a variant is of "
    "the baseline's class, and nothing of its being right.",
}


def variant_notes(comparison: Comparison) -> list[str]:
    """What is missing of the variants."""
    said = []
    if comparison.baseline is None:
        said.append(no_tradeoff(comparison))
    if not comparison.rows:
        said.append("This run has no profiles, variants or evaluations.")
    unwritten = [row.profile for row in comparison.rows if not row.written and not row.evaluated]
    unmeasured = [row.profile for row in comparison.rows if row.written and not row.evaluated]
    if unwritten:
        said.append(f"Not written, so not evaluated: {', '.join(unwritten)}.")
    if unmeasured:
        said.append(f"Written but not evaluated: {', '.join(unmeasured)}.")
    measured = [row for row in (comparison.baseline, *comparison.rows) if row and row.evaluated]
    said += [
        _CLASSES[of] for of in dict.fromkeys(row.loss_of for row in measured) if of in _CLASSES
    ]
    for what, found in (
        ("accuracy", [row.accuracy is not None for row in measured]),
        ("latency", [bool(row.latency) for row in measured]),
    ):
        if measured and not any(found):
            said.append(f"No {what} was measured.")
    alone = [row for row in measured if row.loss_stderr is None]
    if alone:
        names = ", ".join(row.profile for row in alone)
        said.append(f"The loss has no standard error (fewer than two samples): {names}.")
    return said


def emulated_note(comparison: Comparison) -> str:
    """What to think of the times of emulated kernels; empty where there are none."""
    names = [row.profile for row in comparison.rows if row.kernel == "emulated" and row.latency]
    if not names:
        return ""
    return (
        f"{', '.join(names)}: {EMULATED}. The weights and inputs are quantized, but high precision "
        "multiplies them; a serving engine with INT8 kernels runs at another speed."
    )


def heatmap_caption(report: SensitivityReport) -> str:
    """How to read the colours."""
    unit = quantity_of(report.lens).unit
    said = "Brighter is more sensitive"
    said += f" ({unit})" if unit else ""
    said += (
        ", on a logarithmic scale shared by all components, four decades at most. Grey ops were "
        "kept in high precision or skipped; empty places have no such op."
    )
    return said + (" Estimates are among the scores." if report.coverage.estimated else "")


def ranking_caption(report: SensitivityReport) -> str:
    """How to read the bars."""
    shown = min(RANKED, len(report.ops))
    said = (
        f"The first {count(shown)} of {count(len(report.ops))} scored ops; the line at the end of "
        "a bar is one standard error each way. The colour is the component."
    )
    return said + (" Hatched bars are estimates." if report.coverage.estimated else "")


def damage_caption(report: SensitivityReport, spectrum: Spectrum | None) -> str:
    """How to read the curve."""
    said = "Sum of the scores of all groups quantized so far, least sensitive first."
    if report.coverage.estimated:
        said += f" {plural(report.coverage.estimated, 'score')} of it are estimates."
    if spectrum is None:
        return said + " No spectrum was made from this report, so no profile is marked."
    return (
        said + " Marks are the profiles: those on the curve cut the ranking, those beside it chose "
        "their groups or formats by another rule."
    )


def grid_notes(report: SensitivityReport, drawn: list[str]) -> list[str]:
    """What the heatmaps leave out."""
    said = []
    if "vision" not in {op.component for op in report.ops}:
        said.append("No vision op was scored, so there is no heatmap of a vision component.")
    if not drawn:
        said.append("No scored op belongs to a numbered block, so there is no heatmap.")
    outside = sum(op.block is None for op in report.ops)
    if outside and drawn:
        said.append(
            f"{plural(outside, 'scored op')} outside the blocks: in the ranking, in no heatmap."
        )
    elsewhere = places_of_notes(report)[1]
    if elsewhere and drawn:
        said.append(f"{plural(elsewhere, 'op')} without a score: in the coverage, in no heatmap.")
    return said
