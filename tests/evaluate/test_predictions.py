"""Divergences and what is kept on disk, against whole distributions written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import models_tiny
from quantspectrum.data.encode import encode_for
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.loss import measure_loss
from quantspectrum.evaluate.predictions import (
    bounded_divergence,
    compare_predictions,
    exact_divergence,
    read_predictions,
    write_predictions,
)

SAMPLES = [
    Sample(id=f"s{number}", text="a b c d e f g h i"[: 5 + 2 * number]) for number in range(4)
]


def logits(seed: int, rows: int = 7, vocabulary: int = 300) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def divergence(before: Tensor, after: Tensor) -> Tensor:
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def test_the_exact_divergence_is_torchs() -> None:
    before, after = logits(0), logits(1)
    found = exact_divergence(before, after).double()
    expected = torch.nn.functional.kl_div(
        after.double().log_softmax(-1),
        before.double().log_softmax(-1),
        log_target=True,
        reduction="none",
    ).sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_tiny_divergences_keep_their_digits_and_equal_ones_are_zero() -> None:
    before = logits(0)
    after = before.double() + 1e-5 * logits(2).double()
    found = exact_divergence(before, after.float()).double()
    torch.testing.assert_close(found, divergence(before, after.float()), rtol=1e-2, atol=0)
    assert found.max() < 1e-7
    assert exact_divergence(before, before).tolist() == [0.0] * 7


def test_what_the_baseline_rules_out_has_no_weight() -> None:
    before, after = logits(0), logits(1)
    before[:, :5] = -torch.inf
    after[:, :3] = -torch.inf
    found = exact_divergence(before, after)
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    expected = torch.where(p == -torch.inf, 0.0, p.exp() * (p - q)).nansum(-1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    after[:, 9] = -torch.inf
    assert not exact_divergence(before, after).isfinite().any()


@pytest.mark.parametrize("k", [1, 8, 299])
def test_the_bound_is_below_the_exact_divergence_and_close_with_many_tokens(k: int) -> None:
    before, after = logits(0), logits(1)
    top = before.log_softmax(-1).topk(k, -1)
    found = bounded_divergence(top.indices, top.values, after.log_softmax(-1)).double()
    exact = divergence(before, after)
    assert bool((found <= exact * (1 + 1e-5) + 1e-6).all())
    if k == 299:
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


def measured(model: Any, **more: Any) -> Any:
    loaded = models_tiny.loaded(model)
    return measure_loss(loaded, encode_for(loaded, SAMPLES, batch_size=2), **more)


def test_a_model_measured_against_another_is_what_the_files_of_both_say(tmp_path: Path) -> None:
    before = measured(models_tiny.causal_lm("llama"), keep_bytes=2**30).predictions
    write_predictions(tmp_path / "before.safetensors", before)
    before = read_predictions(tmp_path / "before.safetensors")
    assert before.logits is not None
    live = measured(models_tiny.causal_lm("llama", seed=1), baseline=before, keep_bytes=2**30)
    assert live.compared.exact
    write_predictions(tmp_path / "after.safetensors", live.predictions)
    again = compare_predictions(before, read_predictions(tmp_path / "after.safetensors"))
    assert live.predictions.logits is not None
    assert again.exact
    torch.testing.assert_close(again.kl, live.compared.kl)
    assert torch.equal(again.same, live.compared.same)
    assert torch.equal(again.after, live.compared.after)
    expected = divergence(before.logits, live.predictions.logits)
    torch.testing.assert_close(live.compared.kl.double(), expected, rtol=1e-4, atol=1e-9)


def test_without_whole_distributions_divergences_are_bounds_and_say_so() -> None:
    whole = measured(models_tiny.causal_lm("llama"), keep_bytes=2**30).predictions
    short = measured(models_tiny.causal_lm("llama"), keep_bytes=100).predictions
    assert short.logits is None
    other = models_tiny.causal_lm("llama", seed=1)
    exact = measured(other, baseline=whole).compared
    bound = measured(other, baseline=short)
    assert (exact.exact, bound.compared.exact) == (True, False)
    assert bool((bound.compared.kl <= exact.kl + 1e-6).all())
    from_disk = compare_predictions(short, bound.predictions)
    assert not from_disk.exact
    assert bool((from_disk.kl <= bound.compared.kl + 1e-6).all())
    assert bool((from_disk.kl >= 0).all())
    assert torch.equal(from_disk.same, bound.compared.same)


def test_predictions_of_other_tokens_are_refused() -> None:
    ours = measured(models_tiny.causal_lm("llama")).predictions
    loaded = models_tiny.loaded(models_tiny.causal_lm("llama"))
    swapped = [Sample(id=s.id, text=s.text[::-1]) for s in SAMPLES]
    with pytest.raises(UserError, match="different samples or tokens"):
        measure_loss(loaded, encode_for(loaded, swapped, batch_size=2), baseline=ours)
    fewer = encode_for(loaded, SAMPLES[:2], batch_size=2)
    with pytest.raises(UserError, match="different samples or tokens"):
        measure_loss(loaded, fewer, baseline=ours)
    more = [*SAMPLES, Sample(id="new", text="what is new")]
    with pytest.raises(UserError, match="lack sample new"):
        measure_loss(loaded, encode_for(loaded, more, batch_size=8), baseline=ours)


def test_files_that_hold_no_predictions_are_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "p.safetensors"
    with pytest.raises(UserError, match="cannot read"):
        read_predictions(path)
    save_file({"s0/tokens": torch.zeros(2, 3)}, path)
    with pytest.raises(UserError, match="no predictions of this release; evaluate the baseline"):
        read_predictions(path)
    write_predictions(path, measured(models_tiny.causal_lm("llama")).predictions)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="cannot read"):
        read_predictions(path)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, file_size_limit: Any) -> None:
    kept = measured(models_tiny.causal_lm("llama"), keep_bytes=2**30).predictions
    with file_size_limit(4096), pytest.raises(UserError, match="cannot write"):
        write_predictions(tmp_path / "p.safetensors", kept)
    assert list(tmp_path.iterdir()) == []
