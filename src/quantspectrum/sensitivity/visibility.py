r"""``visibility``: how much of an op's quantization error the loss can see, all ops at once.

Let :math:`e_t` be what quantizing the op (weights and activations together) adds to its output at
token *t* (:func:`quantspectrum.simulation.op_error`), and :math:`g_t` the gradient of the loss with
respect to that output. To first order the error moves the loss by :math:`g_t \cdot e_t`. With labels
drawn from the model's own predictions, the expectation of the square is the Fisher quadratic form,
and half of it the KL divergence to second order (Martens, *New Insights and Perspectives on the
Natural Gradient Method*, 2020, section 8). A sample's value is

.. math:: \frac{1}{2 n} \sum_t (g_t \cdot e_t)^2

with *n* scored tokens, in nats per token, and the score its mean over samples: an estimate of the
``isolate`` score of ``kl`` that leaves out products between tokens.
``raw["elementwise"]`` has :math:`\frac{1}{2n} \sum_t \|g_t \odot e_t\|^2`, which leaves out products
between features too: what ModelOpt's ``auto_quantize(method="gradient")`` sums.

Cost: one forward and one backward pass; the error itself is two more products an op. Weights get no
gradients. Where the activations of all blocks would take more than a quarter of the free memory,
every block's forward is computed again in the backward pass, so that memory holds one block's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantspectrum.data.encode import Batch
from quantspectrum.models.placement import inner_forward_slot
from quantspectrum.patching import replaced_attribute, replaced_forward
from quantspectrum.sensitivity.metric import PassContext, PerSample, Summary, finite, summary
from quantspectrum.sensitivity.outputs import Reference, Rows, check_finite, product
from quantspectrum.sensitivity.samples import SampleSums
from quantspectrum.sensitivity.store import default_limit
from quantspectrum.simulation import OpPlan, op_error

__all__ = ["NAME", "absent", "collect", "score"]

NAME = "visibility"


def collect(context: PassContext, batch: Batch, index: int) -> dict[str, dict[str, list[float]]]:
    """``squared``, ``elementwise`` (halved sums) and ``tokens`` of each op per sample."""
    sums = SampleSums(batch, context.device)
    found: dict[str, dict[str, Tensor]] = {}
    ran: set[str] = set()

    def seen(name: str, error: Tensor, gradient: Tensor) -> None:
        # In float32: products of small gradients and small errors leave bfloat16's range of use.
        products = error.float() * gradient.float()
        values = {
            "squared": sums.sum(name, products.sum(-1).square() / 2),
            "elementwise": sums.sum(name, products.square().sum(-1) / 2),
        }
        # An op that runs more than once adds up.
        for key, value in values.items():
            kept = found.setdefault(name, {})
            kept[key] = kept[key] + value if key in kept else value

    inputs = batch.to(context.device).inputs
    context.engine.check_head(inputs)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        anchor = _put_probes(stack, context, seen, ran)
        for name in context.engine.blocks() if _is_large(context, inputs) else ():
            block = context.model.get_submodule(name)
            stack.enter_context(replaced_forward(block, _recomputed(block.forward)))
        values = context.engine.run(inputs)
        rows = Rows.of(batch, inputs, values, context.layout)
        reference = Reference(
            rows=rows, values=rows.pick(values.detach()), head=context.engine.head
        )
        generator = torch.Generator(values.device).manual_seed(context.seed * 1_000_003 + index)
        if values.requires_grad:  # The batch runs an op.
            gradient = _loss_gradient(reference, values, generator, batch.sample_ids)
            # Up to the anchor alone, so that weights that train get no gradients either.
            torch.autograd.backward(values, gradient, inputs=[anchor])
    tokens = {"tokens": rows.per_sample((~rows.image).float()).tolist()}
    # Of what ran and has no gradient the loss sees nothing.
    unseen = {op: absent(rows.shape[0]) | tokens for op in ran if op not in found}
    return unseen | {
        op: {key: values.tolist() for key, values in kept.items()} | tokens
        for op, kept in found.items()
    }


def absent(samples: int) -> dict[str, list[float]]:
    """An op that is not run does no damage."""
    return {"squared": [0.0] * samples, "elementwise": [0.0] * samples, "tokens": [1.0] * samples}


def score(op: PerSample) -> Summary:
    """Mean over samples, per token."""
    made = summary(op["squared"], None, op["tokens"], names=("squared", "tokens"))
    if made.raw["tokens"]:
        made.raw.update(finite(elementwise=sum(op["elementwise"]) / made.raw["tokens"]))
    return made


class _Probe(torch.autograd.Function):
    """The identity, whose backward shows the op's input and its output's gradient."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, _anchor: Tensor, tell: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.tell = tell
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        ctx.tell(x, gradient)
        return gradient, None, None, None


