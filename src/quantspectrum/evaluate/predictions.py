r"""What a model predicted at every target token, kept so that any two models can be compared.

Exact for any two models, from their files alone: the probability of the right token and the
likeliest token. The whole KL divergence needs whole distributions. A baseline keeps its logits, in
the type the model gives them in, where they take no more than ``KEEP_BYTES``, and divergences from
it are then exact. Beyond that it keeps its :math:`k` likeliest tokens, and a divergence is

.. math:: \sum_{i \in \mathrm{top}\,k} p_i \log\frac{p_i}{q_i} + p_r \log\frac{p_r}{q_r}

with all other tokens taken as one, of probability :math:`p_r = 1 - \sum p_i`. By the log-sum
inequality this is a lower bound of the whole KL(baseline ‖ model), and equal to it where the
others lost or gained in proportion. It is in nats, never negative, and zero for equal predictions.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quantspectrum.data.encode import Kind
from quantspectrum.errors import UserError
from quantspectrum.evaluate.fidelity import PairedTokens
from quantspectrum.kernels.kl import centred_exponential_excess

__all__ = [
    "KEEP_BYTES",
    "TOP_K",
    "Compared",
    "Predictions",
    "bounded_divergence",
    "compare_predictions",
    "exact_divergence",
    "paired",
    "read_predictions",
    "write_predictions",
]

TOP_K = 64
KEEP_BYTES = 2**30
"""Logits a baseline keeps at most: about 3,500 tokens of a vocabulary of 150,000 in bfloat16."""

_FLOOR = 1e-9
_ENTRY = "quantspectrum.predictions"
_VERSION = 3


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One model against another at the same tokens.

    Attributes:
        after: The model's log-probability of the right token, ``(tokens,)``, float32.
        kl: KL(baseline ‖ model) in nats, ``(tokens,)``, float32.
        same: Whether the likeliest token is the baseline's, ``(tokens,)``, bool.
        exact: Whether ``kl`` is over the whole vocabulary, and not a lower bound.
    """

    after: Tensor
    kl: Tensor
    same: Tensor
    exact: bool


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions at the target tokens of all samples, in the order of the samples' ids.

    Attributes:
        samples: Ids, ascending.
        kinds: Whether each sample is text, a picture with a text, or a picture alone.
        offsets: Where each sample's tokens begin, and the end: ``(samples + 1,)``, int64.
        targets: The right tokens, ``(tokens,)``, int32.
        right: Their natural log-probabilities, ``(tokens,)``, float32.
        tokens: Likeliest next tokens, likeliest first, ``(tokens, k)``, int32.
        log_probabilities: Their natural log-probabilities, ``(tokens, k)``, float32.
        logits: All logits, ``(tokens, vocabulary)``, or ``None`` where they were too many.
        floors: Name of a noise floor to the model against itself.
    """

    samples: tuple[str, ...]
    kinds: tuple[Kind, ...]
    offsets: Tensor
    targets: Tensor
    right: Tensor
    tokens: Tensor
    log_probabilities: Tensor
    logits: Tensor | None = None
    floors: dict[str, Compared] = field(default_factory=dict)

    def rows(self, sample: str) -> slice:
        """Where a sample's tokens are.

        Raises:
            UserError: It is not among them.
        """
        place = self._places().get(sample)
        if place is None:
            raise UserError(
                f"the baseline's predictions lack sample {sample}; evaluate it on the same data "
                "first"
            )
        return slice(int(self.offsets[place]), int(self.offsets[place + 1]))

    def _places(self) -> dict[str, int]:
        found: dict[str, int] | None = self.__dict__.get("_index")
        if found is None:
            found = {name: place for place, name in enumerate(self.samples)}
            self.__dict__["_index"] = found
        return found

    def with_floors(self, floors: dict[str, Compared]) -> Predictions:
        """The same with noise floors."""
        return replace(self, floors=floors)


def exact_divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL of softmax(``after``) from softmax(``before``), per row, nats, float32.

    Args:
        before: The baseline's logits, ``(tokens, vocabulary)``.
        after: The model's.
    """
    log_p = torch.log_softmax(before.float(), dim=-1)
    delta = after.float() - before.float()
    ruled_out = log_p == -torch.inf
    # What the baseline rules out has no weight of its own, and takes from all others in the model.
    delta = delta.masked_fill(ruled_out, 0.0)
    taken = after.float().masked_fill(~ruled_out, -torch.inf).logsumexp(-1)
    left = after.float().masked_fill(ruled_out, -torch.inf).logsumexp(-1)
    mean = (log_p.exp() * delta).sum(-1)
    found = centred_exponential_excess(log_p, delta, mean).clamp(min=0).log1p()
    return found + (taken - left).exp().log1p()


