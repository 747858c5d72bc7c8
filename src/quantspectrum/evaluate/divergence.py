r"""KL divergence from the baseline's predictions, from a compact copy of them.

For each target token the baseline leaves its :math:`k` likeliest next tokens with their
log-probabilities. A variant's divergence at that token is

.. math:: \sum_{i \in \mathrm{top}\,k} p_i \log\frac{p_i}{q_i} + p_r \log\frac{p_r}{q_r}

with all other tokens taken as one, of probability :math:`p_r = 1 - \sum p_i`. By the log-sum
inequality this is a lower bound of the whole KL(baseline ‖ variant), and equal to it where the
others lost or gained in proportion. It is in nats, never negative, and zero for equal predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quantspectrum.errors import UserError

__all__ = [
    "TOP_K",
    "Predictions",
    "divergence",
    "predictions",
    "read_predictions",
    "write_predictions",
]

TOP_K = 64
_FLOOR = 1e-9


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Likeliest next tokens at each target token of one sample.

    Attributes:
        tokens: Token ids, ``(targets, k)``, likeliest first.
        log_probabilities: Their natural log-probabilities, ``(targets, k)``, float32.
    """

    tokens: Tensor
    log_probabilities: Tensor


def predictions(log_probabilities: Tensor) -> Predictions:
    """Keep the likeliest tokens of ``(targets, vocabulary)`` log-probabilities."""
    top = log_probabilities.topk(min(TOP_K, log_probabilities.shape[-1]), dim=-1)
    return Predictions(
        tokens=top.indices.to(torch.int32).cpu(), log_probabilities=top.values.float().cpu()
    )


def divergence(baseline: Predictions, log_probabilities: Tensor) -> tuple[float, int]:
    """KL summed over one sample's target tokens, and how many keep their likeliest token.

    Args:
        baseline: What the baseline predicted at the same tokens.
        log_probabilities: The variant's, ``(targets, vocabulary)``.

    Raises:
        UserError: The two are not about the same tokens.
    """
    if len(baseline.tokens) != len(log_probabilities):
        raise UserError(
            "the baseline's predictions are of other samples; evaluate it on the same data first"
        )
    ids = baseline.tokens.to(log_probabilities.device, torch.long)
    log_p = baseline.log_probabilities.to(log_probabilities.device).double()
    log_q = log_probabilities.gather(-1, ids).double()
    inside = (log_p.exp() * (log_p - log_q)).sum(-1)
    rest_p, rest_q = ((1 - log.exp().sum(-1)).clamp(min=_FLOOR) for log in (log_p, log_q))
    total = float((inside + rest_p * (rest_p / rest_q).log()).clamp(min=0).sum())
    same = int((log_probabilities.argmax(-1) == ids[:, 0]).sum())
    return total, same


def write_predictions(path: Path, samples: Sequence[tuple[str, Predictions]]) -> None:
    """Keep the predictions of every sample in one safetensors file."""
    tensors: dict[str, Tensor] = {}
    for name, kept in samples:
        tensors[f"{name}/tokens"] = kept.tokens.contiguous()
        tensors[f"{name}/log_probabilities"] = kept.log_probabilities.contiguous()
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write {path}: {error}; free space or choose another --out"
        ) from None


def read_predictions(path: Path) -> dict[str, Predictions]:
    """Read what :func:`write_predictions` wrote, by sample.

    Raises:
        UserError: The file is missing or is not such a file.
    """
    try:
        with safe_open(path, "pt") as file:
            names = {key.rpartition("/")[0] for key in file.keys()}  # noqa: SIM118
            return {
                name: Predictions(
                    tokens=file.get_tensor(f"{name}/tokens"),
                    log_probabilities=file.get_tensor(f"{name}/log_probabilities"),
                )
                for name in names
            }
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path} ({error}); evaluate the baseline again") from None
