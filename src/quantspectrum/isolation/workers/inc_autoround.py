"""Intel Neural Compressor 3.10 and later: its AutoRound configuration, INT8 weights and activations.

Writes a Hugging Face checkpoint into ``export/``, as INC names and lays it out; the backend that
asked puts the names right. The quantized ops are exactly those of the request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

INT8 = {
    "data_type": "int",
    "bits": 8,
    "group_size": -1,
    "sym": True,
    "act_data_type": "int",
    "act_bits": 8,
    "act_group_size": -1,
    "act_sym": True,
    "act_dynamic": True,
}
"""What AutoRound's scheme INT8_W8A8 stands for, for layers that it would leave alone."""

KEPT = {"bits": 16, "act_bits": 16, "data_type": "float", "act_data_type": "float"}


def main() -> None:
    """Quantize the model of the request and export it."""
    request = read_request()
    torch.manual_seed(request["seed"])
    model = load_model(request)
    batches = batches_of(read_tensors(), "calibration")
    linears = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    planned = set(request["ops"])
    layers = {name: dict(INT8 if name in planned else KEPT) for name in linears}
    progress(1, 3)
    settings = _settings(request, layers, batches)
    _quantize(model, batches, settings)
    progress(3, 3)
    write_result(
        {
            "export": _exported(Path("export")),
            "settings": {k: v for k, v in settings.items() if isinstance(v, str | int | float)},
            "versions": versions(
                "neural-compressor-pt", "auto-round", "compressed-tensors", "torch", "transformers"
            ),
            **usage(),
        }
    )


class _NoProcessor:
    """Stands for the processor that AutoRound wants of a multimodal model; batches are encoded."""

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Write nothing: the backend writes the model's own."""


def _settings(
    request: dict[str, Any], layers: dict[str, Any], batches: list[dict[str, Any]]
) -> dict[str, Any]:
    language = request["language"]
    outside = any(language and not name.startswith(language) for name in request["ops"])
    return {
        "scheme": "INT8_W8A8",
        "export_format": "llm_compressor",
        # By set_local only the last of several layers reaches AutoRound (3.10).
        "layer_config": layers,
        "iters": request["iters"],
        "disable_opt_rtn": True,
        "nsamples": sum(len(next(iter(batch.values()))) for batch in batches),
        "batch_size": 1,
        "seqlen": max(batch["input_ids"].shape[1] for batch in batches),
        "seed": request["seed"],
        "amp": False,
        "scale_dtype": request["scale_dtype"],
        "device_map": "cpu",
        "enable_torch_compile": False,
        "quant_nontext_module": outside,
        # What it writes early keeps ops outside the decoder's blocks wrapped, and unquantized.
        "low_cpu_mem_usage": False,
        "quant_lm_head": bool(request["head"]) and request["head"] in request["ops"],
        "processor": _NoProcessor() if language else None,
        "output_dir": "export",
        "reloading": False,
    }


def _quantize(
    model: torch.nn.Module, batches: list[dict[str, Any]], settings: dict[str, Any]
) -> None:
    from neural_compressor.torch.quantization import AutoRoundConfig, convert, prepare

    prepared = prepare(model, AutoRoundConfig(**settings))
    with torch.no_grad():
        for batch in batches:
            prepared(**batch)
    progress(2, 3)
    convert(prepared)


def _exported(directory: Path) -> str:
    """The directory of the checkpoint inside it: AutoRound adds one of its own."""
    found = sorted(directory.rglob("config.json"))
    if not found:
        raise RuntimeError("INC ended without an exported checkpoint")
    return str(found[0].parent)


if __name__ == "__main__":
    main()
