"""ModelOpt's side of bench/pareto.py: its scores, its solutions, and its scores for our solver."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from quantspectrum import isolation, stages
from quantspectrum.artifacts import FrameworkNote, write_artifact
from quantspectrum.data.encode import Batch
from quantspectrum.data.splits import identity
from quantspectrum.formats import preset
from quantspectrum.isolation.inputs import batch_tensors, model_request
from quantspectrum.lenses.modelopt import GRADIENT, KL_DIV
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.lenses.scoring import report_of
from quantspectrum.lenses.targets import label_tensors
from quantspectrum.models.loading import Loaded
from quantspectrum.provenance import Stopwatch

__all__ = ["BITS", "FORMAT", "LENSES", "ModelOpt"]

FORMAT, PRESET = "w8a8-static", "INT8_DEFAULT_CFG"
BITS = (8.08, 8.4, 8.8, 9.5, 10.5, 12.0, 13.5, 15.0)
"""Mean weight bits over the candidates: 1, 5, 10, … % of the weights stay in 16 bits."""

LENSES = {"gradient": GRADIENT, "kl_div": KL_DIV}


class ModelOpt:
    """`auto_quantize` of one model on the samples of a request.

    Args:
        loaded: The model.
        data: Which samples; calibration and selection are used.
        work: Directory for the exchange.
        tokens: What is scored: ``text``, the positions that our KL is of, or ``loss``, those whose loss counts.
        time_budget: Seconds of a method.
    """

    def __init__(
        self,
        loaded: Loaded,
        data: stages.DataRequest,
        work: Path,
        *,
        tokens: str,
        time_budget: float | None,
    ) -> None:
        self.loaded, self.data, self.work = loaded, data, work
        self.tokens, self.time_budget = tokens, time_budget
        self.table = stages.OpsRequest().table(loaded)
        self.splits = data.splits(loaded.takes_images)

    def auto_quantize(self, method: str) -> dict[str, Any]:
        """Scores of all groups, and ModelOpt's own solution for each of :data:`BITS`."""
        directory = self.work / f"modelopt-{method}"
        directory.mkdir(exist_ok=True)
        calibration, selection = (
            self.data.encode(self.loaded, part)
            for part in (self.splits.calibration, self.splits.selection)
        )
        name = f"modelopt:{method}"
        request = {
            **model_request(self.loaded, self.work / "model"),
            "ops": [op.name for op in self.table.candidates],
            "seed": self.data.seed,
            "time_budget": self.time_budget,
            "settings": {
                "preset": PRESET,
                "method": method,
                "groups": "fused",
                "predicts": selection[0].predicts,
                "effective_bits": list(BITS),
            },
        }
        found = isolation.run_worker(
            "modelopt",
            "modelopt_auto_quantize",
            request,
            directory,
            tensors={
                **batch_tensors("calibration", calibration),
                **batch_tensors("selection", selection),
                **label_tensors(
                    name, [self._labelled(batch) for batch in selection], ("next-token",)
                ),
            },
        )
        self._check_same(found)
        return found

    def _labelled(self, batch: Batch) -> Batch:
        """A batch for ModelOpt: what its scores are of are the positions whose KL ours are of.

        They differ from those whose loss counts where a sample has a prompt.
        """
        if self.tokens == "loss":
            return batch
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
        text = mask & (ids != self.loaded.layout.image_token_id)
        target = torch.zeros_like(mask)
        # The output at a position is about the next token.
        target[:, 1:] = text[:, :-1] & text[:, 1:]
        return replace(batch, target=target)

    def _check_same(self, found: Mapping[str, Any]) -> None:
        """Both sides choose among the same groups, and count effective bits over the same weights."""
        ours: dict[str, set[str]] = {}
        for op in self.table.candidates:
            ours.setdefault(op.group, set()).add(op.name)
        theirs = {frozenset(group) for group in found["groups"]}
        if theirs != {frozenset(group) for group in ours.values()}:
            raise SystemExit(f"other groups: {sorted(map(sorted, theirs))[:3]} …")
        weights = sum(torch.Size(op.shape).numel() for op in self.table.candidates)
        if found["weights"] != weights:
            raise SystemExit(f"ModelOpt counts {found['weights']:.0f} weights, not {weights}")

    def restated(self, method: str, found: Mapping[str, Any]) -> Path:
        """ModelOpt's scores as a report, for our solver: what is left is the solvers' difference."""
        path: Path = self.work / f"modelopt-{method}.report.json"
        selection = self.data.encode(self.loaded, self.splits.selection)
        request = LensRequest(
            format=preset(FORMAT),
            base="isolate",
            calibration=self.data.encode(self.loaded, self.splits.calibration),
            selection=selection,
            data=(identity(self.splits.selection, self.splits.source, "selection"),),
            seed=self.data.seed,
            directory=self.work,
        )
        note = FrameworkNote(
            name="NVIDIA ModelOpt", asked=len(self.table.candidates), covered=len(found["scores"])
        )
        scores = LensScores(scores=found["scores"], framework=note, n=len(self.splits.selection))
        watch = Stopwatch(self.loaded.device)
        lens = f"modelopt:{method}"
        write_artifact(path, report_of(lens, self.loaded, self.table, request, scores, watch))
        return path

    def told(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """What ModelOpt found, its groups with their scores and their weights."""
        weights = {op.name: torch.Size(op.shape).numel() for op in self.table.candidates}
        groups = [
            {
                "ops": ops,
                "score": math.fsum(found["scores"][op] for op in ops),
                "weights": sum(weights[op] for op in ops),
            }
            for ops in found["groups"]
        ]
        told = ("settings", "versions", "stopped_by", "own_seconds", "solutions")
        sizes = ("weights", "weights_counted")
        return {key: found[key] for key in (*told, *sizes)} | {"groups": groups}
