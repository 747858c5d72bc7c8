r"""``hawq_v2``: average Hessian trace times squared weight perturbation.

With the loss :math:`L` (mean negative log-likelihood of the target tokens, or the user's),
:math:`H_i` its Hessian with respect to op *i*'s weight :math:`W_i` of :math:`n_i` elements, and
:math:`Q` the format's weight quantizer, the score is

.. math:: \Omega_i = \frac{\mathrm{Tr}(H_i)}{n_i} \, \|Q(W_i) - W_i\|_2^2

(Dong et al., *HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks*, NeurIPS 2020,
equation 7). The trace is Hutchinson's estimate, the mean of :math:`v^\top H_i v` over probes *v* with
elements ±1; :math:`Hv` is exact (double backward). Half of :math:`\Omega_i` estimates the rise of the
loss from quantizing the op's weight; activations are not part of it. Higher is more sensitive; the
Hessian of a network is not positive definite, so an estimate can be below zero and is shown as it is.

INC's ``HAWQ_V2`` (``neural_compressor/adaptor/torch_utils/hawq_metric.py``, up to 3.7) differs: it
replaces the user's loss by ``CrossEntropyLoss``, computes :math:`\|Q(W) - W\|^2` and discards it,
starts the accumulator of :math:`Hv` from N(0, 1) noise, and its stop rule has a signed denominator,
so that it usually ends after two or three probes. This implements the paper.

Memory: the graph of a group of blocks' replay and three copies of that group's weights; groups are
cut to fit. Time: per batch and group one replay, one backward and, per probe, one double backward.
Attention runs in its plain form, as fused kernels have no second derivative.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.quantizer import fake_quantize_weight
from quantspectrum.sensitivity.capture import Capture
from quantspectrum.sensitivity.metric import (
    NOT_FINITE,
    PassContext,
    PerSample,
    Summary,
    mean_and_stderr,
)
from quantspectrum.sensitivity.outputs import Rows

__all__ = ["NAME", "absent", "collect", "hessian_traces", "score"]

NAME = "hawq_v2"

GROUP_PARAMETERS = 2**28
"""Most weight elements whose Hessian is probed at a time."""


def collect(context: PassContext, batch: Batch, index: int) -> dict[str, dict[str, list[float]]]:
    """``trace`` of each op, one estimate a probe, with ``params`` and ``weight_error``."""
    with sdpa_kernel(SDPBackend.MATH):
        capture = context.engine.capture(batch)
        context.engine.check(capture)
        found: dict[str, dict[str, list[float]]] = {}
        for number, group in enumerate(_groups(context, capture)):
            seed = (context.seed * 1_000_003 + index) * 10_007 + number
            for op, traces in hessian_traces(context, batch, capture, group, seed).items():
                weight = context.model.get_parameter(f"{op}.weight").detach()
                plan = context.plans[op].for_weight(weight)
                moved = fake_quantize_weight(weight, plan.format.weight, plan.scale_dtype) - weight
                found[op] = {
                    "trace": traces,
                    "params": [float(weight.numel())],
                    "weight_error": [float(moved.float().square().sum())],
                }
        capture.close()
    return found


def absent(samples: int) -> dict[str, list[float]]:
    """Nothing: traces are those of the loss on the batches that run the op."""
    del samples
    return {}


def score(op: PerSample) -> Summary:
    """Average trace times squared perturbation; ``n`` and error are over probes and batches."""
    factor = op["weight_error"][0] / op["params"][0]
    known = [trace for trace in op["trace"] if math.isfinite(trace)]
    lost = len(op["trace"]) - len(known)
    values = (*(trace * factor for trace in known), *[NOT_FINITE] * lost)
    mean, stderr = mean_and_stderr(values)
    raw = {"weight_error": op["weight_error"][0], "probes": float(len(values))}
    if lost:
        raw["probes_not_finite"] = float(lost)
    else:
        trace, trace_stderr = mean_and_stderr(known)
        raw |= {"trace": trace, "average_trace": trace / op["params"][0]}
        if trace_stderr is not None:
            raw["trace_stderr"] = trace_stderr
    return Summary(score=mean, stderr=stderr, values=values, raw=raw)


def _groups(context: PassContext, capture: Capture) -> list[list[str]]:
    """Ops in the order they run, cut where a block begins and a group is large enough."""
    groups: list[list[str]] = []
    size = 0
    stack: str | None = None
    block: str | None = None
    for op in capture.before:
        if op not in context.plans:
            continue
        its_block, its_stack = context.engine.block_of(op), _stack(context, op)
        params = context.model.get_parameter(f"{op}.weight").numel()
        full = its_block != block and size + params > GROUP_PARAMETERS
        if not groups or its_stack != stack or full:
            groups.append([])
            size = 0
        groups[-1].append(op)
        size += params
        block, stack = its_block, its_stack
    return groups


def _stack(context: PassContext, op: str) -> str | None:
    block = context.engine.block_of(op)
    return block.rpartition(".")[0] if block is not None else None


def hessian_traces(
    context: PassContext, batch: Batch, capture: Capture, ops: Sequence[str], seed: int
) -> dict[str, list[float]]:
    """Estimates ``v^T H v`` of each op's weight Hessian, one a probe; ``ops`` in running order.

    Raises:
        UserError: A weight is not at hand (offloaded), or the loss does not depend on anything.
    """
    weights = [context.model.get_parameter(f"{op}.weight") for op in ops]
    if any(weight.is_meta for weight in weights):
        raise UserError("hawq_v2 needs the weights in memory; load without --device-map")
    generator = torch.Generator(weights[0].device).manual_seed(seed)
    with _differentiable(weights), torch.enable_grad():
        values = context.engine.run_from(capture, ops[0])
        loss = _loss(context, batch, capture, values)
        if not bool(loss.isfinite()):
            raise UserError(
                f"the loss of the batch of sample {batch.sample_ids[0]} is not finite; check the "
                "checkpoint for NaN, or load it in another --dtype"
            )
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        traces: dict[str, list[float]] = {op: [] for op in ops}
        for _ in range(context.probes):
            probes = [_signs(weight, generator) for weight in weights]
            along = sum(
                torch.sum(g * v, dtype=torch.float32)
                for g, v in zip(gradients, probes, strict=True)
            )
            assert isinstance(along, Tensor)
            products = torch.autograd.grad(along, weights, retain_graph=True)
            sums = [
                torch.sum(v * hv, dtype=torch.float32)
                for v, hv in zip(probes, products, strict=True)
            ]
            for op, value in zip(ops, torch.stack(sums).tolist(), strict=True):
                traces[op].append(value)
    return traces


def _loss(context: PassContext, batch: Batch, capture: Capture, values: Tensor) -> Tensor:
    head = context.engine.head
    if context.loss is not None:
        logits = values if head is None else head.module(values)
        return context.loss(logits, batch)
    rows = Rows.of(batch, capture.inputs, values.detach(), context.layout)
    counted = (rows.label >= 0).nonzero().squeeze(-1)
    if len(counted) == 0:
        raise UserError("hawq_v2 needs target tokens to take a loss on, and this data has none")
    picked = rows.pick(values).index_select(0, counted)
    logits = picked if head is None else head.module(picked)
    return functional.cross_entropy(logits.float(), rows.label[counted])


@contextmanager
def _differentiable(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight, flag in zip(weights, before, strict=True):
            weight.requires_grad_(flag)


def _signs(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A Rademacher probe: +1 or -1 with equal probability."""
    bits = torch.randint(
        0, 2, weight.shape, generator=generator, device=weight.device, dtype=torch.int8
    )
    return (2 * bits - 1).to(weight.dtype)
