"""NVIDIA ModelOpt: calibrate exactly the ops of the request, and export FP8.

Writes ``found.safetensors``: the largest input (``OP.input_amax``) and weight (``OP.weight_amax``) of
each op, and what the model that ModelOpt quantized predicts for the probe batches (``probe.N``). Its
Hugging Face export goes to ``export/``, for FP8 alone: nothing loads the INT8 one, in whose place
codes and scales of the quantized ops are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from _exchange import (
    batches_of,
    load_model,
    progress,
    read_request,
    read_tensors,
    usage,
    versions,
    write_result,
)
from safetensors.torch import save_file

QUANTIZERS = {
    "int8": ({"num_bits": 8, "axis": 0}, {"num_bits": 8, "axis": None}),
    "fp8": (
        {"num_bits": (4, 3), "axis": 0},
        {"num_bits": (4, 3), "axis": None, "type": "dynamic", "block_sizes": {-1: None}},
    ),
}
"""Weight and input quantizers, as in INT8_DEFAULT_CFG and FP8_PER_CHANNEL_PER_TOKEN_CFG."""


def main() -> None:
    """Quantize, tell the ranges, and export what something loads."""
    request = read_request()
    torch.manual_seed(request["seed"])
    model = load_model(request)
    tensors = read_tensors()
    calibration = batches_of(tensors, "calibration")
    probes = batches_of(tensors, "probe")
    steps = len(calibration) + len(probes)
    done = 0

    def forward(quantized: torch.nn.Module) -> None:
        nonlocal done
        for batch in calibration:
            quantized(**batch)
            done += 1
            progress(done, steps)

    with torch.no_grad():
        model = mtq.quantize(model, _config(request), forward)
        found = _ranges(model, request["ops"])
        for index, batch in enumerate(probes):
            found[f"probe.{index}"] = model(**batch).logits.float().contiguous()
            progress(len(calibration) + index + 1, steps)
    save_file(found, "found.safetensors")
    if request["number"] == "fp8":
        _export(model)
    else:
        _write_codes(model, request["ops"])
    enabled = sorted(
        name.removesuffix(".weight_quantizer")
        for name, module in model.named_modules()
        if name.endswith("weight_quantizer") and module.is_enabled
    )
    write_result(
        {
            "quantized": enabled,
            "settings": {"algorithm": "max", "number": request["number"]},
            "versions": versions("nvidia-modelopt", "torch", "transformers"),
            **usage(),
        }
    )


def _config(request: dict[str, Any]) -> dict[str, Any]:
    weight, inputs = QUANTIZERS[request["number"]]
    rules: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for op in request["ops"]:
        rules.append({"quantizer_name": f"{op}.weight_quantizer", "cfg": weight, "enable": True})
        rules.append({"quantizer_name": f"{op}.input_quantizer", "cfg": inputs, "enable": True})
    return {"quant_cfg": rules, "algorithm": "max"}


def _ranges(model: torch.nn.Module, ops: list[str]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for op in ops:
        module = model.get_submodule(op)
        for part in ("input", "weight"):
            amax = getattr(module, f"{part}_quantizer").amax
            if amax is not None:
                found[f"{op}.{part}_amax"] = amax.detach().float().reshape(-1).contiguous()
    return found


@torch.no_grad()
def _write_codes(model: torch.nn.Module, ops: list[str]) -> None:
    """Integer codes and scales that its weight quantizers fake-quantize with."""
    found: dict[str, torch.Tensor] = {}
    for op in ops:
        module = model.get_submodule(op)
        values = module.weight_quantizer(module.weight).float()
        scale = module.weight_quantizer.amax.float().reshape(-1, 1) / 127
        codes = torch.round(values / torch.where(scale > 0, scale, torch.ones_like(scale)))
        if not torch.allclose(codes * scale, values, rtol=2**-8, atol=0) or codes.abs().max() > 127:
            raise RuntimeError(f"the codes of {op} are not those that ModelOpt computes with")
        found[f"{op}.weight"] = codes.to(torch.int8).contiguous()
        found[f"{op}.weight_scale"] = scale.contiguous()
    Path("export").mkdir()
    save_file(found, "export/model.safetensors")


def _export(model: torch.nn.Module) -> None:
    from modelopt.torch.export import export_hf_checkpoint

    export_hf_checkpoint(model, export_dir="export")


if __name__ == "__main__":
    main()
