"""NVIDIA ModelOpt's `auto_quantize`: its score of every group of ops in one format.

Runs in ModelOpt's environment only. ModelOpt takes one set of batches for calibration and for scores;
here its loader hands out the calibration batches until it begins to score, and the selection batches
from then on. It scores one format: across formats it clamps scores (0.47, `initialize_candidate_stats`).

With `effective_bits` among the settings the result also holds ModelOpt's solution for each of them, of one
scoring (`_modelopt_solutions.py`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import modelopt.torch.quantization as mtq
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
from _modelopt_solutions import Budgets
from modelopt.torch.opt.utils import named_hparams
from modelopt.torch.quantization import algorithms
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

NO_CONSTRAINT = 16.0
"""Effective bits of the search that follows the scoring where no budget is given: it changes no score."""

WRITE_EVERY_S = 30.0

SEARCHERS = {
    "gradient": algorithms.AutoQuantizeGradientSearcher,
    "kl_div": algorithms.AutoQuantizeKLDivSearcher,
}

Batch = tuple[int, dict[str, Tensor]]
Shared = tuple[list[str], float]
"""Ops of a group and the group's score."""


class TimeIsOverError(Exception):
    """The time budget is over."""


def main() -> None:
    """Score the ops of the request."""
    request = read_request()
    torch.manual_seed(request["seed"])
    device = torch.device(request["device"])
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("the environment's torch sees no CUDA device; give --device cpu")
    model = load_model(request).to(device)
    # The key-value cache of a scored forward pass is of no use.
    model.config.get_text_config().use_cache = False
    Scan(request, model).run()


