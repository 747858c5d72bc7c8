"""What is read of an output, and how two outputs differ, against explicit float64 logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import models_tiny
from quantspectrum.sensitivity import kl, nll, outputs
from quantspectrum.sensitivity.outputs import Difference, Head, Reference, Rows
from scans import reference_of

BATCH, TOKENS, HIDDEN, WORDS = 3, 5, 24, 211
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()
# The scale of the perturbation: from far below what rounding to float16 would keep, to one that
# turns predictions around.
SCALES = (1e-5, 1e-3, 0.1, 2.0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head_of(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> Head:
    module = nn.Linear(HIDDEN, WORDS, bias=bias, dtype=dtype)
    with torch.no_grad():
        module.weight.copy_(random(WORDS, HIDDEN, seed=1) * 0.4)
        if bias:
            module.bias.copy_(random(WORDS, seed=2))
    return Head(module.requires_grad_(False))


def explicit(head: Head, hidden: Tensor) -> Tensor:
    """Logits in float64."""
    bias = None if head.module.bias is None else head.module.bias.double()
    return functional.linear(hidden.double(), head.module.weight.double(), bias)


def float64_kl(reference: Tensor, perturbed: Tensor) -> Tensor:
    log_p, log_q = (torch.log_softmax(x.double(), -1) for x in (reference, perturbed))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@pytest.fixture(params=["head", "logits"])
def read_head(request: pytest.FixtureRequest) -> bool:
    """Whether the head's input is read, or logits."""
    return bool(request.param == "head")


class Pair:
    """A reference and a perturbed output, in either of the two modes, and their logits."""

    def __init__(
        self, read_head: bool, scale: float, *, label: Tensor | None = None, shift: float = 0.0
    ) -> None:
        head = head_of()
        hidden = random(BATCH, TOKENS, HIDDEN)
        moved = hidden + scale * random(BATCH, TOKENS, HIDDEN, seed=3)
        self.logits, self.perturbed = explicit(head, hidden), explicit(head, moved) + shift
        if read_head:
            reference = reference_of(hidden, MASK, head=head, label=label)
            self.difference = Difference(reference, moved)
        else:
            reference = reference_of(self.logits.float(), MASK, label=label)
            # The difference of two float32 logits has no more digits than they have.
            self.difference = Difference(reference, self.perturbed.float())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squared_norms_are_those_of_explicit_logits(bias: bool, dtype: torch.dtype) -> None:
    head = head_of(bias=bias, dtype=dtype)
    x = random(7, HIDDEN).to(dtype)
    expected = explicit(head, x).square().sum(-1)
    assert head.squared_norm(x, bias=True).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    without = functional.linear(x.double(), head.module.weight.double()).square().sum(-1)
    assert head.squared_norm(x, bias=False).tolist() == pytest.approx(without.tolist(), rel=1e-5)
    assert torch.equal(expected, without) is not bias


def test_a_squared_norm_is_never_below_zero() -> None:
    module = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1e4, -1e4], [1.0, -1.0], [1e-3, 0]]))
    x = random(1000, 1).repeat(1, 2) * (1 + 1e-7 * random(1000, 2))
    assert (Head(module).squared_norm(x, bias=False) >= 0).all()


def test_logits_are_float32_whatever_the_model_is() -> None:
    head = head_of(dtype=torch.bfloat16)
    x = random(7, HIDDEN).bfloat16()
    found = head.logits(x)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), explicit(head, x), rtol=1e-5, atol=1e-5)


def test_what_is_no_plain_linear_head_is_none() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(2, 3), "conv": nn.Conv1d(2, 3, 1)})
    model["meta"] = nn.Linear(2, 3, device="meta")
    assert Head.of(model, None) is None
    assert Head.of(model, "conv") is None
    assert Head.of(model, "meta") is None
    found = Head.of(model, "linear")
    assert found is not None
    assert found.module is model["linear"]


@pytest.mark.parametrize("scale", SCALES)
def test_squared_errors_are_those_of_the_logits(read_head: bool, scale: float) -> None:
    pair = Pair(read_head, scale)
    expected = (pair.perturbed - pair.logits)[MASK].square().sum(-1)
    found = pair.difference.squared_error()
    digits = 1e-4 if read_head else max(1e-4, 1e-6 / scale)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=digits)