def _put_probes(
    stack: ExitStack,
    context: PassContext,
    seen: Callable[[str, Tensor, Tensor], None],
    ran: set[str],
) -> Tensor:
    # Without it nothing before the first trainable tensor would be part of the graph.
    anchor = torch.zeros((), device=context.device, requires_grad=True)
    for name, plan in context.plans.items():
        module = context.model.get_submodule(name)
        slot = inner_forward_slot(module)
        forward = _probed(name, module, plan, getattr(module, slot), anchor, seen, ran)
        stack.enter_context(replaced_attribute(module, slot, forward))
    return anchor


def _probed(
    name: str,
    module: nn.Module,
    plan: OpPlan,
    own: Callable[..., Any],
    anchor: Tensor,
    seen: Callable[[str, Tensor, Tensor], None],
    ran: set[str],
) -> Callable[..., Any]:
    def tell(x: Tensor, gradient: Tensor) -> None:
        seen(name, op_error(module, plan, x), gradient)

    def forward(x: Tensor) -> Any:
        ran.add(name)
        return _Probe.apply(own(x), x.detach(), anchor.to(x.device), tell)

    return forward


def _is_large(context: PassContext, inputs: Mapping[str, Tensor]) -> bool:
    """Whether the activations that a backward pass keeps should not all be kept at once.

    Estimated as twice every op's input and output on as many rows as the largest input has.
    """
    rows = max(
        x.shape[0] if x.is_floating_point() or x.ndim < 2 else x.shape[0] * x.shape[1]
        for x in inputs.values()
    )
    weights = [context.model.get_parameter(f"{name}.weight") for name in context.plans]
    width = sum(weight.shape[0] + weight[0].numel() for weight in weights)
    size = 2 * rows * width * max(weight.element_size() for weight in weights)
    return size > default_limit(context.device) // 2


def _recomputed(own: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(own, *args, use_reentrant=False, **kwargs)

    return forward


@torch.no_grad()
def _loss_gradient(
    reference: Reference, values: Tensor, generator: torch.Generator, samples: Sequence[str]
) -> Tensor:
    """Gradient of the summed loss at labels drawn from the predictions, of ``values``' shape.

    The gradient of ``-log p_y`` with respect to the logits is ``p - onehot(y)``, and with respect to
    the head's input that times the head's weight. Image positions carry no loss.
    """
    rows = reference.rows
    parts: list[Tensor] = []
    for s in reference.chunks():
        log_p = reference.values[s].float()
        if reference.head is not None:
            log_p = reference.head.logits(reference.values[s])
        p = torch.softmax(log_p, dim=-1)
        whole = torch.ones(len(reference.values), 1, device=p.device)
        whole[s] = p.sum(-1, keepdim=True)
        check_finite(rows, samples, whole)
        label = torch.multinomial(p, 1, generator=generator)
        p.scatter_add_(-1, label, torch.full_like(label, -1.0, dtype=p.dtype))
        p[rows.image[s]] = 0.0
        head = reference.head
        parts.append(p if head is None else product(p, head.module.weight))
    gradient = torch.zeros(rows.shape[0] * rows.shape[1], values.shape[-1], device=values.device)
    found = torch.cat(parts)
    if rows.index is None:
        gradient = found
    else:
        gradient.index_copy_(0, rows.index, found)
    return gradient.reshape(values.shape).to(values.dtype)
