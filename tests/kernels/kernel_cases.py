"""What the kernels compute beside what the eager arithmetic computes on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from quantspectrum.formats import TensorScheme
from quantspectrum.kernels.kl import _fused, centred_exponential_excess
from quantspectrum.kernels.layers import rms_norm, rotary, swiglu
from quantspectrum.kernels.rotary import rotated
from quantspectrum.kernels.rows import LONGEST, fake_quantize_rows
from quantspectrum.kernels.static import fake_quantize_static
from quantspectrum.quantizer import fake_quantize, fake_quantize_weight

Case = tuple[str, Tensor, Tensor]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KINDS = {
    "int8": TensorScheme(),
    "int8 affine": TensorScheme(symmetric=False),
    "int4": TensorScheme(bits=4),
    "uint7": TensorScheme(bits=7, symmetric=False),
    "fp8": TensorScheme(kind="float"),
}


def rows(count: int, columns: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Rows of all sizes, with zeros, ties, and what is not finite among them."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(count, columns, generator=rng) * 2.0 ** torch.arange(-count, count, 2)[:, None]
    x[0] = 0.0
    x[1] = x[1].abs()
    if count > 4:
        # 255 steps of 1: values between two codes.
        x[2] = torch.randint(-254, 255, (columns,), generator=rng) / 2
        x[2, 0] = -127.5
        x[3, columns // 2] = float("nan")
        x[4, columns // 2] = float("inf")
    if count > 5:
        x[5] *= 2.0**-20  # Scales that float16 rounds to 0, or holds as subnormal numbers.
    return x.to(dtype)


def scheme_of(kind: str, group_size: int | None) -> TensorScheme:
    fields = KINDS[kind].model_dump()
    fields["granularity"] = "group" if group_size else "channel"
    return TensorScheme.model_validate(fields | {"group_size": group_size})


def row_cases(device: str) -> Iterator[Case]:
    shapes = [(8, 37, None), (9, 128, None), (6, 1, None), (8, 130, 32), (6, 37, 64)]
    for (count, columns, group), kind, dtype in product(shapes, KINDS, DTYPES):
        yield from _row_case(device, rows(count, columns, dtype), kind, dtype, group)
    for kind, dtype in product(KINDS, DTYPES):
        yield from _row_case(device, rows(6, LONGEST + 5, dtype), kind, dtype, None)
    for kind, dtype in product(KINDS, DTYPES):
        yield from _row_case(device, rows(8, 64, torch.float32), kind, dtype, 16)


def _row_case(
    device: str, x: Tensor, kind: str, scale_dtype: torch.dtype, group: int | None
) -> Iterator[Case]:
    scheme = scheme_of(kind, group)
    found = fake_quantize_rows(x.to(device), scheme, scale_dtype, group).cpu()
    name = f"rows {tuple(x.shape)} {x.dtype} {kind} scales {scale_dtype} groups {group}"
    yield name, found, fake_quantize_weight(x, scheme, scale_dtype)


def static_cases(device: str) -> Iterator[Case]:
    for kind, dtype, scale in product(KINDS, DTYPES, (1.0, 0.0123)):
        x, scheme = rows(7, 703, dtype), KINDS[kind]
        zero_point = torch.tensor(0.0 if scheme.symmetric else 5.0)
        parameters = torch.tensor(scale), zero_point
        expected = fake_quantize(x, *parameters, scheme)
        name = f"static {dtype} {kind} scale {scale}"
        yield name, fake_quantize_static(x.to(device), *parameters, scheme).cpu(), expected
        there = [value.to(device) for value in parameters]
        found = fake_quantize_static(x.to(device), *there, scheme).cpu()
        yield f"{name} on the device", found, expected


def float8_cases(device: str) -> Iterator[Case]:
    """Every number of E4M3, every point halfway between two, and their neighbours."""
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    points = torch.cat([codes, (codes[1:] + codes[:-1]) / 2, torch.tensor([460.0, 464.0, 480.0])])
    points = torch.cat([points, points.nextafter(torch.tensor(1e9)), points.nextafter(-points)])
    x, one, zero = torch.cat([points, -points]), torch.tensor(1.0), torch.tensor(0.0)
    found = fake_quantize_static(x.to(device), one, zero, KINDS["fp8"]).cpu()
    expected = x.clamp(-448, 448).to(torch.float8_e4m3fn).float()
    yield "all of E4M3", found, expected


def kl_cases(device: str) -> Iterator[Case]:
    """Not bit for bit: sums have another order, and GPUs another exponential."""
    for shape, size, dtype in product([(3, 37), (5, 4500)], (1e-5, 0.1, 3.0), DTYPES):
        log_p, delta, mean = predictions(*shape, size)
        log_p[:, 0] = float("-inf")
        log_p, delta = log_p.to(torch.float16), delta.to(dtype)
        arguments = [value.to(device) for value in (log_p, delta, mean)]
        found = _fused(*arguments).cpu()
        expected = centred_exponential_excess(log_p, delta, mean)
        agrees = (found - expected).abs() <= 1e-5 * expected
        yield f"kl {shape} {size} {dtype}", agrees.float(), torch.ones(shape[0])


def rotary_cases(device: str) -> Iterator[Case]:
    """Multiplications and additions may be fused, so not bit for bit; values are not rotated."""
    rng = torch.Generator().manual_seed(1)
    for heads, size, dtype in product((2, 3), (16, 20), DTYPES):
        qkv = torch.randn(9, 3 * heads * size, generator=rng).to(dtype)
        cos, sin = torch.randn(2, 9, size, generator=rng)
        order = torch.randperm(9, generator=rng)
        found = rotated(*(x.to(device) for x in (qkv, order, cos, sin)), heads).cpu()
        query, key, value = qkv.reshape(9, 3, heads, size).unbind(1)
        turned = apply_rotary_pos_emb_vision(query, key, cos, sin)
        expected = torch.stack((*turned, value))[:, order]
        near = torch.isclose(found.float(), expected.float(), rtol=2e-2, atol=1e-2)
        yield f"rotary {heads} {size} {dtype}", near.float(), torch.ones(near.shape)
        yield f"rotary values {heads} {size} {dtype}", found[2], expected[2]


def layer_cases(device: str) -> Iterator[Case]:
    """Rounded where transformers rounds: only the sum inside a norm has another order."""
    rng = torch.Generator().manual_seed(2)
    for size, dtype in product((7, 48), DTYPES):
        x, y = torch.randn(2, 3, 5, size, generator=rng).to(dtype)
        norm = LlamaRMSNorm(size, eps=1e-5).to(dtype)
        norm.weight.data = torch.randn(size, generator=rng).to(dtype)
        found = rms_norm(x.to(device), norm.weight.detach().to(device), 1e-5).cpu()
        near = torch.isclose(found.float(), norm(x).detach().float(), rtol=1e-2, atol=1e-6)
        yield f"rms norm {size} {dtype}", near.float(), torch.ones(near.shape)
        wide = torch.randn(3, 5, 2 * size, generator=rng).to(dtype)[..., :size]
        found = swiglu(wide.to(device), y.to(device)).cpu()
        expected = functional.silu(wide) * y
        near = torch.isclose(found.float(), expected.float(), rtol=1e-2, atol=1e-6)
        yield f"swiglu {size} {dtype}", near.float(), torch.ones(near.shape)
    for dtype, batch in product(DTYPES, (1, 2)):
        x = torch.randn(2, 5, 3, 12, generator=rng).to(dtype).transpose(1, 2)
        cos, sin = torch.randn(2, batch, 5, 12, generator=rng).to(dtype)
        found = rotary(x.to(device), cos.to(device), sin.to(device)).cpu()
        expected = apply_rotary_pos_emb(x, x, cos, sin)[0]
        near = torch.isclose(found.float(), expected.float(), rtol=1e-2, atol=1e-2)
        yield f"rotary {dtype} {batch}", near.float(), torch.ones(near.shape)


def predictions(count: int, columns: int, size: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithms of probabilities, changes of about ``size``, and their mean (float64, but it)."""
    rng = torch.Generator().manual_seed(columns)
    logits = 2 * torch.randn(count, columns, generator=rng, dtype=torch.float64)
    delta = size * torch.randn(count, columns, generator=rng, dtype=torch.float64)
    log_p = logits.log_softmax(1)
    return log_p, delta, (log_p.exp() * delta).sum(1).float()


CASES: dict[str, Callable[[str], Iterator[Case]]] = {
    "rows": row_cases,
    "static": static_cases,
    "float8": float8_cases,
    "kl": kl_cases,
    "rotary": rotary_cases,
    "layers": layer_cases,
}


def same(found: Tensor, expected: Tensor) -> bool:
    """Bit for bit, but for the payload of what is no number."""
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    bits = {2: torch.int16, 4: torch.int32}[found.element_size()]
    equal = (found.view(bits) == expected.view(bits)) | (found.isnan() & expected.isnan())
    return bool(equal.all())