def test_the_reference_s_squared_norm_is_that_of_the_logits(read_head: bool) -> None:
    pair = Pair(read_head, 0.1)
    expected = pair.logits[MASK].square().sum(-1)
    found = pair.difference.reference.squared_norm()
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_the_divergence_is_that_of_explicit_distributions(read_head: bool, scale: float) -> None:
    pair = Pair(read_head, scale)
    found, _ = pair.difference.divergence
    expected = float64_kl(pair.logits, pair.perturbed)[MASK]
    # Probabilities are kept in float16 logarithms; float32 logits end the digits of small changes.
    digits = 4e-3 if read_head else max(4e-3, 1e-6 / scale)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=digits)
    assert (found >= 0).all()


@pytest.mark.parametrize("shift", [1.0, -30.0, 1000.0])
def test_what_all_logits_have_in_common_does_not_count(shift: float) -> None:
    """Softmax does not see it, so neither the divergence nor the loss changes."""
    label = torch.randint(0, WORDS, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    plain = Pair(False, 0.1, label=label)
    shifted = Pair(False, 0.1, label=label, shift=shift)
    for one, other in zip(plain.difference.divergence, shifted.difference.divergence, strict=True):
        assert other.tolist() == pytest.approx(one.tolist(), rel=1e-3, abs=1e-6 * abs(shift))


def test_a_bias_of_all_words_that_the_head_s_input_switches_does_not_count() -> None:
    """The same where the head's input is read: its last feature moves every logit alike."""
    module = nn.Linear(HIDDEN + 1, WORDS)
    with torch.no_grad():
        module.weight[:, :HIDDEN] = random(WORDS, HIDDEN, seed=1) * 0.4
        module.weight[:, HIDDEN] = 1.0
    head = Head(module.requires_grad_(False))
    hidden = random(BATCH, TOKENS, HIDDEN + 1)
    shifted = hidden.clone()
    shifted[..., HIDDEN] += 50.0
    found, gained = Difference(reference_of(hidden, MASK, head=head), shifted).divergence
    assert found.abs().max() < 1e-6
    assert gained.abs().max() < 1e-3


@pytest.mark.parametrize("scale", SCALES)
def test_the_change_of_the_loss_is_that_of_explicit_losses(read_head: bool, scale: float) -> None:
    label = torch.randint(0, WORDS, (BATCH, TOKENS), generator=torch.Generator().manual_seed(5))
    pair = Pair(read_head, scale, label=label)
    losses = [
        functional.cross_entropy(x.flatten(0, 1), label.flatten(), reduction="none").reshape(
            BATCH, TOKENS
        )
        for x in (pair.logits, pair.perturbed)
    ]
    change = (losses[1] - losses[0])[MASK]
    _, gained = pair.difference.divergence
    digits = 2e-4 * scale + (0 if read_head else 1e-6)
    assert (-gained).tolist() == pytest.approx(change.tolist(), rel=1e-3, abs=digits)
    per_sample = nll.measure(pair.difference)["nll_change"]
    expected = ((losses[1] - losses[0]) * MASK).sum(1)
    assert per_sample.tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=5 * digits)


def test_only_positions_with_a_label_count_towards_the_loss(read_head: bool) -> None:
    label = torch.full((BATCH, TOKENS), -1)
    label[0, 1], label[2, 0] = 7, 11
    pair = Pair(read_head, 0.1, label=label)
    expected = [0.0, 0.0, 0.0]
    for row, token in ((0, 1), (2, 0)):
        before, after = (
            torch.log_softmax(x[row, token], -1)[label[row, token]]
            for x in (pair.logits, pair.perturbed)
        )
        expected[row] = float(before - after)
    found = nll.measure(pair.difference)["nll_change"]
    assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert nll.reference_values(pair.difference.reference)["targets"].tolist() == [1, 0, 1]


