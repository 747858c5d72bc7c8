"""Per-op numbers of INC 3.7's own MSE_V2, from its own code. Runs in INC's environment only.

INC's `calculate_op_sensitivity` returns the order of the ops and drops the numbers it was made from.
They are read at full precision where INC sorts them. An op's score is the squared error with all
candidates in int8 less that with the op restored.

With `fast`, only the sub-graph that holds an op is prepared and converted again, by INC's own
`prepare_sub_graph` and `convert_sub_graph`; INC itself does all of them for each op. Static observers watch
the float32 model, so that what they see does not depend on which ops are int8, and the numbers are the same.
"""

from __future__ import annotations

import builtins
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from _exchange import (
    Budget,
    batches_of,
    progress,
    read_request,
    read_tensors,
    usage,
    versions,
    write_result,
)
from _inc import (
    FLOAT32,
    Batch,
    Loader,
    OpKey,
    forget_devices,
    load_average,
    load_float32,
    make_adaptor,
    op_name,
    set_numerics,
    tuning_config,
)
from torch import Tensor, nn

Scores = dict[OpKey, float]

FAST_FROM = 32
"""Ops times batches from which `auto` takes the fast path."""

WRITE_EVERY_S = 5.0


def main() -> None:
    """Score as the request says; Ctrl-C leaves what was measured."""
    request = read_request()
    settings = request["settings"]
    batches = batches_of(read_tensors(), "selection")
    torch.manual_seed(request["seed"])
    told = set_numerics(settings)
    model = load_float32(request)
    adaptor = make_adaptor(request["seed"])
    from neural_compressor import PostTrainingQuantConfig
    from neural_compressor.model import Model

    inc_model = Model(model, conf=PostTrainingQuantConfig(approach="static"))
    tuning, missing = tuning_config(
        adaptor.query_fw_capability(inc_model), set(request["ops"]), settings["observer"]
    )
    count = sum(config is not FLOAT32 for config in tuning["op"].values())
    fast = settings["fast"] == "true" or (
        settings["fast"] == "auto"
        and (count * len(batches) >= FAST_FROM or request["time_budget"] is not None)
    )
    run = Run(request, told | {"fast": fast, "ops_in_int8": count}, missing, adaptor)
    try:
        if count:
            (run.fast if fast else run.slow)(model, inc_model, tuning, batches)
        else:
            run.write()
    except KeyboardInterrupt:
        if run.batches:
            run.write("interrupted")


