"""A model's outputs beside the baseline's, and the baseline's beside its own: noise floors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from quantspectrum.artifacts import (
    Evaluation,
    NoiseFloor,
)
from quantspectrum.evaluate.fidelity import fidelities
from quantspectrum.evaluate.flips import flips_of_answers, flips_of_yes_no, with_floors
from quantspectrum.evaluate.generation import (
    Answer,
    compare_prompts,
    prompt_fidelity,
)
from quantspectrum.evaluate.noise import (
    NOISES,
    in_dtype,
    other_batch_size,
    other_dtype,
    why_not_dtype,
)
from quantspectrum.evaluate.outputs import Outputs, Phases, outputs_of
from quantspectrum.evaluate.predictions import (
    Compared,
    paired,
)
from quantspectrum.evaluate.request import EvaluationRequest
from quantspectrum.evaluate.session import Baseline
from quantspectrum.models.loading import Loaded

__all__ = ["against_baseline", "noise_floors", "prompt_tokens"]


def noise_floors(
    loaded: Loaded, request: EvaluationRequest, own: Outputs
) -> tuple[tuple[NoiseFloor, ...], dict[str, Compared]]:
    """The baseline against itself, in every way asked for."""
    found: list[NoiseFloor] = []
    compared: dict[str, Compared] = {}
    for kind in NOISES if request.noise is None else request.noise:
        dtype = next(loaded.model.parameters()).dtype
        batch_size, skipped = request.batch_size, None
        context: AbstractContextManager[None] = nullcontext()
        if kind == "batch":
            batch_size = other_batch_size(batch_size)
            name = f"batch size {batch_size}"
        else:
            skipped = why_not_dtype(loaded, asked=request.noise is not None)
            dtype = other_dtype(loaded)
            name = str(dtype).removeprefix("torch.")
            context = in_dtype(loaded.model, dtype) if skipped is None else context
        about = NoiseFloor(
            name=name,
            batch_size=batch_size,
            dtype=str(dtype).removeprefix("torch."),
            skipped=skipped,
        )
        if skipped is None:
            with context:
                again = outputs_of(
                    loaded,
                    replace(request, batch_size=batch_size),
                    Phases(),
                    own.measured.predictions,
                    0,
                )
            assert again.measured.compared is not None
            compared[name] = again.measured.compared
            about = about.model_copy(update=_floor(request, own, again))
        found.append(about)
    return tuple(found), compared


def _floor(request: EvaluationRequest, own: Outputs, again: Outputs) -> dict[str, Any]:
    assert again.measured.compared is not None
    clusters = _clusters(request)
    return {
        "fidelity": fidelities(paired(own.measured.predictions, again.measured.compared)),
        "flips": flips_of_answers(own.accuracy, again.accuracy, clusters),
        "yes_no": flips_of_yes_no(own.yes_no, again.yes_no, clusters),
        "prompts": compare_prompts(_tokens(own.prompts), _tokens(again.prompts)),
    }


def against_baseline(request: EvaluationRequest, own: Outputs, base: Baseline) -> dict[str, Any]:
    """Fields of a record that compare with the baseline."""
    assert own.measured.compared is not None
    clusters, noise = _clusters(request), base.evaluation.noise
    floors = [paired(base.predictions, floor) for floor in base.predictions.floors.values()]
    return {
        "fidelity": fidelities(paired(base.predictions, own.measured.compared), floors),
        "flips": with_floors(
            flips_of_answers(base.evaluation.accuracy, own.accuracy, clusters),
            [floor.flips for floor in noise],
        ),
        "yes_no_flips": with_floors(
            flips_of_yes_no(base.evaluation.yes_no, own.yes_no, clusters),
            [floor.yes_no for floor in noise],
        ),
        "prompt_fidelity": prompt_fidelity(
            prompt_tokens(base.evaluation),
            _tokens(own.prompts),
            [floor.prompts for floor in noise if floor.prompts is not None],
        ),
    }


def _clusters(request: EvaluationRequest) -> dict[str, str]:
    return {sample.id: sample.unit or sample.id for sample in request.session.samples}


def _tokens(answers: Mapping[str, Answer]) -> dict[str, tuple[int, ...]]:
    return {key: one.tokens for key, one in answers.items()}


def prompt_tokens(evaluation: Evaluation) -> dict[str, tuple[int, ...]]:
    """Tokens of the answer to each prompt, where the record holds them."""
    return {one.id: one.tokens for one in evaluation.prompts if one.tokens is not None}
