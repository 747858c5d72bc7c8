"""transformers: it loads every module on its own, so that nothing is fused and nothing is torn."""

from __future__ import annotations

from collections.abc import Iterator

from quantspectrum.serving.checkpoint import Checkpoint
from quantspectrum.serving.common import check_schemes
from quantspectrum.serving.findings import Capability, Finding, error, ok, warning
from quantspectrum.serving.fusion import Fusion
from quantspectrum.serving.layers import layers_of, stored_ops

__all__ = ["EVIDENCE", "VERSION", "examine"]

VERSION = "5.17 to 5.23 with compressed-tensors 0.17 to 0.20"
ALONE = Fusion(packed={})


def EVIDENCE(_capability: Capability | None) -> str:  # noqa: N802 - a constant but for the device
    """``run``: `quantize` loads every variant back with it."""
    return "run"


def examine(
    checkpoint: Checkpoint, _capability: Capability | None, _dtype: str | None
) -> Iterator[Finding]:
    """Whether what is on disk is what the configuration says."""
    layers = layers_of(stored_ops(checkpoint), ALONE)
    config = checkpoint.quantization
    stored = [op.name for layer in layers for op in layer.members if op.storage != "plain"]
    if config is None:
        if stored:
            yield error("codes without a quantization_config are read as weights", *stored,
                        advice="write the checkpoint with another backend")  # fmt: skip
        else:
            yield ok("nothing is quantized")
        return
    method = config.get("quant_method", "compressed-tensors")
    if method == "modelopt":
        yield error("transformers reads ModelOpt's codes as weights, without a word",
                    advice="write the same decisions with the backend compressed-tensors")  # fmt: skip
        return
    if method != "compressed-tensors":
        yield warning(f"quant_method {method}: this check cannot tell")
        return
    judged = yield from check_schemes(config, layers, ALONE)
    if judged is not None:
        yield warning("it emulates quantized inputs in floating point: right, and not faster")
