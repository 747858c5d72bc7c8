r"""What a scan reads of a model's output, and how two outputs differ.

The head is linear: with its input :math:`h`, weight :math:`W` and a perturbed input :math:`h'`, the
logits differ by :math:`W (h' - h)`. Differences are therefore taken of the head's input and turned
into logits afterwards, in float32: rounding the logits themselves to bfloat16, as a model does,
would bury the small differences that single ops make. Where that does not hold (no head, a
quantized head, soft-capped logits) the logits are read and subtracted in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.kernels.kl import centred_exponential_excess
from quantspectrum.models.adapter import Layout

__all__ = ["Difference", "Head", "Reference", "Rows", "check_finite", "output_error"]

CHUNK_BYTES = 2**29
"""Most bytes of float32 logits at a time."""


class Head:
    """The linear output head: logits of hidden states, and the Gram matrix of its weight."""

    def __init__(self, module: nn.Linear) -> None:
        """Keep the module; nothing is computed yet."""
        self.module = module

    @classmethod
    def of(cls, model: nn.Module, name: str | None) -> Head | None:
        """The head of that name if it is a plain Linear whose weight is at hand."""
        module = model.get_submodule(name) if name is not None else None
        plain = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
        return cls(module) if plain and not module.weight.is_meta else None  # type: ignore[arg-type, union-attr]

    def times_weight(self, x: Tensor) -> Tensor:
        """``x W^T`` in float32, ``(rows, hidden)`` to ``(rows, vocabulary)``."""
        return product(x, self.module.weight.t())

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits in float32."""
        logits = self.times_weight(hidden)
        return logits if self.module.bias is None else logits + self.module.bias.float()

    @cached_property
    def gram(self) -> Tensor:
        """``W^T W``, float32, ``(hidden, hidden)``."""
        weight = self.module.weight
        return product(weight.t().contiguous(), weight)

    @cached_property
    def _bias_terms(self) -> tuple[Tensor, Tensor]:
        bias = self.module.bias.float()
        return product(bias[None].to(self.module.weight.dtype), self.module.weight)[0], bias @ bias

    def squared_norm(self, x: Tensor, *, bias: bool) -> Tensor:
        """``||W x||^2`` of each row, or with ``bias`` ``||W x + b||^2``; float32.

        Computed as ``x^T (W^T W) x``: a product of hidden size instead of vocabulary size.
        """
        x = x.float()
        norm: Tensor = torch.linalg.vecdot(x @ self.gram, x)
        if bias and self.module.bias is not None:
            cross, square = self._bias_terms
            norm = norm + 2 * (x @ cross) + square
        return norm.clamp(min=0)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product with a float32 result; on the GPU bfloat16 factors stay bfloat16."""
    if b.is_cuda and b.dtype == torch.bfloat16:
        return torch.mm(a.to(torch.bfloat16), b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _labels(batch: Batch, ids: Tensor) -> Tensor:
    """Token that each position's output is to predict, or -1 where it does not count."""
    label = torch.full_like(ids, -1)
    target = batch.target.to(ids.device)
    tokens = ids if batch.labels is None else batch.labels.to(ids.device)
    if batch.predicts == "next-token":
        label[:, :-1] = torch.where(target[:, 1:], tokens[:, 1:], -1)
    elif batch.predicts == "same-token":
        label = torch.where(target, tokens, -1)
    return label


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which positions of an output are scored.

    Attributes:
        shape: ``(batch, tokens)``, or ``(batch, 1)`` for models with one output a sample.
        index: Positions that are no padding, in the flattened shape; ``None`` when all are.
        image: Which of the scored positions hold image tokens, ``(rows,)`` bool.
        label: Token to predict at each scored position, or -1 where it does not count.
    """

    shape: tuple[int, int]
    index: Tensor | None
    image: Tensor
    label: Tensor

    @classmethod
    def of(cls, batch: Batch, inputs: dict[str, Tensor], values: Tensor, layout: Layout) -> Rows:
        """The rows of a batch whose output is ``values``."""
        ids = inputs.get("input_ids")
        if ids is None or values.ndim < 3:
            # One output a sample, or the places of a picture.
            shape = (values.shape[0], values[0].numel() // values.shape[-1])
            count = shape[0] * shape[1]
            none = torch.zeros(count, dtype=torch.bool, device=values.device)
            label = torch.full((count,), -1, device=values.device)
            return cls(shape=shape, index=None, image=none, label=label)
        label = _labels(batch, ids)
        mask = inputs.get("attention_mask")
        whole = mask is None or bool(mask.bool().all())
        index = None if whole or mask is None else mask.flatten().nonzero().squeeze(-1)
        token = layout.image_token_id
        image = ids == token if token is not None else torch.zeros_like(ids, dtype=torch.bool)
        pick = [x.flatten() if index is None else x.flatten()[index] for x in (image, label)]
        pick = [x.to(values.device) for x in pick]
        return cls(
            shape=(ids.shape[0], ids.shape[1]),
            index=index.to(values.device) if index is not None else None,
            image=pick[0],
            label=pick[1],
        )

    def pick(self, values: Tensor) -> Tensor:
        """The scored rows of an output, ``(rows, features)``."""
        flat = values.reshape(-1, values.shape[-1])
        return flat if self.index is None else flat.index_select(0, self.index)

    def per_sample(self, rows: Tensor) -> Tensor:
        """Sum over the rows of each sample, float64 ``(batch,)``; the same order every time."""
        grid = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.float64, device=rows.device)
        if self.index is None:
            grid = rows.double()
        else:
            grid.index_copy_(0, self.index, rows.double())
        return grid.reshape(self.shape).sum(1)


def output_error(sample: str) -> UserError:
    """What is wrong where the unquantized model's output is of no use."""
    return UserError(
        f"the model's own output on sample {sample} is not finite or all zero, so no "
        "op can be scored; check the checkpoint for NaN, or load it in another --dtype"
    )


