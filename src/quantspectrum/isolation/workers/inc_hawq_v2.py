"""INC 3.7's own HAWQ_V2: average Hessian trace of each weight, from its own code. In INC's environment only.

INC's routine is called as it is, batch by batch. What it needs to run at all on a language model is done
around it: it differentiates its input, so that it is fed embeddings; it takes logits as (batch, classes,
tokens); every parameter that asks for a gradient must get one; and the quantized model it compares weights with
is only ever looked at for a result that it throws away. With `repaired`, its accumulator starts from zero and
the number of probes is fixed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from _exchange import (
    Budget,
    batches_of,
    progress,
    read_request,
    read_tensors,
    usage,
    versions,
    write_result,
)
from _inc import Batch, load_float32, make_adaptor, targets_of
from torch import Tensor, nn

IGNORED = -100

NOTHING_YET = "the time budget ended before INC had taken all probes of the first batch"


class TimeIsOverError(Exception):
    """The time budget is over."""


class Stub:
    """Stands in for the quantized model."""

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


class Language(nn.Module):
    """From the embeddings that reach the language model to logits, as INC's loss takes them."""

    graph_is_not_fused = True
    """INC skips fusing, which fails on these models, where any attribute's name contains `graph`."""

    def __init__(self, model: nn.Module, body: nn.Module, kept: dict[str, Any]) -> None:
        super().__init__()
        self.body, self.head, self.kept = body, model.get_output_embeddings(), kept

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        """Logits, (batch, vocabulary, tokens - 1)."""
        found = self.body(**{**self.kept, "inputs_embeds": inputs_embeds, "use_cache": False})
        return self.head(found.last_hidden_state)[:, :-1].transpose(1, 2)


class Once:
    """INC's data loader: one batch of embeddings and the ids they predict."""

    def __init__(self, embeds: Tensor, target: Tensor) -> None:
        self.pair, self.batch_size = (embeds, target), len(embeds)
        self.given: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.given is not None:
            # Its gradient has a graph that leads back to it: nothing else would free the graph of a probe.
            self.given.grad = None
        self.given = self.pair[0].detach().clone()
        return iter([(self.given, self.pair[1])])


def main() -> None:
    """Average the traces over the batches; Ctrl-C or the budget leaves those of whole batches."""
    request = read_request()
    tensors = read_tensors()
    batches, targets = batches_of(tensors, "selection"), targets_of(tensors, "selection")
    # Fused attention has no second derivative.
    model = load_float32(request, attention="eager")
    body = language_model(model)
    inside = {
        f"{name_of(model, body)}.{n}": n
        for n, m in body.named_modules()
        if isinstance(m, nn.Linear)
    }
    wanted = [op for op in request["ops"] if op in inside]
    missing = {
        op: "INC differentiates from the embeddings: it never sees what is outside the language model"
        for op in request["ops"]
        if op not in inside
    }
    start, found, probes = time.perf_counter(), [], []
    budget, stopped = Budget(request["time_budget"]), None
    try:
        for number, (batch, target) in enumerate(zip(batches, targets, strict=True)):
            traces, used = traces_of(model, body, wanted, batch, target, request, budget)
            found.append(traces)
            probes.append(used)
            progress(number + 1, len(batches))
    except TimeIsOverError:
        stopped = "time budget"
        # INC's average of one batch is over all its probes: that of fewer is another number.
        missing |= {} if found else dict.fromkeys(wanted, NOTHING_YET)
    except KeyboardInterrupt:
        stopped = "interrupted"
    if found or stopped == "time budget":
        write_result(result(request, found, probes, missing, stopped, time.perf_counter() - start))