class Scan:
    """One run of `auto_quantize`, what it was asked, and how far it is."""

    def __init__(self, request: dict[str, Any], model: nn.Module) -> None:
        self.request, self.settings, self.model = request, request["settings"], model
        self.device = next(model.parameters()).device
        tensors = read_tensors()
        self.batches = {split: batches_of(tensors, split) for split in ("calibration", "selection")}
        self.labels = [tensors[f"score.{i}.labels"] for i in range(len(self.batches["selection"]))]
        self.asked = set(request["ops"])
        self.linears = {name for name, module in model.named_modules() if name in self.asked}
        if lacking := self.asked - self.linears:
            raise RuntimeError(f"the model has no {min(lacking)}: names have changed on loading")
        self.split = "calibration"
        self.budget, self.written = (
            Budget(request["time_budget"], until_interrupted=True),
            time.monotonic(),
        )
        self.own_seconds = 0.0
        self.batch, self.whole, self.done = -1, 0, 0
        self.hparams: list[Any] = []
        self.before: list[Any] = []
        self.reached: set[str] = set()
        self.stopped_by: str | None = None
        self.bits: list[float] = self.settings.get("effective_bits", [])
        self.budgets: Budgets | None = None
        self.solutions: list[dict[str, Any]] = []

    # What ModelOpt calls.

    def __iter__(self) -> Iterator[Batch]:
        for index, inputs in enumerate(self.batches[self.split]):
            yield index, {name: values.to(self.device) for name, values in inputs.items()}

    def forward_step(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """A calibration pass; when scoring by KL, the logits of the tokens whose loss counts."""
        index, inputs = batch
        if self.split == "calibration":
            model(**inputs)
            return None
        self._next(index)
        return self._predictions(model, index, inputs)[0]

    def forward_backward_step(self, model: nn.Module, batch: Batch) -> None:
        """The mean cross-entropy of a batch's tokens, and its gradients."""
        index, inputs = batch
        self._next(index)
        logits, labels = self._predictions(model, index, inputs)
        cross_entropy(logits.float(), labels).backward()

    def _predictions(
        self, model: nn.Module, index: int, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        logits, labels = model(**inputs).logits, self.labels[index].to(self.device)
        if self.settings["predicts"] == "next-token":
            logits, labels = logits[:, :-1], labels[:, 1:]
        return logits[labels != -100], labels[labels != -100]

    def _next(self, index: int) -> None:
        """Count a pass; keep the sums of the batches before, and stop where time is over."""
        if index != self.batch:
            self.whole, self.batch = self.batch + 1, index
            self.before = [self._importance(h) for h in self.hparams]
        measured = self.whole > 0 or any(self._importance(h) is not None for h in self.hparams)
        # Whatever the budget, something is scored.
        if measured and self.budget.over:
            raise TimeIsOverError
        if self.whole == 0 and measured and time.monotonic() - self.written > WRITE_EVERY_S:
            self.written = time.monotonic()
            self.write(self._scored(), "interrupted")
        progress(min(self.done, self.total), self.total)
        self.done += 1

    @property
    def total(self) -> int:
        """Passes over the selection batches, about."""
        a_batch = 1 if self.settings["method"] == "gradient" else 1 + len(self.hparams)
        return a_batch * len(self.labels)

    # Before, between and after.

    def begin(self, searcher: Any) -> None:
        """Calibration is over: scores are taken from here on, and the first budget is searched for."""
        self.split = "selection"
        unique = {id(h): h for _, h in named_hparams(self.model)}
        every = [h for h in unique.values() if isinstance(h, algorithms.QuantRecipeHparam)]
        self.hparams = [h for h in every if h.is_configurable]
        self.budgets = Budgets(every, self.asked)
        if self.bits:
            searcher.constraints = searcher.constraints | {
                "effective_bits": self.budgets.restated(self.bits[0])
            }
        for name in self.linears:
            self.model.get_submodule(name).register_forward_hook(
                lambda _m, _a, _o, name=name: self.reached.add(name)
            )

    def stop(self) -> None:
        """Forget what was added for the batch that is not whole, unless there is no other."""
        self.stopped_by = "time budget"
        if self.whole > 0 and self.settings["method"] == "kl_div":
            for hparam, value in zip(self.hparams, self.before, strict=True):
                sums = hparam._importance_dict[_quantized(hparam)]
                sums[hparam.score_modules[0]] = torch.tensor(value)

    def run(self) -> None:
        """Have ModelOpt score, and write what it found."""
        method = self.settings["method"]
        with steered(self, SEARCHERS[method]):
            start = time.perf_counter()
            _, state = mtq.auto_quantize(
                self.model,
                constraints={"effective_bits": NO_CONSTRAINT},
                quantization_formats=[getattr(mtq, self.settings["preset"])],
                data_loader=self,
                forward_step=self.forward_step,
                forward_backward_step=self.forward_backward_step if method == "gradient" else None,
                disabled_layers=self._disabled(),
                num_calib_steps=len(self.batches["calibration"]),
                num_score_steps=len(self.batches["selection"]),
                verbose=False,
                method=method,
            )
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.own_seconds = time.perf_counter() - start
        if self.stopped_by is None:
            self.whole = len(self.labels)
        scored = {tuple(names) for names, _ in self._scored()}
        stats = state["candidate_stats"].values()
        found = [
            (list(s["module_names"]), _score(s))
            for s in stats
            if tuple(s["module_names"]) in scored
        ]
        assert self.budgets is not None
        self.solutions = self.budgets.solutions(state, self.bits)
        progress(self.total, self.total)
        self.write(found, self.stopped_by)

    def _disabled(self) -> list[str]:
        return [
            name
            for name, module in self.model.named_modules()
            if name and not list(module.children()) and name not in self.asked
        ]

    def _importance(self, hparam: Any) -> float | None:
        sums = hparam._importance_dict[_quantized(hparam)].values()
        known = [float(value) for value in sums if value is not None]
        return sum(known) if known else None

    def _scored(self) -> list[Shared]:
        """Groups with a score, as `candidate_stats` will have them."""
        return [
            (list(h.quant_module_names), float(h.get_score(_quantized(h))))
            for h in self.hparams
            if self._importance(h) is not None
        ]

    def write(self, found: list[Shared], stopped_by: str | None) -> None:
        """Write the result: a group's score goes to its ops in equal parts."""
        shared = [([op for op in ops if op in self.reached], score) for ops, score in found]
        parts = {op: (score, len(ops)) for ops, score in shared for op in ops}
        known = {name for h in self.hparams for name in h.quant_module_names}
        missing = {
            op: "no sample reaches it" if op in known else "ModelOpt does not quantize its type"
            for op in self.asked
            if op not in parts and (op not in known or op not in self.reached)
        }
        cuda = self.device.type == "cuda"
        write_result(
            {
                "scores": {op: score / ops for op, (score, ops) in parts.items()},
                "raw": {
                    op: {"group_score": score, "group_ops": ops}
                    for op, (score, ops) in parts.items()
                },
                "missing": missing,
                "settings": self.settings
                | {
                    "batches_scored": max(self.whole, 1),
                    "tokens_scored": sum(
                        int((labels != -100).sum()) for labels in self.labels[: max(self.whole, 1)]
                    ),
                    "device": str(self.device),
                    "threads": torch.get_num_threads(),
                },
                "groups": [ops for ops, _ in shared if ops],
                "solutions": self.solutions,
                "weights": self.budgets.weights if self.budgets else None,
                "weights_counted": self.budgets.whole if self.budgets else None,
                "versions": versions("nvidia-modelopt", "torch", "transformers"),
                "own_seconds": self.own_seconds,
                **usage(),
                "peak_cuda_bytes": torch.cuda.max_memory_allocated() if cuda else None,
                "stopped_by": stopped_by,
            }
        )


@contextmanager
def steered(scan: Scan, searcher: Any) -> Iterator[None]:
    """Tell the scan when scoring begins, and have ModelOpt form no group of ops not all asked for."""
    scoring, rules = searcher.estimate_sensitivity_scores, searcher.quant_grouping_rules
    groups = _groups(scan, [] if scan.settings["groups"] == "single" else rules)

    def estimate(self: Any) -> None:
        scan.begin(self)
        try:
            scoring(self)
        except TimeIsOverError:
            scan.stop()

    searcher.estimate_sensitivity_scores = estimate
    searcher.quant_grouping_rules = [lambda _model, name: groups.get(name, name)]
    try:
        yield
    finally:
        searcher.estimate_sensitivity_scores = scoring
        searcher.quant_grouping_rules = rules


def _groups(scan: Scan, rules: list[str | Callable[..., str | None]]) -> dict[str, str]:
    """For each op its group by ModelOpt's rules; an op whose group is not asked for whole is alone."""
    members: dict[str, list[str]] = {}
    for name, module in scan.model.named_modules():
        if isinstance(module, nn.Linear):
            members.setdefault(_key(scan.model, name, rules), []).append(name)
    return {n: key for key, names in members.items() if scan.asked >= set(names) for n in names}


def _key(model: nn.Module, name: str, rules: list[str | Callable[..., str | None]]) -> str:
    for rule in rules:
        if callable(rule):
            found = rule(model, name)
        else:
            match = re.match(rule, name)
            found = match[1] if match else None
        if found is not None:
            return str(found)
    return name


def _quantized(hparam: Any) -> Any:
    """The one format of a group that is not high precision."""
    none = algorithms.QuantRecipe(quant_cfg=None)
    (recipe,) = [choice for choice in hparam.choices if choice != none]
    return recipe


def _score(stats: dict[str, Any]) -> float:
    none = algorithms.QuantRecipe(quant_cfg=None)
    pairs = zip(stats["formats"], stats["scores"], strict=True)
    (score,) = [float(score) for recipe, score in pairs if recipe != none]
    return score


if __name__ == "__main__":
    main()
