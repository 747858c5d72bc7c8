"""What the kernels compute beside what the eager arithmetic computes on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

from quantspectrum.formats import TensorScheme
from quantspectrum.kernels.kl import _fused, centred_exponential_excess
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
}


def same(found: Tensor, expected: Tensor) -> bool:
    """Bit for bit, but for the payload of what is no number."""
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    bits = {2: torch.int16, 4: torch.int32}[found.element_size()]
    equal = (found.view(bits) == expected.view(bits)) | (found.isnan() & expected.isnan())
    return bool(equal.all())
