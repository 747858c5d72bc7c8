"""Intel Neural Compressor 3.7: static PTQ with a fixed assignment, and its saved models run again.

``mode`` ``quantize`` calibrates, converts and writes ``saved/best_model.pt``; ``mode`` ``run`` loads such
a file, a pickle, by its tensors alone into a model made from the configuration beside it. Both write what
the model predicts for the probe batches into ``found.safetensors`` (``probe.N``).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from _exchange import (
    load_model,
    model_batches,
    progress,
    read_request,
    read_tensors,
    usage,
    versions,
    write_result,
)
from safetensors.torch import save_file

FLOAT = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
INT8 = {
    "weight": {
        "dtype": ["int8"],
        "scheme": ["sym"],
        "granularity": ["per_channel"],
        "algorithm": ["minmax"],
    },
    "activation": {
        "dtype": ["uint8"],
        "scheme": ["asym"],
        "granularity": ["per_tensor"],
        "algorithm": ["minmax"],
    },
}


class Batches:
    """What INC iterates over: pairs of inputs and a label nobody reads."""

    batch_size = 1

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self._batches = batches

    def __iter__(self) -> Any:
        return iter([(batch, 0) for batch in self._batches])

    def __len__(self) -> int:
        return len(self._batches)


def main() -> None:
    """Quantize or run, as the request says."""
    warnings.filterwarnings("ignore")
    request = read_request()
    torch.manual_seed(request["seed"])
    # The x86 engine needs a bit of every activation on processors without VNNI.
    torch.backends.quantized.engine = "x86" if request["reduce_range"] else "qnnpack"
    import neural_compressor.adaptor.pytorch as adaptor

    adaptor.REDUCE_RANGE = request["reduce_range"]
    tensors = read_tensors()
    probes = model_batches("probe", request["probe"], tensors)
    quantized: list[str] = []
    if request["mode"] == "quantize":
        calibration = model_batches("calibration", request["calibration"], tensors)
        quantized = _quantize(request, calibration)
        progress(1, 2)
    model = _load(request)
    found = {}
    with torch.no_grad():
        for index, batch in enumerate(probes):
            found[f"probe.{index}"] = model(**batch).logits.float().contiguous()
    save_file(found, "found.safetensors")
    progress(2, 2)
    write_result(
        {
            "quantized": quantized,
            "settings": {
                "reduce_range": request["reduce_range"],
                "engine": torch.backends.quantized.engine,
            },
            "versions": versions("neural-compressor", "torch", "transformers"),
            **usage(),
        }
    )


def _quantize(request: dict[str, Any], batches: list[dict[str, Any]]) -> list[str]:
    """Convert and save; returns the Linears that INC quantized."""
    from neural_compressor import PostTrainingQuantConfig, quantization

    model = load_model(request)
    model.set_attn_implementation("eager")
    model.config.use_cache = False
    planned = set(request["ops"])
    linears = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    # INC goes per sub-module where a model as a whole cannot be traced; ops end in .module then.
    rules = {
        name.replace(".", r"\.") + r"(\.module)?": INT8 if name in planned else FLOAT
        for name in linears
    }
    kinds = {
        type(m).__name__
        for m in model.modules()
        if isinstance(m, torch.nn.Embedding | torch.nn.Conv2d | torch.nn.Conv3d)
    }
    made = quantization.fit(
        model,
        PostTrainingQuantConfig(
            approach="static",
            quant_level=1,
            op_name_dict=rules,
            op_type_dict=dict.fromkeys(sorted(kinds), FLOAT),
        ),
        calib_dataloader=Batches(batches),
    )
    if made is None:
        raise RuntimeError("INC quantized nothing")
    made.save("saved")
    return sorted(
        name.removesuffix(".module")
        for (name, _), how in made.q_config["op"].items()
        if how["weight"]["dtype"] == "int8"
    )


def _load(request: dict[str, Any]) -> Any:
    """The saved model: INC's own loader puts its state into an untouched model."""
    import transformers
    from neural_compressor.utils.pytorch import load

    directory = Path(request["saved"])
    config = transformers.AutoConfig.from_pretrained(request["model"])
    config.use_cache = False
    config._attn_implementation = "eager"
    model = getattr(transformers, request["class"])(config).eval()
    # A pickle, of which nothing but tensors and plain containers is made.
    state = torch.load(directory / "best_model.pt", weights_only=True)
    return load(state, model)


if __name__ == "__main__":
    main()
