"""AutoRound's AutoScheme: the score that it ranks the layers by, without the assignment made from it.

Runs in the environment of AutoRound only. AutoScheme itself runs, on the batches of the request in place
of a data set's; it ends when `get_score_for_scheme` has returned, before bits are assigned.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

# Its cache knows a model and a data set by name alone: scores of other batches would be read back.
os.environ["AR_AUTO_SCHEME_CACHE"] = os.path.abspath("autoscheme_cache")

import auto_round.compressors.mllm.dataset as mllm_dataset
import torch
from _exchange import (
    Budget,
    batches_of,
    load_model,
    progress,
    read_request,
    read_tensors,
    usage,
    versions,
    write_result,
)
from auto_round import AutoScheme
from auto_round.auto_scheme import delta_loss
from auto_round.utils import SUPPORTED_LAYER_TYPES
from torch import Tensor

MIDDLE = 12.0
"""Average bits asked for, which change no score; between those of the two options."""


class ScoredError(Exception):
    """AutoScheme has its scores."""


def main() -> None:
    """Score the ops of the request."""
    request = read_request()
    torch.manual_seed(request["seed"])
    if request["device"] != "cpu" and not torch.cuda.is_available():
        raise RuntimeError("the environment's torch sees no CUDA device; give --device cpu")
    model = load_model(request)
    asked = dict.fromkeys(request["ops"])
    modules = {name: module for name, module in model.named_modules() if name in asked}
    if lacking := [name for name in asked if name not in modules]:
        raise RuntimeError(f"the model has no {lacking[0]}: names have changed on loading")
    wanted = [name for name in asked if type(modules[name]) in SUPPORTED_LAYER_TYPES]
    batches = Batches(request)
    wrappers = keep_wrappers(repaired=request["settings"]["repaired"] == "true")
    start = time.perf_counter()
    scores = run(request, model, wanted, batches)
    seconds = time.perf_counter() - start
    reached = {w.orig_layer.tmp_name.removesuffix(".orig_layer"): w for w in wrappers if w.seen}
    found = {name: wrapper for name, wrapper in reached.items() if name in scores}
    write_result(
        {
            "scores": {name: float(scores[name][1]) for name in found},
            "raw": {
                name: {"weight_score": float(w.weight_score), "act_score": float(w.act_score)}
                for name, w in found.items()
            },
            "missing": {
                name: "no gradient reaches it" if name in wanted else "AutoRound leaves its type"
                for name in asked
                if name not in found
            },
            "settings": request["settings"]
            | {
                "batches_scored": batches.given,
                "low_gpu_mem_usage": not batches.pictures,
                "device": request["device"],
                "threads": torch.get_num_threads(),
            },
            "notes": _notes(found, request["settings"]["scheme"]),
            "versions": versions("auto-round", "torch", "transformers"),
            "own_seconds": seconds,
            **usage(),
            "stopped_by": "time budget" if batches.stopped else None,
        }
    )


class Batches:
    """Stands for AutoRound's data loader: the selection batches, as many as there is time for."""

    def __init__(self, request: dict[str, Any]) -> None:
        tensors = read_tensors()
        inputs = batches_of(tensors, "selection")
        self.batches: list[dict[str, Tensor]] = [
            values | {"labels": tensors[f"score.{index}.labels"]}
            for index, values in enumerate(inputs)
        ]
        self.budget = Budget(request["time_budget"], until_interrupted=True)
        # To score vision ops, AutoRound refuses to begin with a batch that has no picture.
        self.pictures = request["settings"]["vision"] == "true"
        self.batches.sort(key=lambda batch: "pixel_values" not in batch)
        self.given, self.stopped = 0, False

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if self.given:
            raise RuntimeError("AutoScheme went over the batches twice: its sums count some twice")
        for batch in self.batches:
            # Whatever the budget, one batch is scored.
            if self.budget.over and self.given:
                self.stopped = True
                return
            progress(self.given, len(self.batches))
            self.given += 1
            yield batch
        progress(self.given, len(self.batches))


def keep_wrappers(*, repaired: bool) -> list[Any]:
    """Have AutoScheme's wrappers of layers outlive its run; returns where they will be."""
    kept: list[Any] = []

    class Kept(delta_loss.AutoSchemeWrapperLinear):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.seen = False
            if repaired:
                # The path that quantizes the input too, and scores its error.
                self._custom_score_forward = False
            kept.append(self)

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.seen or (self.grad_mode and torch.is_grad_enabled())
            return super().forward(x)

    delta_loss.AutoSchemeWrapperLinear = Kept
    return kept


def run(
    request: dict[str, Any], model: torch.nn.Module, wanted: list[str], batches: Batches
) -> dict[str, list[float]]:
    """Run AutoScheme up to its scores: for each layer its bits and its loss."""
    captured: dict[str, list[float]] = {}
    score = delta_loss.get_score_for_scheme

    def capture(*args: Any, **kwargs: Any) -> None:
        captured.update(score(*args, **kwargs))
        raise ScoredError

    delta_loss.get_score_for_scheme = capture
    delta_loss.get_dataloader = lambda *_, **__: batches
    mllm_dataset.get_mllm_dataloader = lambda *_, **__: (batches, 1, 0, len(batches))
    samples = sum(len(next(iter(batch.values()))) for batch in batches.batches)
    scheme = AutoScheme(
        avg_bits=MIDDLE,
        options=[request["settings"]["scheme"], "BF16"],
        nsamples=samples,
        batch_size=max(len(next(iter(batch.values()))) for batch in batches.batches),
        low_gpu_mem_usage=not batches.pictures,
        # It would read the weights again from the checkpoint, block by block.
        low_cpu_mem_usage=False,
        enable_torch_compile=False,
    )
    try:
        delta_loss.gen_layer_config(
            scheme,
            model,
            wanted,
            {},
            dataset="request",
            device_map=request["device"],
            enable_torch_compile=False,
            low_gpu_mem_usage=not batches.pictures,
            min_avg_bit_scheme=request["settings"]["scheme"],
            # Without one it cannot fall back to other data, and add to what it has summed up.
            processor=object() if batches.pictures else None,
        )
    except ScoredError:
        return captured
    raise RuntimeError("AutoScheme ended without scoring")


def _notes(found: dict[str, Any], scheme: str) -> list[str]:
    if scheme == "W4A16" or any(wrapper.act_score for wrapper in found.values()):
        return []
    return [
        "activations count nothing in these scores: while it scores, AutoScheme leaves inputs unquantized "
        "(auto-round 0.16, AutoSchemeWrapperLinear.forward); give --lens-option repaired=true"
    ]


if __name__ == "__main__":
    main()
