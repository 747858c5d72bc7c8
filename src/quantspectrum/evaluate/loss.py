"""Loss per target token, sample by sample, so that two models can be compared in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quantspectrum.artifacts import Loss, SampleLoss
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.evaluate.statistics import ratio_with_stderr
from quantspectrum.models.loading import Loaded

__all__ = ["measure_loss", "target_nll"]

_CHUNK = 1024


@torch.inference_mode()
def measure_loss(loaded: Loaded, batches: Sequence[Batch]) -> Loss:
    """Mean negative log-likelihood of the target tokens, in nats per token.

    The mean is over all target tokens; its standard error is clustered by sample, since the
    tokens of one sample are not independent.

    Raises:
        UserError: A sample's loss is not finite.
    """
    samples: list[SampleLoss] = []
    for batch in batches:
        on_device = batch.to(loaded.device)
        logits = loaded.model(**on_device.inputs, use_cache=False).logits
        for row, sample in enumerate(batch.sample_ids):
            ids = on_device.inputs["input_ids"][row]
            nll, tokens = target_nll(logits[row], ids, on_device.target[row])
            if not math.isfinite(nll):
                raise UserError(
                    f"the loss of sample {sample} is not finite; check the checkpoint for NaN, "
                    "or load it in another --dtype"
                )
            kind = batch.kinds[row]
            samples.append(SampleLoss(id=sample, kind=kind, nll=nll, tokens=tokens))
    samples.sort(key=lambda sample: sample.id)
    loss, stderr = ratio_with_stderr([s.nll for s in samples], [s.tokens for s in samples])
    return Loss(
        loss=loss, stderr=stderr, tokens=sum(s.tokens for s in samples), samples=tuple(samples)
    )


def target_nll(logits: Tensor, ids: Tensor, target: Tensor) -> tuple[float, int]:
    """Summed negative log-likelihood of one sample's target tokens, and their number.

    Args:
        logits: ``(tokens, vocabulary)``; position *t* predicts token *t + 1*.
        ids: Token ids, ``(tokens,)``.
        target: Which tokens count, ``(tokens,)``.
    """
    positions = target[1:].nonzero().squeeze(-1)
    total = 0.0
    for chunk in torch.split(positions, _CHUNK):
        log_probabilities = torch.log_softmax(logits[chunk].float(), dim=-1)
        picked = log_probabilities.gather(-1, ids[chunk + 1].unsqueeze(-1))
        total -= float(picked.double().sum())
    return total, len(positions)
