"""Loss per target token, sample by sample, so that two models can be compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantspectrum.artifacts import Loss, LossOf, SampleLoss
from quantspectrum.data.encode import Batch, Kind
from quantspectrum.errors import UserError
from quantspectrum.evaluate.classes import class_logits
from quantspectrum.evaluate.predictions import (
    TOP_K,
    Compared,
    Predictions,
    bounded_divergence,
    check_same_tokens,
    exact_divergence,
)
from quantspectrum.evaluate.statistics import ratio_with_stderr
from quantspectrum.models.loading import Loaded
from quantspectrum.models.outputs import run_model

__all__ = ["MeasuredLoss", "measure_loss", "target_logits"]

_ROWS = 256
"""Tokens whose whole distributions are held in float32 at once."""


@dataclass(frozen=True, kw_only=True)
class MeasuredLoss:
    """A model's loss, and what it predicted.

    Attributes:
        loss: The loss, with sums of each sample.
        predictions: What was predicted at each target token.
        compared: The same against the baseline's predictions, where there were any.
    """

    loss: Loss
    predictions: Predictions
    compared: Compared | None


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """One sample's target tokens, on the CPU."""

    kind: Kind
    targets: Tensor
    right: Tensor
    tokens: Tensor
    log_probabilities: Tensor
    logits: Tensor | None
    kl: Tensor | None
    same: Tensor | None


@torch.inference_mode()
def measure_loss(
    loaded: Loaded,
    batches: Sequence[Batch],
    *,
    baseline: Predictions | None = None,
    keep_bytes: int = 0,
    classes: Mapping[str, int] | None = None,
) -> MeasuredLoss:
    """Mean negative log-likelihood of the target tokens, in nats per token.

    Of a masked language model these are the masked tokens; of a classifier a sample is one token,
    see :mod:`quantspectrum.evaluate.classes`. The mean is over all of them; its standard error is
    clustered by sample, since the tokens of one sample are not independent.

    Args:
        loaded: The model.
        batches: What to measure it on.
        baseline: The baseline's predictions, to compare with.
        keep_bytes: Keep all logits where they take no more than this.
        classes: Of a classifier: the class of each sample, where they are known.

    Raises:
        UserError: A sample's loss is not finite, or the baseline's predictions are of others.
    """
    found: dict[str, _Tokens] = {}
    count = sum(int(_scored(batch).sum()) for batch in batches)
    for batch in batches:
        logits, ids = (
            class_logits(loaded, batch, classes, baseline)
            if batch.predicts == "sample"
            else target_logits(loaded, batch)
        )
        keep = count * logits.shape[-1] * logits.dtype.itemsize <= keep_bytes
        found.update(_measured(batch, logits, ids, baseline, keep))
    names = tuple(sorted(found))
    predictions = _predictions(names, [found[name] for name in names])
    compared = None
    if baseline is not None:
        check_same_tokens(baseline, predictions)
        compared = Compared(
            after=predictions.right,
            kl=torch.cat([kl for name in names if (kl := found[name].kl) is not None]),
            same=torch.cat([same for name in names if (same := found[name].same) is not None]),
            exact=baseline.logits is not None,
        )
    whole = any(batch.predicts == "sample" for batch in batches)
    named: LossOf = "classes" if classes is not None else "baseline's classes"
    return MeasuredLoss(
        loss=_loss(predictions, compared, named if whole else "tokens"),
        predictions=predictions,
        compared=compared,
    )


def _scored(batch: Batch) -> Tensor:
    """Target tokens that something predicts: in (B, T), or (B, T - 1) for next-token models."""
    return batch.target[:, 1:] if batch.predicts == "next-token" else batch.target


