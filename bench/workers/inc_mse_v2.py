"""Per-op numbers of INC 3.7's own MSE_V2, from its own code. Runs in INC's environment only.

    python inc_mse_v2.py --model DIR --inputs FILE.safetensors --out FILE.json

The inputs file holds the tensors of each batch as `<index>.<name>` (`0.input_ids`, ...). See
`bench/requirements/inc.txt` for the environment. Nothing of quantspectrum is imported.

INC's `calculate_op_sensitivity` returns the order of the ops and drops the numbers it was made
from. They are read at full precision where INC sorts them. Every Linear is a candidate but the
output head, which stays in float32 and whose output is scored: INC scores the last op of the
tuning configuration.
"""

from __future__ import annotations

import argparse
import builtins
import json
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.ao.quantization.fx.utils import assert_and_get_unique_device

Batch = dict[str, Tensor]
OpKey = tuple[str, str]
Scores = dict[OpKey, float]

FLOAT32 = {"activation": {"dtype": "fp32"}, "weight": {"dtype": "fp32"}}
SUB_GRAPH_SUFFIX = ".module"
"""INC wraps a Linear it cannot trace with its parent and then calls it `<name>.module`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--observer", choices=["minmax", "kl"], default="minmax")
    parser.add_argument("--engine", choices=["qnnpack", "x86", "fbgemm"], default="qnnpack")
    parser.add_argument("--reduce-range", action="store_true")
    args = parser.parse_args()
    model = load_model(args.model)
    batches = load_batches(args.inputs)
    result = measure(model, batches, args.observer, args.engine, args.reduce_range)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def load_model(directory: Path) -> nn.Module:
    """The saved model in float32 and evaluation mode."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    vision = AutoConfig.from_pretrained(directory).model_type == "qwen2_5_vl"
    auto = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    model = auto.from_pretrained(directory, dtype=torch.float32, use_safetensors=True)
    # The key-value cache of a scored forward pass is of no use.
    model.config.get_text_config().use_cache = False
    return model.eval()


def load_batches(file: Path) -> list[Batch]:
    batches: dict[int, Batch] = {}
    for key, values in load_file(file).items():
        index, _, name = key.partition(".")
        batches.setdefault(int(index), {})[name] = values
    return [batches[index] for index in sorted(batches)]


def measure(
    model: nn.Module, batches: list[Batch], observer: str, engine: str, reduce_range: bool
) -> dict[str, Any]:
    """Run INC on all batches and describe what it did."""
    import neural_compressor.adaptor.pytorch as inc_pytorch
    import neural_compressor.adaptor.torch_utils.util as inc_util
    from neural_compressor import PostTrainingQuantConfig
    from neural_compressor.model import Model

    torch.manual_seed(0)
    # INC takes 7 bits for activations where the host's CPU lacks VNNI; here the caller decides.
    inc_pytorch.REDUCE_RANGE = reduce_range
    torch.backends.quantized.engine = engine
    # A cache that INC fills on first use and never empties.
    inc_util.op_cfg_mapping.clear()
    adaptor = inc_pytorch.PyTorch_FXAdaptor(
        {
            "device": "cpu",
            "approach": "post_training_static_quant",
            "random_seed": 0,
            "q_dataloader": None,
            "workspace_path": "nc_workspace",
            "use_bf16": False,
            "backend": "default",
        }
    )
    inc_model = Model(model, conf=PostTrainingQuantConfig(approach="static"))
    start = time.perf_counter()
    tuning = tuning_config(adaptor.query_fw_capability(inc_model), observer)
    query_s = time.perf_counter() - start
    load_before = os.getloadavg()
    start = time.perf_counter()
    with captured_scores(inc_util) as captured:
        order = adaptor.calculate_op_sensitivity(
            inc_model, Loader(batches), tuning, None, len(batches), fallback=True
        )
    seconds = time.perf_counter() - start
    return {
        "tool": "INC calculate_op_sensitivity",
        "observer": observer,
        "engine": engine,
        "reduce_range": reduce_range,
        "versions": {p: version(p) for p in ("neural-compressor", "torch", "transformers")},
        "threads": torch.get_num_threads(),
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "sub_graphs": adaptor.sub_module_list,
        "query_s": query_s,
        "seconds": seconds,
        "order": [op_name(key) for key in order],
        "batches": [
            {
                "residual_sse": named(scores),
                "double_checked": named(checked) if checked else None,
            }
            for scores, checked in captured
        ],
    }


def tuning_config(capability: dict[str, Any], observer: str) -> dict[str, Any]:
    """INC's first int8 configuration for every Linear, the output head and the rest in float32."""
    ops: OrderedDict[OpKey, dict[str, Any]] = OrderedDict()
    *_, head = (key for key in capability["opwise"] if key[1] == "Linear")
    for key, configs in capability["opwise"].items():
        if key[1] == "Linear" and key != head:
            ops[key] = {part: first_choices(configs[0][part]) for part in ("activation", "weight")}
            ops[key]["activation"]["algorithm"] = observer
        else:
            ops[key] = FLOAT32
    ops.move_to_end(head)
    return {
        "op": ops,
        "approach": "post_training_static_quant",
        "calib_iteration": 1,
        "calib_sampling_size": 1,
        "recipe_cfgs": {},
    }


def first_choices(options: dict[str, Any]) -> dict[str, Any]:
    return {k: v[0] if isinstance(v, list) else v for k, v in options.items()}


class Loader:
    """What INC takes for a data loader: pairs of inputs and a label, and the batch size."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.batch_size = len(next(iter(batches[0].values())))

    def __iter__(self) -> Iterator[tuple[Batch, None]]:
        return ((batch, None) for batch in self.batches)


@contextmanager
def captured_scores(inc_util: Any) -> Iterator[list[list[Scores]]]:
    """Collect, for each batch, the scores INC sorts: of all ops, then of those it checks twice.

    Every op would also leave a copy of the model in a cache of torch.ao, which is emptied here.
    """
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
        assert_and_get_unique_device.cache_clear()
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


def named(scores: Scores) -> dict[str, float]:
    return {op_name(key): value for key, value in scores.items()}


def op_name(key: OpKey) -> str:
    return key[0].removesuffix(SUB_GRAPH_SUFFIX)


if __name__ == "__main__":
    main()
