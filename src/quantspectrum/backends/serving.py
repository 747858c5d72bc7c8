"""Running a loaded compressed-tensors variant with the arithmetic of a serving engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantspectrum.formats import TensorScheme
from quantspectrum.quantizer import fake_quantize, fake_quantize_input

__all__ = ["serving_arithmetic"]


@contextmanager
def serving_arithmetic(model: nn.Module) -> Iterator[None]:
    """Fake-quantize the inputs of a variant's quantized ops in float32, per token or static.

    To int8 or to FP8, as each op's scheme says; the inputs of ops whose weights alone are quantized
    stay as they are.

    transformers emulates these checkpoints through compressed-tensors, which rounds activations in
    the model's own type (in bfloat16 a code beyond 64 is off by up to a quarter of a step) and
    takes one dynamic scale per tensor, not per token, wherever an input has two dimensions, as in
    vision towers. Serving engines do neither. Weights stay those that were loaded. A model without
    quantized ops is left alone; forwards are put back on leaving.
    """
    quantized: list[tuple[nn.Linear, Any]] = [
        (module, module.quantization_scheme)
        for module in model.modules()
        if isinstance(module, nn.Linear) and hasattr(module, "quantization_scheme")
    ]
    if quantized:
        _unpack(model)
    replaced: list[tuple[dict[str, Any], Any]] = []
    try:
        for module, scheme in quantized:
            attributes = vars(module)
            replaced.append((attributes, attributes.get("forward")))
            attributes["forward"] = _forward(module, scheme.input_activations)
        yield
    finally:
        for attributes, own in replaced:
            if own is None:
                del attributes["forward"]
            else:
                attributes["forward"] = own


def _unpack(model: nn.Module) -> None:
    """Turn codes into weights: compressed-tensors does in the first forward pass, by this hook."""
    for hook in list(model._forward_pre_hooks.values()):
        if getattr(hook, "__name__", "") == "ct_decompress_hook":
            hook(model, ())


def _forward(module: nn.Linear, args: Any) -> Callable[[Tensor], Tensor]:
    if args is None:
        return lambda x: functional.linear(x, module.weight, module.bias)
    dynamic = bool(args.dynamic)
    scheme = TensorScheme(
        kind=str(getattr(args.type, "value", args.type)),
        bits=args.num_bits,
        granularity=str(getattr(args.strategy, "value", args.strategy)),
        symmetric=args.symmetric,
        dynamic=dynamic,
    )

    if dynamic:
        return lambda x: functional.linear(
            fake_quantize_input(x, scheme), module.weight, module.bias
        )
    # One number each: without dimensions, so that a GPU takes one pass.
    scale = module.get_parameter("input_scale").float().reshape(())
    zero_point = torch.zeros_like(scale)
    if not scheme.symmetric:
        zero_point = module.get_parameter("input_zero_point").float().reshape(())

    def static(x: Tensor) -> Tensor:
        x = fake_quantize(x, scale, zero_point, scheme)
        return functional.linear(x, module.weight, module.bias)

    return static