def result(
    request: dict[str, Any],
    found: list[dict[str, float]],
    probes: list[int],
    missing: dict[str, str],
    stopped: str | None,
    seconds: float,
) -> dict[str, Any]:
    """What was found, averaged over the batches."""
    scores = {op: sum(one[op] for one in found) / len(found) for op in (found or [{}])[0]}
    most = max(probes, default=0)
    repaired = request["settings"]["repaired"] == "true"
    return {
        "scores": scores,
        "raw": {op: {"average_trace": score} for op, score in scores.items()},
        "missing": missing,
        "settings": {"repaired": repaired, "probes": most, "batches_scored": len(found)},
        "notes": ["repaired: the accumulator starts from zero and the number of probes is fixed"]
        if repaired
        else [
            "its accumulator starts from N(0, 1) noise",
            f"its stop rule, with a signed denominator, ended after {most} probes at most",
        ],
        "versions": versions("neural-compressor", "torch", "transformers"),
        "seconds": seconds,
        "peak_bytes": usage()["peak_bytes"],
        "stopped_by": stopped,
    }


def language_model(model: nn.Module) -> nn.Module:
    """The module that takes embeddings and gives hidden states."""
    inner = getattr(model, "model", model)
    return getattr(inner, "language_model", inner)


def name_of(model: nn.Module, module: nn.Module) -> str:
    """Qualified name of a module."""
    return next(name for name, one in model.named_modules() if one is module)


def traces_of(
    model: nn.Module,
    body: nn.Module,
    wanted: list[str],
    batch: Batch,
    target: Tensor,
    request: dict[str, Any],
    budget: Budget,
) -> tuple[dict[str, float], int]:
    """INC's average trace of each op on one batch, and how many probes it took.

    Raises:
        TimeIsOverError: The budget ended before its last probe.
    """
    from neural_compressor import PostTrainingQuantConfig
    from neural_compressor.model import Model

    kept: dict[str, Any] = {}
    handle = body.register_forward_pre_hook(
        lambda _m, _a, kwargs: kept.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        model(**batch, use_cache=False)
    handle.remove()
    embeds = kept.pop("inputs_embeds", None)
    ids = kept.pop("input_ids", None)
    if embeds is None:
        embeds = model.get_input_embeddings()(ids).detach()
    kept = {
        k: v
        for k, v in kept.items()
        if k not in ("past_key_values", "cache_position", "return_dict")
    }
    predicted = torch.where(target, batch["input_ids"], IGNORED)[:, 1:]
    language = Language(model, body, kept)
    names = {f"body.{op.removeprefix(name_of(model, body) + '.')}": op for op in wanted}
    for name, parameter in language.named_parameters():
        parameter.requires_grad_(name.removesuffix(".weight") in names)
    torch.manual_seed(request["seed"])
    with counted(request["settings"], budget) as count:
        found = make_adaptor(request["seed"]).calculate_hessian_trace(
            fp32_model=Model(language, conf=PostTrainingQuantConfig()),
            dataloader=Once(embeds, predicted),
            q_model=Stub(),
            criterion=None,
            enable_act=False,
        )
    return {names[name]: float(value) for name, value in found.items() if name in names}, count[0]


@contextmanager
def counted(settings: dict[str, Any], budget: Budget) -> Iterator[list[int]]:
    """Count INC's probes and end them with the budget; repaired, without its noise and its stop rule."""
    import neural_compressor.adaptor.torch_utils.hawq_metric as inc_hawq

    trace = inc_hawq.HessianTrace
    kept = trace.__init__, trace._sample_normal_like_params, trace.get_vtHv_weight
    count = [0]

    def init(self: Any, *args: Any, **options: Any) -> None:
        kept[0](self, *args, **options)
        self.max_iter, self.tolerance = int(settings["probes"]), float("-inf")

    def probe(self: Any, *args: Any) -> Any:
        if budget.over:
            raise TimeIsOverError
        count[0] += 1
        return kept[2](self, *args)

    trace.get_vtHv_weight = probe
    if settings["repaired"] == "true":
        trace.__init__ = init
        trace._sample_normal_like_params = lambda self: [torch.zeros_like(p) for p in self.params]
    try:
        yield count
    finally:
        trace.__init__, trace._sample_normal_like_params, trace.get_vtHv_weight = kept


if __name__ == "__main__":
    main()
