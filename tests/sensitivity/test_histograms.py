"""Octave counts of weights and inputs."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quantspectrum.artifacts import LOWEST, OCTAVES
from quantspectrum.data.encode import Batch
from quantspectrum.sensitivity.histograms import OctaveCounter, op_histograms


def test_known_counts() -> None:
    counter = OctaveCounter()
    counter.observe(torch.tensor([0.0, 1.0, -1.5, 2.0, 0.25, float("nan"), float("inf")]))
    found = counter.histogram()
    assert found is not None
    placed = {LOWEST + i: n for i, n in enumerate(found.counts) if n}
    assert placed == {-2: 1, 0: 2, 1: 1}
    assert (found.zeros, found.negative, found.low, found.high) == (1, 1, -1.5, 2.0)


def test_the_ends_take_in_what_lies_beyond() -> None:
    counter = OctaveCounter()
    counter.observe(torch.tensor([1e-30, 1e30]))
    found = counter.histogram()
    assert found is not None
    assert (found.counts[0], found.counts[-1], len(found.counts)) == (1, 1, OCTAVES)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), st.integers(0, 50))
def test_batches_change_nothing(values: list[float], cut: int) -> None:
    whole, parts = OctaveCounter(), OctaveCounter()
    whole.observe(torch.tensor(values))
    for part in (values[:cut], values[cut:]):
        parts.observe(torch.tensor(part))
    assert whole.histogram() == parts.histogram()


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reached, self.never = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.reached(x) * attention_mask[..., None]


def test_padding_and_what_is_never_reached_do_not_count() -> None:
    model = _Model()
    batch = Batch(
        inputs={"x": torch.ones(1, 3, 2), "attention_mask": torch.tensor([[1, 1, 0]])},
        target=torch.zeros(1, 3, dtype=torch.bool),
        sample_ids=("a",),
        kinds=("text",),
    )
    found = op_histograms(model, ["reached", "never"], [batch], torch.device("cpu"))
    assert found["reached"].inputs is not None
    assert sum(found["reached"].inputs.counts) == 4
    assert found["never"].inputs is None
    assert found["never"].weight is not None
    assert not model.reached._forward_pre_hooks
