"""Hessian traces against exact Hessians of a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import models_tiny
from quantspectrum.artifacts import SensitivityReport
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.quantizer import fake_quantize_weight
from quantspectrum.sensitivity import hawq_v2
from scans import MIXED, score, score_all

# Those whose trace stands out from the noise that the other ops' probes make.
OPS = (
    "model.layers.0.self_attn.v_proj",
    "model.layers.0.self_attn.o_proj",
    "model.layers.1.self_attn.v_proj",
    "model.layers.1.self_attn.o_proj",
)
BATCH = [models_tiny.text_batch((5, 8), name="small")]
PROBES = 300

Loss = Callable[[Tensor, Batch], Tensor]


@pytest.fixture(scope="module")
def small() -> nn.Module:
    """A decoder whose Hessians can be written out: 64 weights an op or 96."""
    return models_tiny.causal_lm(
        hidden_size=8,
        intermediate_size=12,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        initializer_range=0.2,
    )


def mean_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of the target tokens."""
    label = batch.inputs["input_ids"][:, 1:][batch.target[:, 1:]]
    return functional.cross_entropy(logits[:, :-1][batch.target[:, 1:]], label)


def curved_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Anything else: it counts the first sample alone."""
    return logits[0].square().mean() + logits[0, 0, :5].exp().sum()


def exact_trace(model: nn.Module, op: str, batch: Batch, loss: Loss) -> float:
    name = f"{op}.weight"
    weight = model.get_parameter(name).detach().clone()

    def of(value: Tensor) -> Tensor:
        found = functional_call(model, {name: value.reshape(weight.shape)}, (), batch.inputs)
        return loss(found.logits, batch)

    with sdpa_kernel(SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(of, weight.flatten())
    assert isinstance(hessian, Tensor)
    return float(hessian.trace())


def scored(model: nn.Module, fmt: str = "w8a8", **more: Any) -> SensitivityReport:
    asked: dict[str, Any] = {"metrics": ("hawq_v2",), "selection": BATCH, "probes": PROBES}
    return score(model, fmt, **asked | more)


@pytest.fixture(scope="module")
def exact(small: nn.Module) -> dict[str, float]:
    return {op: exact_trace(small, op, BATCH[0], mean_loss) for op in OPS}


def assert_estimates(report: SensitivityReport, exact: dict[str, float]) -> None:
    found = {op.name: op for op in report.ops}
    assert len(found) == 14
    for op in map(found.__getitem__, exact):
        error = op.raw["trace_stderr"]
        assert abs(op.raw["trace"] - exact[op.name]) < 3 * error, op.name
        # Otherwise nothing would have been shown.
        assert error < 0.5 * abs(exact[op.name]), op.name


def test_traces_are_those_of_the_exact_hessian(small: nn.Module, exact: dict[str, float]) -> None:
    report = scored(small)
    assert_estimates(report, exact)
    traces = [abs(exact[op]) for op in OPS]
    assert max(traces) > 2 * min(traces), "one trace for all would pass"


@pytest.mark.parametrize("fmt", ["w8a8", "w4a16", "fp8"])
def test_the_score_is_the_average_trace_times_the_weight_s_error(
    small: nn.Module, fmt: str
) -> None:
    report = scored(small, fmt, probes=3)
    scheme = preset(fmt).weight
    for op in report.ops:
        weight = small.get_parameter(f"{op.name}.weight").detach()
        error = float((fake_quantize_weight(weight, scheme) - weight).double().square().sum())
        assert op.raw["weight_error"] == pytest.approx(error, rel=1e-5)
        assert op.raw["average_trace"] == pytest.approx(op.raw["trace"] / weight.numel())
        assert op.score == pytest.approx(op.raw["average_trace"] * error, rel=1e-5)
        stderr = op.raw["trace_stderr"] / weight.numel() * error
        assert op.stderr == pytest.approx(stderr, rel=1e-5)


def test_half_the_score_is_about_what_random_errors_do_to_the_loss(small: nn.Module) -> None:
    """The model behind the formula: an error of that size in a random direction."""
    report = scored(small)
    (op,) = [op for op in report.ops if op.name == OPS[0]]
    weight = small.get_parameter(f"{op.name}.weight")
    kept = weight.detach().clone()
    step = (op.raw["weight_error"] / weight.numel()) ** 0.5 * 20
    generator = torch.Generator().manual_seed(0)

    def loss() -> float:
        with torch.no_grad():
            return float(mean_loss(small(**BATCH[0].inputs).logits.double(), BATCH[0]))

    before, rises = loss(), []
    for _ in range(100):
        move = step * torch.randn(weight.shape, generator=generator)
        for sign in (1, -1):  # Both, so that the first order goes.
            with torch.no_grad():
                weight.copy_(kept + sign * move)
            rises.append(loss() - before)
    with torch.no_grad():
        weight.copy_(kept)
    assert sum(rises) / len(rises) / 20**2 == pytest.approx(op.score / 2, rel=0.25)


def test_the_loss_that_was_given_is_used(small: nn.Module, exact: dict[str, float]) -> None:
    expected = {op: exact_trace(small, op, BATCH[0], curved_loss) for op in OPS}
    assert_estimates(scored(small, loss=curved_loss), expected)
    assert all(abs(expected[op] - exact[op]) > 0.2 * abs(exact[op]) for op in OPS)


def test_the_loss_it_takes_by_itself_is_that_of_the_target_tokens(small: nn.Module) -> None:
    own = scored(small, probes=4)
    given = scored(small, probes=4, loss=mean_loss)
    for one, other in zip(own.ops, given.ops, strict=True):
        assert other.name == one.name
        assert other.raw["trace"] == pytest.approx(one.raw["trace"], rel=1e-3)


def test_turned_probes_give_the_same_traces(
    small: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scored(small, probes=4)
    signs = hawq_v2._signs
    monkeypatch.setattr(hawq_v2, "_signs", lambda *args: -signs(*args))
    assert scored(small, probes=4).ops == expected.ops


def test_probes_are_signs_in_equal_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    found = hawq_v2._signs(torch.empty(200, 200, dtype=torch.bfloat16), generator)
    assert found.dtype == torch.bfloat16
    assert set(found.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(found.float().mean())) < 4 / 200


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ops probed together, from now on."""
    found: list[list[str]] = []
    own = hawq_v2.hessian_traces

    def noting(context, batch, capture, ops: Sequence[str], seed):  # type: ignore[no-untyped-def]
        found.append(list(ops))
        return own(context, batch, capture, ops, seed)

    monkeypatch.setattr(hawq_v2, "hessian_traces", noting)
    return found


