"""Which sample of a batch each row of an op's input or output belongs to."""

from __future__ import annotations

import torch
from torch import Tensor

from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError

__all__ = ["SampleSums"]


class SampleSums:
    """Sums row values of one batch sample by sample, leaving padding out.

    Four layouts are known: ``(batch, ...)``; one row a sample; in vision towers, the patches (or
    merged patches) of all pictures in a row, one picture a sample, whose numbers
    ``image_grid_thw`` tells; and, in models without one, all tokens of the batch in a row.
    """

    def __init__(self, batch: Batch, device: torch.device) -> None:
        """Look up mask and picture sizes."""
        self._size = len(batch.sample_ids)
        mask = batch.inputs.get("attention_mask")
        self._mask = mask.bool().to(device) if mask is not None else None
        grid = batch.inputs.get("image_grid_thw")
        self._patches = [int(n) for n in grid.prod(-1)] if grid is not None else []

    def sum(self, op: str, rows: Tensor) -> Tensor:
        """Sum of each sample, float64 ``(batch,)``.

        Args:
            op: Name to use in an error.
            rows: One value a row; the shape of the op's input without its last dimension.

        Raises:
            UserError: The rows cannot be told apart by sample.
        """
        rows = rows.double()
        if self._size == 1:
            return rows.sum().reshape(1)
        if rows.ndim >= 2 and rows.shape[0] == self._size:
            if self._mask is not None and rows.shape[:2] == self._mask.shape:
                # Padding may hold anything, NaN too.
                keep = self._mask.to(rows.device).reshape(*rows.shape[:2], *[1] * (rows.ndim - 2))
                rows = torch.where(keep, rows, 0.0)
            return rows.flatten(1).sum(1)
        flat = rows.flatten()
        if len(flat) == self._size:
            return flat
        total = sum(self._patches)
        if len(self._patches) == self._size and total % len(flat) == 0:
            merge = total // len(flat)
            parts = torch.split(flat, [n // merge for n in self._patches])
            return torch.stack([part.sum() for part in parts])
        if self._mask is not None and not self._patches and len(flat) == self._mask.numel():
            return self.sum(op, flat.reshape(self._mask.shape))
        raise UserError(
            f"op {op} mixes the samples of a batch in its input; give --batch-size 1 for this "
            "metric"
        )
