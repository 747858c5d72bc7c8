"""ModelOpt's own solutions within budgets: over the ops asked for, and as its published rules have them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from lens_cases import saved

import models_tiny
from quantspectrum import isolation
from quantspectrum.isolation.inputs import batch_tensors, model_request
from quantspectrum.lenses.targets import label_tensors
from quantspectrum.models.ops import list_ops

BITS = [9.0, 12.0, 14.5]

needs_modelopt = pytest.mark.skipif(
    isolation.find_environment("modelopt") is None, reason="the environment `modelopt` is absent"
)


def solved(method: str, directory: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """What the worker finds, and the weights of every op asked for."""
    loaded = saved(models_tiny.causal_lm(), directory / "model")
    batch = models_tiny.text_batch()
    weights = {
        op.name: math.prod(op.shape) for op in list_ops(loaded.model, loaded.layout).candidates
    }
    request = {
        **model_request(loaded, directory / "model"),
        "ops": list(weights),
        "seed": 0,
        "time_budget": None,
        "settings": {
            "preset": "INT8_DEFAULT_CFG",
            "method": method,
            "groups": "fused",
            "predicts": batch.predicts,
            "effective_bits": BITS,
        },
    }
    tensors = {
        **batch_tensors("calibration", [batch]),
        **batch_tensors("selection", [batch]),
        **label_tensors(method, [batch], ("next-token",)),
    }
    found = isolation.run_worker(
        "modelopt", "modelopt_auto_quantize", request, directory, tensors=tensors
    )
    return found, weights


@needs_modelopt
@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradient", "kl_div"])
def test_solutions_keep_to_the_budget_over_the_ops_asked_for(method: str, tmp_path: Path) -> None:
    found, weights = solved(method, tmp_path)
    whole = sum(weights.values())
    assert found["weights"] == whole
    # The LM head, which was not asked for, is in ModelOpt's own denominator.
    assert found["weights_counted"] > whole
    assert [solution["effective_bits"] for solution in found["solutions"]] == BITS
    sizes = []
    for solution in found["solutions"]:
        quantized = sum(weights[op] for op in solution["ops"])
        bits = 16 - 8 * quantized / whole
        assert bits <= solution["effective_bits"] + 1e-9
        sizes.append(quantized)
        for group in found["groups"]:
            assert set(group) <= set(solution["ops"]) or not set(group) & set(solution["ops"])
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


@needs_modelopt
@pytest.mark.slow
def test_kl_div_quantizes_whatever_is_below_a_threshold(tmp_path: Path) -> None:
    """Its search as published: the fewest of the least sensitive groups that meet the constraint."""
    found, weights = solved("kl_div", tmp_path)
    groups = {tuple(group): sum(found["scores"][op] for op in group) for group in found["groups"]}
    assert min(groups.values()) > 0
    whole = sum(weights.values())
    for solution in found["solutions"]:
        taken: set[str] = set()
        for group in sorted(groups, key=groups.__getitem__):
            if 16 - 8 * sum(weights[op] for op in taken) / whole <= solution["effective_bits"]:
                break
            taken |= set(group)
        assert set(solution["ops"]) == taken
