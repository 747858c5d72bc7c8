"""SGLang: what is known of its compressed-tensors support from its source; nothing of it was run.

Read in ``srt/layers/quantization/compressed_tensors`` and ``srt/models/{llama,qwen2_5_vl}.py`` of
sgl-project/sglang (commits 000659ae, 06b5b190, 013902a8, 00239548): fused layers and the rules of
``ignore`` are those of vLLM, from which they were taken, with the differences below. Versions differ;
errors here are what no version read would load.
"""

from __future__ import annotations

from collections.abc import Iterator

from quantspectrum.serving.checkpoint import Checkpoint
from quantspectrum.serving.common import check_schemes, check_torn
from quantspectrum.serving.findings import Capability, Finding, error, ok, warning
from quantspectrum.serving.fusion import FUSIONS, fusion_of
from quantspectrum.serving.layers import layers_of, stored_ops

__all__ = ["EVIDENCE", "VERSION", "examine"]

VERSION = "source, several commits"


def EVIDENCE(_capability: Capability | None) -> str:  # noqa: N802 - a constant but for the device
    """Always ``read``."""
    return "read"


def examine(
    checkpoint: Checkpoint, capability: Capability | None, _dtype: str | None
) -> Iterator[Finding]:
    """What the rules that were read say of a checkpoint."""
    yield warning("the rules for SGLang were read in its source; none was compared with it at work")
    fusion = fusion_of(checkpoint.architecture)
    if checkpoint.architecture not in FUSIONS:
        yield warning(f"architecture {checkpoint.architecture} is not in the table of fused layers")
    layers = layers_of(stored_ops(checkpoint), fusion)
    config = checkpoint.quantization
    if config is None:
        yield from check_torn(layers)
        yield ok("no quantization_config")
        return
    if config.get("quant_method", "compressed-tensors") != "compressed-tensors":
        yield warning(f"quant_method {config['quant_method']}: this check cannot tell")
        return
    judged = yield from check_schemes(config, layers, fusion)
    if judged is None:
        return
    quantization, assigned = judged
    if quantization.format == "mixed-precision":
        yield error(
            "one checkpoint with several formats: SGLang takes the format of the whole "
            "configuration for every group, so that inputs would not be quantized",
            advice="make the spectrum of one format",
        )
    vision = [
        layer.group
        for layer, scheme in assigned
        if scheme is not None and ".visual." in layer.group
    ]
    if vision:
        yield error(
            "SGLang builds the vision tower without any quantization",
            *vision,
            advice="keep the vision tower: --keep or --exclude 'model.visual'",
        )
    floats = any(s is not None and s.weight.kind == "float" for _, s in assigned)
    if capability is not None and not capability.cpu and floats and capability.tenfold < 89:
        yield warning("FP8 below compute capability 8.9 runs with FP8 weights alone")