class Run:
    """One scoring: what is known of each op so far, and the result it makes."""

    def __init__(
        self,
        request: dict[str, Any],
        settings: dict[str, Any],
        missing: dict[str, str],
        adaptor: Any,
    ) -> None:
        self.request, self.settings, self.missing, self.adaptor = (
            request,
            settings,
            missing,
            adaptor,
        )
        self.samples = 0
        self.everything: list[float] = []
        self.batches: list[Scores] = []
        self.checked: list[Scores] = []
        self.order: list[str] = []
        self.own_seconds: float | None = None
        self.budget = Budget(request["time_budget"])
        self.start, self.load_before = time.perf_counter(), load_average()

    def write(self, stopped_by: str | None = None) -> None:
        """The result so far. Scores are over the batches on which every scored op was measured."""
        common = set.intersection(*map(set, self.batches)) if self.batches else set()
        if len(self.batches) > 1 and len(self.batches[-1]) < len(self.batches[0]):
            # The last batch is unfinished: scores of different batches would not compare.
            whole = self.batches[:-1]
            common = set.intersection(*map(set, whole))
        else:
            whole = self.batches
        residual = {key: sum(batch[key] for batch in whole) for key in common}
        everything = sum(self.everything[: len(whole)])
        write_result(
            {
                "scores": {
                    op_name(k): (everything - v) / self.samples for k, v in residual.items()
                },
                "raw": {
                    op_name(k): {"residual_sse": v, "everything_sse": everything}
                    for k, v in residual.items()
                },
                "missing": self.missing,
                "settings": self.settings | {"batches_scored": len(whole)},
                "notes": [] if not self.settings["fast"] else [FAST_NOTE],
                "versions": versions("neural-compressor", "torch", "transformers"),
                "seconds": time.perf_counter() - self.start,
                "own_seconds": self.own_seconds,
                "peak_bytes": usage()["peak_bytes"],
                "stopped_by": stopped_by,
                "batches": [{op_name(k): v for k, v in scores.items()} for scores in self.batches],
                "double_checked": [{op_name(k): v for k, v in s.items()} for s in self.checked],
                "order": self.order,
                "sub_graphs": list(self.adaptor.sub_module_list or []),
                "load_average": {"before": self.load_before, "after": load_average()},
            }
        )

    def slow(
        self, model: nn.Module, inc_model: Any, tuning: dict[str, Any], batches: list[Batch]
    ) -> None:
        """INC's own loop, as it is."""
        import neural_compressor.adaptor.torch_utils.util as inc_util

        start = time.perf_counter()
        with captured_scores(inc_util) as captured:
            order = self.adaptor.calculate_op_sensitivity(
                inc_model, Loader(batches), copy.deepcopy(tuning), None, len(batches), fallback=True
            )
        self.own_seconds = time.perf_counter() - start
        self.order = [op_name(key) for key in order]
        self.batches = [scores for scores, _ in captured]
        self.checked = [checked for _, checked in captured if checked]
        self.samples = sum(len(next(iter(batch.values()))) for batch in batches)
        parts = SubGraphs(self.adaptor, model, tuning)
        for batch in batches:
            self.everything.append(parts.all_int8(batch)[0])
        self.write()

    def fast(
        self, model: nn.Module, _inc_model: Any, tuning: dict[str, Any], batches: list[Batch]
    ) -> None:
        """INC's preparation and conversion of the op's own sub-graph alone."""
        parts = SubGraphs(self.adaptor, model, tuning)
        written = time.monotonic()
        total, done = len(parts.quantized) * len(batches), 0
        for batch in batches:
            self.samples += len(next(iter(batch.values())))
            everything, restored = parts.all_int8(batch)
            self.everything.append(everything)
            self.batches.append({})
            for key in parts.quantized:
                self.batches[-1][key] = restored(key)
                done += 1
                progress(done, total)
                # Whatever the budget, one op is scored.
                if self.budget.over and done < total:
                    self._forget_unfinished(len(next(iter(batch.values()))), len(parts.quantized))
                    return self.write("time budget")
                if (
                    len(self.batches) == 1
                    and parts.reached
                    and time.monotonic() - written > WRITE_EVERY_S
                ):
                    self.write("interrupted")
                    written = time.monotonic()
        self._leave_out_unreached(parts)
        return self.write()

    def _leave_out_unreached(self, parts: SubGraphs) -> None:
        if not parts.names:
            return
        for key in set(parts.quantized) - parts.reached:
            self.missing[op_name(key)] = "the selection data never reaches it"
            for scores in self.batches:
                scores.pop(key, None)

    def _forget_unfinished(self, samples: int, wanted: int) -> None:
        if len(self.batches) > 1 and len(self.batches[-1]) < wanted:
            self.samples -= samples
            del self.batches[-1], self.everything[-1]


FAST_NOTE = (
    "fast path: only the sub-graph that holds an op is prepared and converted again, by INC's own functions; "
    "INC converts all of them for each op, with the same numbers"
)


