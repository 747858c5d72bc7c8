from __future__ import annotations

import pytest
import torch

import models_tiny
from quantspectrum.artifacts import Op
from quantspectrum.backends import compressed_tensors
from quantspectrum.formats import PRESETS, Format, TensorScheme, preset
from quantspectrum.models.ops import list_ops
from quantspectrum.simulation import OpPlan
from quantspectrum.spectrum.costs import model_bytes, op_bytes, profile_bytes

OP = Op(
    name="a", type="Linear", component="language", block=0, group="a", shape=(6, 200), params=1206
)


@pytest.mark.parametrize(
    ("fmt", "expected"),
    [
        (None, 1206 * 2),
        ("w8a8", 1200 + 6 * 4 + 6 * 2),
        ("w8a16", 1200 + 6 * 4 + 6 * 2),
        ("fp8", 1200 + 6 * 4 + 6 * 2),
        ("w8a8-static", 1200 + 6 * 4 + 6 * 2 + 4),
        ("w8a8-static-affine", 1200 + 6 * 4 + 6 * 2 + 5),
        # 200 codes of 4 bits are 25 int32 a row; groups of 128 make two scales a row.
        ("w4a16", 6 * 25 * 4 + 12 * 4 + 6 * 2),
    ],
)
def test_known_bytes(fmt: str | None, expected: int) -> None:
    assert op_bytes(OP, preset(fmt) if fmt else None, "bfloat16") == expected


def test_rows_of_small_codes_are_packed_whole() -> None:
    odd = OP.model_copy(update={"shape": (6, 9), "params": 54})
    fmt = Format(name="w4", weight=TensorScheme(bits=4))
    assert op_bytes(odd, fmt, "float32") == 6 * 2 * 4 + 4


@pytest.mark.parametrize("fmt", ["w8a8", "w8a8-static", "w8a8-static-affine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_profile_is_as_large_as_the_backend_writes_it(fmt: str, dtype: torch.dtype) -> None:
    loaded = models_tiny.loaded(models_tiny.cast(models_tiny.causal_lm(), dtype))
    candidates = list_ops(loaded.model, loaded.layout).candidates
    plans = {
        op.name: OpPlan(format=PRESETS[fmt], input_range=(-1.0, 1.0), scale_dtype=dtype)
        for op in candidates[::2]
    }
    saved = compressed_tensors.predicted_bytes(loaded, {}) - compressed_tensors.predicted_bytes(
        loaded, plans
    )
    ops = dict.fromkeys(plans, fmt)
    found = profile_bytes(ops, candidates, PRESETS, loaded.identity)
    assert model_bytes(loaded.identity) - found == saved


def test_what_is_stored_narrower_than_it_is_loaded_counts_as_stored() -> None:
    identity = models_tiny.loaded(models_tiny.causal_lm()).identity
    narrow = identity.model_copy(update={"storage_dtype": "bfloat16"})
    assert model_bytes(identity) == 2 * model_bytes(narrow) == 4 * identity.parameters
