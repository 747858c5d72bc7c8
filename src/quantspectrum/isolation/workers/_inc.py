"""What the workers of INC 3.7 share: the model, an adaptor without a tuning strategy, INC's names.

Runs in INC's environment only.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from _exchange import load_model
from torch import Tensor, nn
from torch.ao.quantization.fx.utils import assert_and_get_unique_device

Batch = dict[str, Tensor]
OpKey = tuple[str, str]

FLOAT32 = {"activation": {"dtype": "fp32"}, "weight": {"dtype": "fp32"}}
SUB_GRAPH_SUFFIX = ".module"
"""INC wraps a Linear it cannot trace with its parent and then calls it `<name>.module`."""


def load_float32(request: dict[str, Any], attention: str | None = None) -> nn.Module:
    """The model in float32, the only type INC's int8 runs from, without a cache."""
    model: nn.Module = load_model(request, dtype="float32", attention=attention)
    # The key-value cache of a scored forward pass is of no use.
    model.config.get_text_config().use_cache = False
    return model


def targets_of(tensors: dict[str, Tensor], split: str) -> list[Tensor]:
    """Which tokens' loss counts, batch by batch."""
    found = {
        int(k.split(".")[1]): v
        for k, v in tensors.items()
        if k.startswith(f"{split}.") and k.endswith(".target")
    }
    return [found[index] for index in sorted(found)]


class Loader:
    """What INC takes for a data loader: pairs of inputs and a label, and the batch size."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.batch_size = len(next(iter(batches[0].values())))

    def __iter__(self) -> Iterator[tuple[Batch, None]]:
        return ((batch, None) for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def set_numerics(settings: dict[str, Any]) -> dict[str, Any]:
    """Set engine and bits of activations; returns what they were set to.

    INC takes 7 bits for activations where the host's CPU lacks VNNI (``reduce_range``).
    """
    import neural_compressor.adaptor.pytorch as inc_pytorch

    host = bool(inc_pytorch.REDUCE_RANGE)
    asked = settings["reduce_range"]
    inc_pytorch.REDUCE_RANGE = host if asked == "host" else asked == "true"
    torch.backends.quantized.engine = settings["engine"]
    return {
        "reduce_range": bool(inc_pytorch.REDUCE_RANGE),
        "reduce_range_of_host": host,
        "engine": settings["engine"],
        "observer": settings["observer"],
        "threads": torch.get_num_threads(),
    }


def make_adaptor(seed: int) -> Any:
    """INC's FX adaptor, built from a plain dictionary: no strategy, no accuracy criterion."""
    import neural_compressor.adaptor.torch_utils.util as inc_util
    from neural_compressor.adaptor.pytorch import PyTorch_FXAdaptor

    # A cache that INC fills on first use and never empties.
    inc_util.op_cfg_mapping.clear()
    return PyTorch_FXAdaptor(
        {
            "device": "cpu",
            "approach": "post_training_static_quant",
            "random_seed": seed,
            "q_dataloader": None,
            "workspace_path": "nc_workspace",
            "use_bf16": False,
            "backend": "default",
        }
    )


def tuning_config(
    capability: dict[str, Any], wanted: set[str], observer: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """INC's first int8 configuration for every op that is wanted, the rest in float32.

    The output head is last: INC scores at the output of the last op.

    Returns:
        The configuration, and why wanted ops are not in it.
    """
    ops: OrderedDict[OpKey, dict[str, Any]] = OrderedDict()
    linears = [key for key in capability["opwise"] if key[1] == "Linear"]
    head = next((key for key in linears if op_name(key).endswith("lm_head")), linears[-1])
    for key, configs in capability["opwise"].items():
        int8 = [
            c for c in configs if c.get("weight", {}).get("dtype") not in (None, "fp32", ["fp32"])
        ]
        if op_name(key) in wanted and key != head and int8:
            ops[key] = {part: first_choices(int8[0][part]) for part in ("activation", "weight")}
            ops[key]["activation"]["algorithm"] = observer
        else:
            ops[key] = FLOAT32
    ops.move_to_end(head)
    known = {op_name(key) for key in capability["opwise"]}
    quantized = {op_name(key) for key, config in ops.items() if config is not FLOAT32}
    missing = {
        name: "INC's capability has no int8 for it" if name in known else "INC does not list it"
        for name in wanted - quantized
    }
    if op_name(head) in missing:
        missing[op_name(head)] = "INC scores at the output of the last op, the head, in float32"
    config = {
        "op": ops,
        "approach": "post_training_static_quant",
        "calib_iteration": 1,
        "calib_sampling_size": 1,
        "recipe_cfgs": {},
    }
    return config, missing


def first_choices(options: dict[str, Any]) -> dict[str, Any]:
    """Of each setting the first that INC lists."""
    return {k: v[0] if isinstance(v, list) else v for k, v in options.items()}


def op_name(key: OpKey) -> str:
    """Name of an op as the model has it."""
    return key[0].removesuffix(SUB_GRAPH_SUFFIX)


def forget_devices() -> None:
    """Empty a cache of torch.ao that would keep a copy of the model for every op."""
    assert_and_get_unique_device.cache_clear()


def load_average() -> list[float]:
    """Load of the machine, for the record of a time."""
    return list(os.getloadavg())
