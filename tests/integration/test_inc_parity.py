"""Our ``mse_v2`` from base ``fallback`` against the numbers of INC 3.7's own code.

``oracles/inc/*.json`` hold what INC's ``calculate_op_sensitivity`` computed of two tiny models;
``python tools/inc_golden.py --inc-python PATH`` makes them again. No INC is needed here.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

import models_tiny
from oracles.inc_models import CASES, fingerprint, make_batch, make_model
from quantspectrum.formats import preset
from quantspectrum.lenses.native import NativeRequest, score_ops
from quantspectrum.models.ops import list_ops

ORACLES = Path(__file__).parents[1] / "oracles/inc"
TOLERANCE = 0.01
"""Of an op's number. With INC's version of PyTorch on the same machine it is 1e-6."""
APART = 0.002
"""Ops nearer to one another than this may change places on another processor."""


@pytest.fixture(scope="module", params=CASES)
def both(request: pytest.FixtureRequest) -> tuple[dict[str, float], dict[str, Any]]:
    """Our residual errors by op, and the golden file."""
    golden = json.loads((ORACLES / f"{request.param}.json").read_text())
    model, batch = make_model(request.param), make_batch(request.param)
    assert fingerprint(model, batch.inputs) == golden["fingerprint"], "not the golden's model"
    loaded = models_tiny.loaded(model)
    wanted = NativeRequest(
        formats=(preset("inc"),),
        base="fallback",
        # INC calibrates on the batch that it scores.
        calibration=[batch],
        selection=[batch],
        data=models_tiny.identities(batch),
        seed=0,
    )
    (report,) = score_ops(loaded, list_ops(model, loaded.layout), wanted, step=lambda: None)
    return {op.name: op.raw["residual_sse"] for op in report.ops}, golden


def test_every_op_has_incs_number(both: tuple[dict[str, float], dict[str, Any]]) -> None:
    ours, golden = both
    assert ours == pytest.approx(golden["residual_sse"], rel=TOLERANCE)


def test_the_order_is_incs(both: tuple[dict[str, float], dict[str, Any]]) -> None:
    ours, golden = both
    theirs: dict[str, float] = golden["residual_sse"]
    ranked: list[str] = golden["order"]
    assert ranked == sorted(theirs, key=theirs.__getitem__)
    pairs = [
        (low, high)
        for low, high in itertools.combinations(ranked, 2)
        if theirs[high] > theirs[low] * (1 + APART)
    ]
    # Most pairs count, or the golden would prove nothing.
    assert len(pairs) > 0.85 * len(ranked) * (len(ranked) - 1) / 2
    assert [(low, high) for low, high in pairs if ours[low] >= ours[high]] == []