def test_image_positions_are_counted_apart() -> None:
    image = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    image[0, :3] = image[1, 1] = True
    head, hidden = head_of(), random(BATCH, TOKENS, HIDDEN)
    moved = hidden + 0.1 * random(BATCH, TOKENS, HIDDEN, seed=3)
    reference = reference_of(hidden, MASK, head=head, image=image)
    expected = float64_kl(explicit(head, hidden), explicit(head, moved)) * MASK
    found = kl.measure(Difference(reference, moved))
    text, pictures = ((expected * keep).sum(1).tolist() for keep in (~image, image))
    assert found["kl"].tolist() == pytest.approx(text, rel=4e-3)
    assert found["image_kl"].tolist() == pytest.approx(pictures, rel=4e-3)
    counted = kl.reference_values(reference)
    assert counted["text_tokens"].tolist() == [2, 2, 4]
    assert counted["image_tokens"].tolist() == [3, 1, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["reference", "perturbed", "both"])
def test_padding_may_hold_anything(read_head: bool, where: str, value: float) -> None:
    head = head_of() if read_head else None
    width = HIDDEN if read_head else WORDS
    clean = [random(BATCH, TOKENS, width), random(BATCH, TOKENS, width, seed=3)]
    dirty = [x.clone() for x in clean]
    for x, name in zip(dirty, ("reference", "perturbed"), strict=True):
        if where in (name, "both"):
            x[~MASK] = value
    found = [
        metric.measure(Difference(reference_of(one, MASK, head=head), other))
        for one, other in (clean, dirty)
        for metric in (kl, nll)
    ]
    for expected, given in zip(found[:2], found[2:], strict=True):
        for key in expected:
            assert torch.equal(expected[key], given[key])
            assert given[key].isfinite().all()


def test_work_in_chunks_is_the_same(read_head: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    label = torch.randint(0, WORDS, (BATCH, TOKENS), generator=torch.Generator().manual_seed(5))
    whole = Pair(read_head, 0.1, label=label).difference
    expected = whole.divergence
    assert len(list(whole.reference.chunks())) == 1
    monkeypatch.setattr(outputs, "CHUNK_BYTES", 4 * WORDS * 5)
    cut = Pair(read_head, 0.1, label=label).difference
    assert [s.stop - s.start for s in cut.reference.chunks()] == [5, 5, 5]
    for one, other in zip(expected, cut.divergence, strict=True):
        assert other.tolist() == pytest.approx(one.tolist(), rel=1e-5, abs=1e-7)


def test_a_sum_per_sample_leaves_padding_out_and_keeps_float64() -> None:
    rows = reference_of(random(BATCH, TOKENS, 1), MASK).rows
    values = torch.tensor([1e8, 1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    assert rows.per_sample(values).tolist() == [1e8 + 4, 9.0, 26.0]


def test_rows_know_labels_and_pictures_of_a_batch() -> None:
    batch = models_tiny.image_batch((3, 1))
    layout = models_tiny.loaded(models_tiny.qwen2_5_vl()).layout
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    rows = Rows.of(batch, batch.inputs, torch.zeros(*ids.shape, 4), layout)
    assert torch.equal(rows.image, (ids == models_tiny.IMAGE)[mask])
    label = torch.full_like(ids, -1)
    label[:, :-1] = torch.where(batch.target[:, 1:], ids[:, 1:], -1)
    assert torch.equal(rows.label, label[mask])
    assert int((rows.label >= 0).sum()) == int(batch.target.sum())


def test_one_output_a_sample_is_a_row_a_sample() -> None:
    batch = models_tiny.pixel_batch(3)
    layout = models_tiny.loaded(models_tiny.family("vit")).layout
    rows = Rows.of(batch, batch.inputs, torch.zeros(3, 5), layout)
    assert rows.shape == (3, 1)
    assert rows.per_sample(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1, 2, 3]
    assert rows.pick(torch.arange(15.0).reshape(3, 5)).shape == (3, 5)


def test_the_reference_is_not_computed_twice() -> None:
    head, hidden = head_of(), random(BATCH, TOKENS, HIDDEN)
    reference: Reference = reference_of(hidden, MASK, head=head)
    first = reference.log_p
    assert reference.log_p is first
    assert reference.mean_embedding is reference.mean_embedding