def check_finite(rows: Rows, samples: Sequence[str], values: Tensor) -> None:
    """Make sure that the scored rows ``(rows, features)`` of an output are finite.

    Raises:
        UserError: They are not, in the sample that it names.
    """
    broken = ~values.isfinite().all(-1)
    if bool(broken.any()):
        first = rows.per_sample(broken.float()).nonzero()[0]
        raise output_error(samples[int(first)])


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The unperturbed output of a batch, ready to be compared with.

    Attributes:
        rows: Which positions count.
        values: What was read there, ``(rows, features)``.
        head: What turns it into logits; ``None`` when it is logits.
    """

    rows: Rows
    values: Tensor
    head: Head | None
    _cache: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def chunks(self) -> Iterator[slice]:
        """Slices of rows whose float32 logits fit into the chunk size."""
        width = self.values.shape[-1] if self.head is None else self.head.module.out_features
        step = max(1, CHUNK_BYTES // (4 * width))
        for start in range(0, len(self.values), step):
            yield slice(start, start + step)

    def squared_norm(self) -> Tensor:
        """``||logits||^2`` of each row, float32."""
        if self.head is None:
            return self.values.float().square().sum(-1)
        return self.head.squared_norm(self.values, bias=True)

    @property
    def log_p(self) -> Tensor:
        """Log-probabilities, ``(rows, vocabulary)`` float16: exact where probabilities are large."""
        if "log_p" not in self._cache:
            parts = [
                torch.log_softmax(
                    self.values[s].float()
                    if self.head is None
                    else self.head.logits(self.values[s]),
                    dim=-1,
                ).half()
                for s in self.chunks()
            ]
            self._cache["log_p"] = torch.cat(parts)
        return self._cache["log_p"]

    @property
    def mean_embedding(self) -> Tensor:
        """``sum_v p_v w_v``: expected row of the head's weight, ``(rows, hidden)`` float32."""
        assert self.head is not None
        if "mean" not in self._cache:
            weight = self.head.module.weight
            parts = []
            for s in self.chunks():
                p = self.log_p[s].float().exp().to(weight.dtype)
                # Divided by their sum, so that a shift of all logits has exactly itself as mean.
                parts.append(product(p, weight) / p.float().sum(-1, keepdim=True))
            self._cache["mean"] = torch.cat(parts)
        return self._cache["mean"]


class Difference:
    """A perturbed output against the reference; everything in float32, row by row."""

    def __init__(self, reference: Reference, perturbed: Tensor) -> None:
        """Subtract; ``perturbed`` is what was read, in the output's own shape."""
        self.reference = reference
        self._delta = reference.rows.pick(perturbed).float() - reference.values.float()

    def squared_error(self) -> Tensor:
        """``||logits' - logits||^2`` of each row."""
        head = self.reference.head
        if head is None:
            return self._delta.square().sum(-1)
        return head.squared_norm(self._delta, bias=False)

    @cached_property
    def divergence(self) -> tuple[Tensor, Tensor]:
        r"""KL(reference ‖ perturbed) of each row, and its change of log-likelihood at the label.

        With :math:`d = \Delta - \sum_v p_v \Delta_v` the divergence is
        :math:`\log \sum_v p_v e^{d_v} = \log(1 + \sum_v p_v (e^{d_v} - 1 - d_v))`, a sum of terms
        that are not negative: nothing cancels, however small the perturbation.
        """
        kl, gained = [], []
        for s in self.reference.chunks():
            delta, mean = self._chunk(s)
            log_p = self.reference.log_p[s]
            excess = centred_exponential_excess(log_p, delta, mean)
            kl.append(torch.log1p(excess))
            label = self.reference.rows.label[s]
            # A model whose outputs are no tokens has labels beyond them, which nothing asks for.
            place = label.clamp(0, delta.shape[-1] - 1)
            at = delta.gather(-1, place[:, None]).squeeze(-1) - mean
            gained.append(at - kl[-1])
        return torch.cat(kl), torch.cat(gained)

    def _chunk(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Difference of the logits, and its mean under the reference's probabilities."""
        reference, delta = self.reference, self._delta[rows]
        if reference.head is not None:
            mean = torch.linalg.vecdot(reference.mean_embedding[rows], delta)
            return reference.head.times_weight(delta), mean
        probabilities = reference.log_p[rows].float().exp()
        # Divided by their sum for the same reason as in `Reference.mean_embedding`.
        return delta, torch.linalg.vecdot(probabilities, delta) / probabilities.sum(-1)
