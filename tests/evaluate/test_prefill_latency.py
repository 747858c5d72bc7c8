"""Times of decoding: what does not fit into memory."""

from __future__ import annotations

import pytest

import models_tiny
from quantspectrum.errors import UserError
from quantspectrum.evaluate.latency import LatencyPlan, measure_latency


def test_prompts_that_do_not_fit_are_told() -> None:
    loaded = models_tiny.loaded(models_tiny.causal_lm())
    told = (
        r"^1000000000 prompts of 1000000000 tokens do not fit into memory; give smaller --latency"
    )
    with pytest.raises(UserError, match=told):
        measure_latency(loaded, LatencyPlan(), 10**9, 10**9)