def target_logits(loaded: Loaded, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits ``(targets, vocabulary)`` that predict a batch's target tokens, and those tokens.

    Row by row: position *t* predicts token *t + 1*, or *t* itself in a masked language model.
    """
    on_device = batch.to(loaded.device)
    rows, places = _scored(on_device).nonzero(as_tuple=True)
    ids_of = on_device.labels if on_device.labels is not None else on_device.inputs["input_ids"]
    shift = 1 if batch.predicts == "next-token" else 0
    logits = run_model(loaded.model, on_device.inputs)
    device = logits.device
    return (
        logits[rows.to(device), places.to(device)],
        ids_of[rows, places + shift].to(device),
    )


def _measured(
    batch: Batch, logits: Tensor, ids: Tensor, baseline: Predictions | None, keep: bool
) -> dict[str, _Tokens]:
    counts = _scored(batch).sum(1).tolist()
    before = None
    if baseline is not None:
        before = _rows_of(baseline, batch.sample_ids, counts)
    parts = [
        _part(logits[start : start + _ROWS], ids[start : start + _ROWS], _cut(before, start))
        for start in range(0, len(ids), _ROWS)
    ]
    whole = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    whole["targets"] = ids.to("cpu", torch.int32)
    if keep:
        whole["logits"] = logits.cpu()
    found: dict[str, _Tokens] = {}
    start = 0
    for row, (sample, tokens) in enumerate(zip(batch.sample_ids, counts, strict=True)):
        own = {name: values[start : start + tokens] for name, values in whole.items()}
        start += tokens
        _check_finite(sample, own)
        found[sample] = _Tokens(
            kind=batch.kinds[row],
            targets=own["targets"],
            right=own["right"],
            tokens=own["tokens"],
            log_probabilities=own["log_probabilities"],
            logits=own.get("logits"),
            kl=own.get("kl"),
            same=own.get("same"),
        )
    return found


@dataclass(frozen=True)
class _Before:
    tokens: Tensor
    log_probabilities: Tensor
    logits: Tensor | None


def _rows_of(baseline: Predictions, samples: Sequence[str], counts: Sequence[int]) -> _Before:
    slices = [baseline.rows(sample) for sample in samples]
    if [rows.stop - rows.start for rows in slices] != list(counts):
        raise UserError(
            "the baseline's predictions are of other samples; evaluate it on the same data first"
        )
    logits = baseline.logits
    return _Before(
        torch.cat([baseline.tokens[rows] for rows in slices]),
        torch.cat([baseline.log_probabilities[rows] for rows in slices]),
        None if logits is None else torch.cat([logits[rows] for rows in slices]),
    )


def _cut(before: _Before | None, start: int) -> _Before | None:
    if before is None:
        return None
    rows = slice(start, start + _ROWS)
    logits = before.logits
    return _Before(
        before.tokens[rows],
        before.log_probabilities[rows],
        None if logits is None else logits[rows],
    )


def _part(logits: Tensor, ids: Tensor, before: _Before | None) -> dict[str, Tensor]:
    """What is kept of some tokens, on their device."""
    log_q = torch.log_softmax(logits.float(), dim=-1)
    top = log_q.topk(min(TOP_K, log_q.shape[-1]), dim=-1)
    found = {
        "right": log_q.gather(-1, ids.unsqueeze(-1)).squeeze(-1),
        "tokens": top.indices.to(torch.int32),
        "log_probabilities": top.values,
    }
    if before is not None:
        tokens = before.tokens.to(logits.device)
        found["same"] = top.indices[:, 0] == tokens[:, 0]
        found["kl"] = (
            exact_divergence(before.logits.to(logits.device), logits)
            if before.logits is not None
            else bounded_divergence(tokens, before.log_probabilities, log_q)
        )
    return found


def _check_finite(sample: str, own: dict[str, Tensor]) -> None:
    for name in ("right", "kl"):
        if name in own and not bool(own[name].isfinite().all()):
            what = "loss" if name == "right" else "divergence from the baseline"
            raise UserError(
                f"the {what} of sample {sample} is not finite; check the checkpoint for NaN, or "
                "load it in another --dtype"
            )


def _predictions(names: tuple[str, ...], samples: Sequence[_Tokens]) -> Predictions:
    lengths = torch.tensor([0, *(len(one.right) for one in samples)], dtype=torch.int64)
    logits = [one.logits for one in samples if one.logits is not None]
    return Predictions(
        samples=names,
        kinds=tuple(one.kind for one in samples),
        offsets=lengths.cumsum(0),
        targets=torch.cat([one.targets for one in samples]),
        right=torch.cat([one.right for one in samples]),
        tokens=torch.cat([one.tokens for one in samples]),
        log_probabilities=torch.cat([one.log_probabilities for one in samples]),
        logits=torch.cat(logits) if logits else None,
    )


def _loss(predictions: Predictions, compared: Compared | None, of: LossOf) -> Loss:
    samples: list[SampleLoss] = []
    for place, name in enumerate(predictions.samples):
        rows = predictions.rows(name)
        against = {} if compared is None else _sums(compared, rows)
        samples.append(
            SampleLoss(
                id=name,
                kind=predictions.kinds[place],
                nll=-float(predictions.right[rows].double().sum()),
                tokens=rows.stop - rows.start,
                **against,
            )
        )
    loss, stderr = ratio_with_stderr([s.nll for s in samples], [s.tokens for s in samples])
    return Loss(
        loss=loss,
        stderr=stderr,
        tokens=sum(s.tokens for s in samples),
        samples=tuple(samples),
        of=of,
    )


def _sums(compared: Compared, rows: slice) -> dict[str, float | int]:
    return {
        "kl": float(compared.kl[rows].double().sum()),
        "same_top": int(compared.same[rows].sum()),
    }
