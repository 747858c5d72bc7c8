"""INC 3.7's own tuning with the strategy MSE_V2, and the history it logs. In INC's environment only.

`quantization.fit` restores one op after the other, the most sensitive in the present state first, until its
accuracy criterion is met: a loss that is at most `tolerable_loss` above the float32 model's, or with `none` one that
nothing meets. The history is read from INC's log as it goes, so that there is an order whether or not it ends
well.

An exception is no way to end the tuning: `quantization.fit` takes KeyboardInterrupt, its own timer's too, for its
regular end, and on larger models tuning was seen to go on after one. Hence a signal ends this process.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import signal
import time
from types import FrameType
from typing import Any

import torch
from _exchange import (
    batches_of,
    progress,
    read_request,
    read_tensors,
    usage,
    versions,
    write_result,
)
from _inc import Batch, Loader, load_float32, set_numerics, targets_of
from torch import Tensor, nn

OUT_OF_REACH = 1e6

FALLBACK = re.compile(r"The op (\(.*?\)) have the highest sensitivity")


def main() -> None:
    """Tune, and write the order after each op that was restored."""
    request = read_request()
    settings, tensors = request["settings"], read_tensors()
    batches, targets = batches_of(tensors, "selection"), targets_of(tensors, "selection")
    torch.manual_seed(request["seed"])
    told = set_numerics(settings)
    model = load_float32(request)
    history = History(request, told)
    logger = logging.getLogger("neural_compressor")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(history)
    end_with_signals(history, request["time_budget"])
    fit(model, batches, targets, request)
    history.write()


def end_with_signals(history: History, budget: float | None) -> None:
    """At Ctrl-C, and when the budget is over, write the order so far and end."""

    def end(number: int, _frame: FrameType | None) -> None:
        history.write("time budget" if number == signal.SIGALRM else "interrupted")
        os._exit(0)

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, budget or 0.0)


class History(logging.Handler):
    """Ops in the order INC restored them."""

    def __init__(self, request: dict[str, Any], settings: dict[str, Any]) -> None:
        super().__init__()
        self.request, self.settings = request, settings
        self.ops: list[str] = []
        self.start = time.perf_counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Read a line of INC's log."""
        found = FALLBACK.search(record.getMessage())
        if not found:
            return
        name = ast.literal_eval(found[1])[0].removesuffix(".module")
        if name in self.request["ops"] and name not in self.ops:
            self.ops.append(name)
            progress(len(self.ops), len(self.request["ops"]))
            self.write("interrupted")

    def write(self, stopped_by: str | None = None) -> None:
        """The order so far: first restored, most sensitive."""
        total = len(self.request["ops"])
        early = "before an op was restored" if not self.ops else "before it was restored"
        write_result(
            {
                "scores": {op: float(total - place) for place, op in enumerate(self.ops)},
                "raw": {op: {"restored_as": place + 1.0} for place, op in enumerate(self.ops)},
                "missing": {
                    op: f"INC's tuning ended {early}"
                    for op in self.request["ops"]
                    if op not in self.ops
                },
                "settings": self.settings | {"ops_restored": len(self.ops)},
                "notes": ["scores are places in INC's order of restoring, not damages"],
                "versions": versions("neural-compressor", "torch", "transformers"),
                "seconds": time.perf_counter() - self.start,
                "peak_bytes": usage()["peak_bytes"],
                "stopped_by": stopped_by,
            }
        )


def fit(
    model: nn.Module, batches: list[Batch], targets: list[Tensor], request: dict[str, Any]
) -> None:
    """INC's tuning of the asked ops, everything else in float32."""
    from neural_compressor import PostTrainingQuantConfig, quantization
    from neural_compressor.config import AccuracyCriterion, TuningCriterion

    asked = request["settings"]["tolerable_loss"]
    tolerance = 1e-6 if asked == "none" else float(asked)
    first = [True]

    def accuracy(one: nn.Module) -> float:
        # INC evaluates the float32 model first; out of reach, so that it restores every op.
        bonus = OUT_OF_REACH if first[0] and asked == "none" else 0.0
        first[0] = False
        return bonus - loss(one, batches, targets)

    float32 = {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}
    wanted = set(request["ops"])
    others = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in wanted]
    config = PostTrainingQuantConfig(
        approach="static",
        # With the default, `auto`, INC takes another strategy than the one it is given.
        quant_level=1,
        op_type_dict=dict.fromkeys(
            ("Embedding", "Conv1d", "Conv2d", "Conv3d", "LayerNorm"), float32
        ),
        op_name_dict={f"{re.escape(name)}(\\.module)?": float32 for name in others},
        tuning_criterion=TuningCriterion(
            strategy="mse_v2",
            strategy_kwargs={"confidence_batches": len(batches)},
            # The budget is minded here: with one, INC would go on after its criterion is met.
            timeout=0,
            max_trials=10 * len(wanted) + 10,
        ),
        accuracy_criterion=AccuracyCriterion(
            higher_is_better=True, criterion="absolute", tolerable_loss=tolerance
        ),
    )
    quantization.fit(
        model,
        config,
        calib_dataloader=Loader(batches),
        eval_func=accuracy,
    )


@torch.no_grad()
def loss(model: nn.Module, batches: list[Batch], targets: list[Tensor]) -> float:
    """Mean negative log-likelihood of the target tokens, nats."""
    total, count = 0.0, 0
    for batch, target in zip(batches, targets, strict=True):
        logits = model(**batch).logits[:, :-1].float()
        mask = target[:, 1:]
        picked = torch.log_softmax(logits[mask], -1).gather(
            -1, batch["input_ids"][:, 1:][mask, None]
        )
        total -= float(picked.sum())
        count += int(mask.sum())
    return total / count


if __name__ == "__main__":
    main()