def test_in_groups_the_expectation_is_the_same(
    small: nn.Module,
    exact: dict[str, float],
    groups: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hawq_v2, "GROUP_PARAMETERS", 1)
    report = scored(small)
    assert [len(group) for group in groups] == [7, 7]
    assert all(op.startswith(f"model.layers.{i}.") for i, g in enumerate(groups) for op in g)
    assert_estimates(report, exact)


def test_groups_end_where_a_stack_does(vl: nn.Module, groups: list[list[str]]) -> None:
    score(vl, metrics=("hawq_v2",), selection=MIXED[1:], probes=1)
    assert [".visual.blocks." in group[0] for group in groups] == [True, False, False]
    assert [len(group) for group in groups] == [10, 2, 14]


def test_values_are_one_a_probe_and_batch(small: nn.Module) -> None:
    batches = [*BATCH, models_tiny.text_batch((6,), seed=3, name="other")]
    report = scored(small, probes=5, selection=batches)
    assert {op.n for op in report.ops} == {10}
    assert {op.raw["probes"] for op in report.ops} == {10.0}
    alone = [scored(small, probes=5, selection=[batch]) for batch in batches]
    first, second = ({op.name: op.raw["trace"] for op in made.ops} for made in alone)
    for op in report.ops:
        # The second batch's draws are its own, and not those it would have as the first.
        assert op.raw["trace"] != pytest.approx((first[op.name] + second[op.name]) / 2, rel=1e-9)
    exact = [sum(exact_trace(small, op, batch, mean_loss) for batch in batches) / 2 for op in OPS]
    many = scored(small, selection=batches)
    assert_estimates(many, dict(zip(OPS, exact, strict=True)))


def test_the_same_seed_gives_the_same_traces(small: nn.Module) -> None:
    assert scored(small, probes=2).ops == scored(small, probes=2).ops
    assert scored(small, probes=2, seed=8).ops != scored(small, probes=2).ops


def test_ops_that_run_nothing_have_no_trace(vl: nn.Module) -> None:
    text = score(vl, metrics=("hawq_v2",), selection=MIXED[:1], probes=1)
    assert {op.component for op in text.ops} == {"language"}
    assert not text.complete
    mixed = score(vl, metrics=("hawq_v2",), selection=MIXED, probes=2)
    assert mixed.complete
    counts = {op.component: op.n for op in mixed.ops}
    assert counts == {"vision": 2, "merger": 2, "language": 4}


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(llama: nn.Module, fails: bool) -> None:
    trainable = "model.layers.0.mlp.up_proj.weight"
    llama.get_parameter(trainable).requires_grad_(True)
    before, places = models_tiny.logits(llama, BATCH[0]), models_tiny.weights(llama)

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        if fails:
            raise ZeroDivisionError
        return mean_loss(logits, batch)

    more: dict[str, Any] = {"metrics": ("hawq_v2",), "selection": BATCH, "probes": 1}
    if fails:
        with pytest.raises(ZeroDivisionError):
            score(llama, loss=loss, **more)
    else:
        score(llama, loss=loss, **more)
    assert models_tiny.forwards(llama) == {}
    assert models_tiny.hooks(llama) == 0
    for name, parameter in llama.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == (name == trainable)
        assert torch.equal(parameter, places[name][1])
    assert torch.equal(models_tiny.logits(llama, BATCH[0]), before)


def test_without_target_tokens_there_is_no_loss(llama: nn.Module) -> None:
    batch = BATCH[0]
    bare = Batch(
        inputs=batch.inputs,
        target=torch.zeros_like(batch.target),
        sample_ids=batch.sample_ids,
        kinds=batch.kinds,
    )
    with pytest.raises(UserError, match="needs target tokens"):
        score(llama, metrics=("hawq_v2",), selection=[bare], probes=1)


def test_traces_serve_every_format(llama: nn.Module) -> None:
    """The Hessian is the unquantized model's, whatever the format is."""
    reports = score_all(llama, ("w8a8", "w4a16"), metrics=("hawq_v2",), probes=1)
    one, other = ({op.name: op.raw["trace"] for op in report.ops} for report in reports)
    assert one == other