def bounded_divergence(tokens: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Lower bound of the KL per row, nats, float32; see the module.

    Args:
        tokens: The baseline's likeliest tokens, ``(tokens, k)``.
        log_p: Their log-probabilities.
        log_q: All the model's log-probabilities, ``(tokens, vocabulary)``.
    """
    return _partitioned(log_p, log_q.gather(-1, tokens.to(log_q.device, torch.long)))


def _partitioned(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The bound from the same tokens' log-probabilities; ``-inf`` for both leaves one out."""
    log_p, log_q = log_p.to(log_q.device).double(), log_q.double()
    inside = torch.where(log_p == -torch.inf, 0.0, log_p.exp() * (log_p - log_q)).sum(-1)
    rest_p, rest_q = ((1 - log.exp().sum(-1)).clamp(min=_FLOOR) for log in (log_p, log_q))
    return (inside + rest_p * (rest_p / rest_q).log()).clamp(min=0).float()


def compare_predictions(baseline: Predictions, model: Predictions) -> Compared:
    """Compare two models from what each of them kept.

    The divergence is exact where both kept their logits; else a lower bound over the tokens that
    are among the likeliest of both, with all others taken as one.

    Raises:
        UserError: They are not about the same tokens.
    """
    check_same_tokens(baseline, model)
    exact = baseline.logits is not None and model.logits is not None
    pieces: list[Tensor] = []
    for start in range(0, len(baseline.right), 256):
        rows = slice(start, start + 256)
        if baseline.logits is not None and model.logits is not None:
            pieces.append(exact_divergence(baseline.logits[rows], model.logits[rows]))
        else:
            pieces.append(_common_divergence(baseline, model, rows))
    return Compared(
        after=model.right,
        kl=torch.cat(pieces) if pieces else model.right[:0],
        same=baseline.tokens[:, 0] == model.tokens[:, 0],
        exact=exact,
    )


def _common_divergence(baseline: Predictions, model: Predictions, rows: slice) -> Tensor:
    ours, theirs = baseline.tokens[rows], model.tokens[rows]
    log_p, log_q = baseline.log_probabilities[rows], model.log_probabilities[rows]
    match = ours[:, :, None] == theirs[:, None, :]
    found = match.any(-1)
    theirs_at = match.int().argmax(-1)
    q = log_q.gather(-1, theirs_at).masked_fill(~found, -torch.inf)
    return _partitioned(log_p.masked_fill(~found, -torch.inf), q)


def check_same_tokens(baseline: Predictions, model: Predictions) -> None:
    """Refuse to compare predictions of other samples, or of other tokens of the same ones.

    Raises:
        UserError: Samples, their lengths or their right tokens differ.
    """
    same = baseline.samples == model.samples and torch.equal(baseline.offsets, model.offsets)
    if not same or not torch.equal(baseline.targets, model.targets):
        raise UserError(
            "the two predictions are about different samples or tokens; evaluate both on the same "
            "data with the same tokenizer"
        )


def paired(baseline: Predictions, compared: Compared) -> PairedTokens:
    """The arrays that statistics are made of."""
    lengths = (baseline.offsets[1:] - baseline.offsets[:-1]).numpy()
    return PairedTokens(
        sample=np.repeat(np.arange(len(lengths)), lengths),
        kinds=np.array(baseline.kinds, dtype=np.str_),
        before=baseline.right.double().numpy(),
        after=compared.after.double().numpy(),
        kl=compared.kl.double().numpy(),
        same=compared.same.numpy(),
        kl_kind="exact" if compared.exact else "lower bound",
    )


_TENSORS = ("offsets", "targets", "right", "tokens", "log_probabilities")


def write_predictions(path: Path, kept: Predictions) -> None:
    """Keep predictions in one safetensors file, written whole or not at all.

    Raises:
        UserError: The folder cannot be written or the disk is full.
    """
    tensors = {name: getattr(kept, name).contiguous() for name in _TENSORS}
    if kept.logits is not None:
        tensors["logits"] = kept.logits.contiguous()
    for name, floor in kept.floors.items():
        for part in ("after", "kl", "same"):
            tensors[f"floor/{name}/{part}"] = getattr(floor, part).contiguous()
    about = {
        "version": _VERSION,
        "samples": kept.samples,
        "kinds": kept.kinds,
        "floors": {name: floor.exact for name, floor in kept.floors.items()},
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={_ENTRY: json.dumps(about)})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write {path}: {error}; free space or choose another --out"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def read_predictions(path: Path) -> Predictions:
    """Read what :func:`write_predictions` wrote.

    Raises:
        UserError: The file is missing, is not such a file, or is of an older release.
    """
    try:
        with safe_open(path, "pt") as file:
            entry = (file.metadata() or {}).get(_ENTRY)
            about = json.loads(entry) if entry is not None else None
            if not isinstance(about, dict) or about.get("version") != _VERSION:
                raise UserError(
                    f"{path} holds no predictions of this release; evaluate the baseline again"
                )
            found = _assembled(file, about)
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); evaluate the baseline again") from None
    if len(found.right) != int(found.offsets[-1]) or len(found.samples) + 1 != len(found.offsets):
        raise UserError(f"{path} contradicts itself; evaluate the baseline again")
    return found


def _assembled(file: Any, about: dict[str, Any]) -> Predictions:
    names = set(file.keys())
    return Predictions(
        samples=tuple(about["samples"]),
        kinds=tuple(about["kinds"]),
        **{name: file.get_tensor(name) for name in _TENSORS},
        logits=file.get_tensor("logits") if "logits" in names else None,
        floors={
            name: Compared(
                **{
                    part: file.get_tensor(f"floor/{name}/{part}")
                    for part in ("after", "kl", "same")
                },
                exact=bool(exact),
            )
            for name, exact in about["floors"].items()
        },
    )