class SubGraphs:
    """INC's sub-graphs of a model, converted to int8 all together or one of them again."""

    def __init__(self, adaptor: Any, model: nn.Module, tuning: dict[str, Any]) -> None:
        from neural_compressor.adaptor.pytorch import _cfg_to_qconfig

        self.adaptor, self.model = adaptor, model
        self.approach = tuning["approach"]
        self.names = list(adaptor.sub_module_list or [])
        self.configs = _cfg_to_qconfig(tuning, self.approach)
        self.configs.pop("bf16_ops_list", None)
        self.head = next(reversed(tuning["op"]))[0].removesuffix(".module")
        self.quantized = [key for key, config in tuning["op"].items() if config is not FLOAT32]
        self.reached: set[OpKey] = set()

    def all_int8(self, batch: Batch) -> tuple[float, Callable[[OpKey], float]]:
        """Squared error with all candidates in int8, and a function for it with one op restored."""
        from neural_compressor.adaptor.torch_utils.util import simple_inference

        inputs: dict[str, Any] = {}
        homes = {self._home(key[0]) for key in self.quantized} if self.names else set()
        handles = [
            self.model.get_submodule(name).register_forward_pre_hook(
                lambda _m, args, kwargs, name=name: inputs.__setitem__(name, (args, kwargs)),
                with_kwargs=True,
            )
            for name in homes
        ]
        reference = self._scored(self.model, batch)
        for handle in handles:
            handle.remove()
        converted = copy.deepcopy(self.model)
        if not self.names:
            return self._whole(batch, reference)
        self._prepare(self.names, self.configs, converted, "")
        simple_inference(converted, batch)
        self._convert(self.names, converted, "")

        everything: list[float] = []

        def restored(key: OpKey) -> float:
            home = self._home(key[0])
            if home not in inputs:
                # The batch never runs it (a vision tower without pictures): restoring it changes nothing.
                return everything[0]
            self.reached.add(key)
            prefix, _, leaf = home.rpartition(".")
            configs = {**self.configs, key[0]: None}
            shell = nn.Module()
            setattr(shell, leaf, copy.deepcopy(self.model.get_submodule(home)))
            self._prepare([home], configs, shell, prefix)
            args, kwargs = inputs[home]
            with torch.no_grad():
                getattr(shell, leaf)(*args, **kwargs)
            self._convert([home], shell, prefix)
            parent = converted.get_submodule(prefix) if prefix else converted
            before = getattr(parent, leaf)
            setattr(parent, leaf, getattr(shell, leaf))
            try:
                return self._error(converted, batch, reference)
            finally:
                setattr(parent, leaf, before)
                forget_devices()

        everything.append(self._error(converted, batch, reference))
        return everything[0], restored

    def _whole(self, batch: Batch, reference: Tensor) -> tuple[float, Callable[[OpKey], float]]:
        """A model that INC traces as a whole has no sub-graphs: it is converted whole."""
        from neural_compressor.adaptor.pytorch import _cfgs_to_fx_cfgs
        from neural_compressor.adaptor.torch_utils.util import simple_inference
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        def error(configs: dict[str, Any]) -> float:
            made = copy.deepcopy(self.model)
            prepared = prepare_fx(
                made, _cfgs_to_fx_cfgs(configs, self.approach), example_inputs=tuple(batch.values())
            )
            simple_inference(prepared, batch)
            found = self._error(convert_fx(prepared), batch, reference)
            forget_devices()
            return found

        return error(self.configs), lambda key: error({**self.configs, key[0]: None})

    def _home(self, op: str) -> str:
        return next(name for name in self.names if op == name or op.startswith(f"{name}."))

    def _prepare(
        self, names: list[str], configs: dict[str, Any], module: nn.Module, prefix: str
    ) -> None:
        from neural_compressor.adaptor.pytorch import _cfgs_to_fx_cfgs

        fx = _cfgs_to_fx_cfgs(configs, self.approach)
        type(self.adaptor).prepare_sub_graph(names, fx, module, prefix=prefix)

    def _convert(self, names: list[str], module: nn.Module, prefix: str) -> None:
        type(self.adaptor).convert_sub_graph(names, module, prefix=prefix)

    def _error(self, model: nn.Module, batch: Batch, reference: Tensor) -> float:
        return float((reference - self._scored(model, batch)).pow(2).sum())

    def _scored(self, model: nn.Module, batch: Batch) -> Tensor:
        """Output of the head."""
        from neural_compressor.adaptor.torch_utils.util import simple_inference

        box: list[Tensor] = []
        handle = model.get_submodule(self.head).register_forward_hook(
            lambda _m, _a, output: box.append(output)
        )
        simple_inference(model, batch)
        handle.remove()
        return box[0]


@contextmanager
def captured_scores(inc_util: Any) -> Iterator[list[list[Scores]]]:
    """Collect, for each batch, the scores INC sorts: of all ops, then of those it checks twice."""
    batches: list[list[Scores]] = []
    order_of_batch, inference = inc_util.get_mse_order_per_fp32, inc_util.simple_inference

    def new_batch(*args: Any) -> Any:
        batches.append([])
        order = order_of_batch(*args)
        batches[-1] += [{}] * (2 - len(batches[-1]))
        return order

    def keep(keys: Any, *, key: Any, reverse: bool = False) -> Any:
        keys = list(keys)
        values = {k: key(k) for k in keys}
        # INC sorts the ranks summed over batches in the same module; those are integers.
        if all(isinstance(v, Tensor) for v in values.values()):
            batches[-1].append({k: v.item() for k, v in values.items()})
        return builtins.sorted(keys, key=key, reverse=reverse)

    def forget(*args: Any) -> Any:
        forget_devices()
        return inference(*args)

    inc_util.get_mse_order_per_fp32 = new_batch
    inc_util.simple_inference = forget
    inc_util.sorted = keep
    try:
        yield batches
    finally:
        inc_util.get_mse_order_per_fp32 = order_of_batch
        inc_util.simple_inference = inference
        del inc_util.sorted


if __name__ == "__main__":
    main()
