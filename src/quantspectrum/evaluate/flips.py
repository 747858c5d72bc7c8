"""Answers that changed: both ways, with McNemar's exact test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantspectrum.artifacts import Accuracy, Flips, YesNo
from quantspectrum.evaluate.fidelity import mean_figure
from quantspectrum.evaluate.statistics import mcnemar

__all__ = ["flips_of_answers", "flips_of_yes_no", "with_floors"]


def flips_of_answers(
    baseline: Accuracy | None, model: Accuracy | None, clusters: Mapping[str, str]
) -> Flips | None:
    """Flips of judged answers; ``None`` where either has none, or they share none."""
    if baseline is None or model is None:
        return None
    before, after = baseline.answers or {}, model.answers or {}
    shared = [key for key in baseline.correct if key in model.correct]
    changed = sum(before.get(key) != after.get(key) for key in shared)
    return _flips(
        {key: (baseline.correct[key], model.correct[key]) for key in shared}, changed, clusters
    )


def flips_of_yes_no(
    baseline: YesNo | None, model: YesNo | None, clusters: Mapping[str, str]
) -> Flips | None:
    """Flips of the answers that logits give to yes/no questions."""
    if baseline is None or model is None:
        return None
    before, after = baseline.by_logits.answers, model.by_logits.answers
    shared = [key for key in baseline.truth if key in model.truth]
    right = {
        key: (before[key] == baseline.truth[key], after[key] == model.truth[key]) for key in shared
    }
    return _flips(right, sum(before[key] != after[key] for key in shared), clusters)


def _flips(
    right: Mapping[str, tuple[bool, bool]], changed: int, clusters: Mapping[str, str]
) -> Flips | None:
    if not right:
        return None
    lost = sum(before and not after for before, after in right.values())
    won = sum(after and not before for before, after in right.values())
    return Flips(
        compared=len(right),
        changed=changed,
        lost=lost,
        won=won,
        p_value=mcnemar(lost, won),
        accuracy=mean_figure(
            {key: float(after) - float(before) for key, (before, after) in right.items()}, clusters
        ),
    )


def with_floors(flips: Flips | None, floors: Sequence[Flips | None]) -> Flips | None:
    """The same with the noise floors beside it."""
    found = [floor for floor in floors if floor is not None]
    if flips is None or not found:
        return flips
    furthest = max(found, key=lambda floor: abs(floor.accuracy.value))
    return flips.model_copy(
        update={
            "floor_changed": max(floor.changed for floor in found),
            "floor_flips": max(floor.lost + floor.won for floor in found),
            "accuracy": flips.accuracy.model_copy(update={"floor": furthest.accuracy.value}),
        }
    )
