"""The tiny models and batches behind ``inc/*.json``: the same on every machine, from names alone.

INC's op is quantized where it comes in and where it goes out, so that one code that falls
otherwise (a tie, the last digit of a sum in float32, which differs between processors) changes the
rounding of everything after it for that sample. What is made here keeps that small: many samples,
weights whose rounding outweighs that of activations, and seeds for which breaking every tie the
other way moves no op's number by more than 0.15 %.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.data.encode import Batch

__all__ = ["CASES", "fingerprint", "make_batch", "make_model"]

SEEDS = {"qwen2": 69, "qwen2_5_vl": 15}
CASES = tuple(SEEDS)
ROWS = 64


def make_model(case: str) -> nn.Module:
    """A tiny model whose weights depend on their names and shapes, not on who initialises them."""
    model = models_tiny.causal_lm("qwen2") if case == "qwen2" else models_tiny.qwen2_5_vl()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_draw(f"{SEEDS[case]} {name}", parameter))
    return model


def make_batch(case: str) -> Batch:
    """Samples of one length, so that nothing is padded; with a picture each for the VL model."""
    make = models_tiny.text_batch if case == "qwen2" else models_tiny.image_batch
    return make((8,) * ROWS)


def fingerprint(model: nn.Module, inputs: dict[str, Tensor]) -> str:
    """Hash of all weights and inputs."""
    sha = hashlib.sha256()
    for name, values in [*model.named_parameters(), *sorted(inputs.items())]:
        sha.update(f"{name}{tuple(values.shape)}{values.dtype}".encode())
        sha.update(values.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _draw(key: str, parameter: Tensor) -> Tensor:
    draw = torch.randn(parameter.shape, generator=_generator(key))
    if parameter.ndim == 1:
        return draw * 0.1 + (0 if key.endswith("bias") else 1)
    if "embed_tokens" in key:
        return draw
    if "patch_embed" in key:
        return draw * 0.03
    if "lm_head" in key:
        return draw * 0.1
    draw *= 0.05
    # One input weighs up to 8 times the others: it makes the ops differ.
    draw[:, 0] *= 2 ** (3 * torch.rand((), generator=_generator(key)))
    return draw


def _generator(key: str) -> torch.Generator:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    return torch.Generator().manual_seed(seed)
