"""Loss per target token, sample by sample, so that two models can be compared in pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from quantspectrum.artifacts import Loss, SampleLoss
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.evaluate.divergence import Predictions, divergence, predictions
from quantspectrum.evaluate.statistics import ratio_with_stderr
from quantspectrum.models.loading import Loaded
from quantspectrum.models.outputs import run_model

__all__ = ["measure_loss", "target_log_probabilities"]


@torch.inference_mode()
def measure_loss(
    loaded: Loaded,
    batches: Sequence[Batch],
    *,
    baseline: Mapping[str, Predictions] | None = None,
    keep: Callable[[str, Predictions], None] | None = None,
) -> Loss:
    """Mean negative log-likelihood of the target tokens, in nats per token.

    Of a masked language model these are the masked tokens. The mean is over all of them; its standard error is clustered by sample, since the
    tokens of one sample are not independent.

    Args:
        loaded: The model.
        batches: What to measure it on.
        baseline: The baseline's predictions by sample, to measure the KL divergence from.
        keep: Told this model's predictions of each sample.

    Raises:
        UserError: A sample's loss is not finite, or the baseline's predictions lack it.
    """
    samples: list[SampleLoss] = []
    for batch in batches:
        on_device = batch.to(loaded.device)
        logits = run_model(loaded.model, on_device.inputs)
        ids_of = on_device.labels if on_device.labels is not None else on_device.inputs["input_ids"]
        for row, sample in enumerate(batch.sample_ids):
            log_probabilities, ids = target_log_probabilities(
                logits[row],
                ids_of[row],
                on_device.target[row],
                shift=1 if batch.predicts == "next-token" else 0,
            )
            nll = -float(log_probabilities.gather(-1, ids.unsqueeze(-1)).double().sum())
            if not math.isfinite(nll):
                raise UserError(
                    f"the loss of sample {sample} is not finite; check the checkpoint for NaN, "
                    "or load it in another --dtype"
                )
            if keep is not None:
                keep(sample, predictions(log_probabilities))
            kl, same = _against(baseline, sample, log_probabilities)
            kind, tokens = batch.kinds[row], len(ids)
            samples.append(
                SampleLoss(id=sample, kind=kind, nll=nll, tokens=tokens, kl=kl, same_top=same)
            )
    samples.sort(key=lambda sample: sample.id)
    loss, stderr = ratio_with_stderr([s.nll for s in samples], [s.tokens for s in samples])
    return Loss(
        loss=loss, stderr=stderr, tokens=sum(s.tokens for s in samples), samples=tuple(samples)
    )


def _against(
    baseline: Mapping[str, Predictions] | None, sample: str, log_probabilities: Tensor
) -> tuple[float | None, int | None]:
    if baseline is None:
        return None, None
    if sample not in baseline:
        raise UserError(
            f"the baseline's predictions lack sample {sample}; evaluate it on the same data first"
        )
    return divergence(baseline[sample], log_probabilities)


def target_log_probabilities(
    logits: Tensor, ids: Tensor, target: Tensor, *, shift: int = 1
) -> tuple[Tensor, Tensor]:
    """Log-probabilities that predict one sample's target tokens, and those tokens.

    Args:
        logits: ``(tokens, vocabulary)``; position *t* predicts token *t + shift*.
        ids: Token ids, ``(tokens,)``.
        target: Which tokens count, ``(tokens,)``.
        shift: 1 for a model that predicts the next token, 0 for one that tells masked ones.

    Returns:
        ``(targets, vocabulary)`` float32 and ``(targets,)``.
    """
    positions = target[shift:].nonzero().squeeze(-1)
    return torch.log_softmax(logits[positions].float(), dim=-1), ids[positions + shift]
