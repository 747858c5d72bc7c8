"""Intel Neural Compressor 3.7: static PTQ with a fixed assignment, and its saved models run again.

``mode`` ``quantize`` calibrates, converts and writes ``saved/best_model.pt``; ``mode`` ``run`` loads such
a file, a pickle, by its tensors alone into a model made from the configuration beside it. Both write what
the model predicts for the probe batches into ``found.safetensors`` (``probe.N``), and ``quantize`` also
what each op gets and gives when it first runs, dequantized (``input.OP``, ``output.OP``); the result's
``grids`` has their scales and zero points.
"""

from __future__ import annotations

import warnings
from pathlib import Path
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
from _inc import Batch, Loader, load_float32
from safetensors.torch import save_file


def main() -> None:
    """Quantize or run, as the request says."""
    warnings.filterwarnings("ignore")
    request = read_request()
    torch.manual_seed(request["seed"])
    # The x86 engine needs a bit of every activation on processors without VNNI.
    reduce_range = request["config"]["reduce_range"]
    torch.backends.quantized.engine = "x86" if reduce_range else "qnnpack"
    import neural_compressor.adaptor.pytorch as adaptor

    adaptor.REDUCE_RANGE = reduce_range
    tensors = read_tensors()
    probes = batches_of(tensors, "probe")
    quantized: list[str] = []
    if request["mode"] == "quantize":
        calibration = batches_of(tensors, "calibration")
        quantized = _quantize(request, calibration)
        progress(1, 2)
    model = _load(request)
    found: dict[str, torch.Tensor] = {}
    grids: dict[str, list[float]] = {}
    _watch(model, quantized, found, grids)
    with torch.no_grad():
        for index, batch in enumerate(probes):
            found[f"probe.{index}"] = model(**batch).logits.float().contiguous()
    save_file(found, "found.safetensors")
    progress(2, 2)
    write_result(
        {
            "quantized": quantized,
            "grids": grids,
            "settings": {
                "reduce_range": reduce_range,
                "engine": torch.backends.quantized.engine,
            },
            "versions": versions("neural-compressor", "torch", "transformers"),
            **usage(),
        }
    )


def _quantize(request: dict[str, Any], batches: list[Batch]) -> list[str]:
    """Convert and save; returns the Linears that INC quantized."""
    from neural_compressor import PostTrainingQuantConfig, quantization

    model = load_float32(request, attention="eager")
    made = quantization.fit(
        model, PostTrainingQuantConfig(**request["config"]), calib_dataloader=Loader(batches)
    )
    if made is None:
        raise RuntimeError("INC quantized nothing")
    made.save("saved")
    return sorted(
        name.removesuffix(".module")
        for (name, _), how in made.q_config["op"].items()
        if how["weight"]["dtype"] == "int8"
    )


def _watch(
    model: Any, ops: list[str], found: dict[str, torch.Tensor], grids: dict[str, list[float]]
) -> None:
    """Note what each op gets and gives when it first runs: values, scales and zero points."""
    modules = dict(model.named_modules())

    def hook(op: str) -> Any:
        def note(_module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            both = (inputs[0], output)
            if op in grids or not all(one.is_quantized for one in both):
                return
            for what, one in zip(("input", "output"), both, strict=True):
                found[f"{what}.{op}"] = one.dequantize().contiguous()
            grids[op] = [v for one in both for v in (one.q_scale(), one.q_zero_point())]

        return note

    for op in ops:
        # INC gives what it cannot trace with its parent a wrapper, with the product inside.
        for name in (op, f"{op}.module"):
            if name in modules:
                modules[name].register_forward_hook(hook(op))


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
