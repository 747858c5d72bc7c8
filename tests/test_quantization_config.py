from __future__ import annotations

from typing import Any

import pytest
from compressed_tensors.quantization import QuantizationConfig
from hypothesis import given
from hypothesis import strategies as st

from quantspectrum.errors import UserError
from quantspectrum.formats import PRESETS, Format, TensorScheme, preset
from quantspectrum.quantization_config import (
    check_format,
    group_size_on_disk,
    quantization_config,
    storage_of,
    weight_args,
)

WRITTEN = sorted(PRESETS.keys() - {"inc", "inc-reduce-range"})
LINEARS = ["a.q", "a.k", "b.up", "b.down", "head"]
STORAGE = {
    "fp8": "float-quantized",
    "w8a16": "pack-quantized",
    "w4a16": "pack-quantized",
}


def config(ops: dict[str, str], **more: Any) -> dict[str, Any]:
    return quantization_config(LINEARS, ops, PRESETS, **more)


@pytest.mark.parametrize("fmt", WRITTEN)
def test_one_format_targets_every_linear_but_those_ignored(fmt: str) -> None:
    made = config({"a.q": fmt, "b.down": fmt})
    assert made["ignore"] == ["a.k", "b.up", "head"]
    assert made["format"] == STORAGE.get(fmt, "int-quantized")
    (group,) = made["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert group["format"] == made["format"]
    assert (group["input_activations"] is None) == fmt.endswith("a16")
    # … and the library reads it as it was meant.
    read = QuantizationConfig.model_validate(made)
    weights = read.config_groups["group_0"].weights
    assert (weights.num_bits, weights.symmetric) == (preset(fmt).weight.bits, True)


def test_mixed_formats_have_a_group_each_with_exact_targets() -> None:
    made = config({"a.q": "w8a8", "b.up": "w4a16", "a.k": "w8a8", "head": "fp8"})
    assert made["format"] == "mixed-precision"
    assert {g["format"]: g["targets"] for g in made["config_groups"].values()} == {
        "int-quantized": ["a.q", "a.k"],
        "pack-quantized": ["b.up"],
        "float-quantized": ["head"],
    }
    assert made["ignore"] == ["b.down"]
    QuantizationConfig.model_validate(made)


def test_two_formats_stored_alike_keep_their_format() -> None:
    made = config({"a.q": "w8a8", "a.k": "w8a8-static"})
    assert made["format"] == "int-quantized"
    assert [g["targets"] for g in made["config_groups"].values()] == [["a.q"], ["a.k"]]


def test_groups_that_do_not_divide_the_inputs_have_groups_of_their_own() -> None:
    widths = {"a.q": 256, "a.k": 200, "b.up": 96}
    made = config(dict.fromkeys(widths, "w4a16"), in_features=widths)
    weights = [g["weights"] for g in made["config_groups"].values()]
    assert [w.get("group_size") for w in weights] == [128, 8, None]
    assert [w["strategy"] for w in weights] == ["group", "group", "channel"]


@given(columns=st.integers(1, 20_000), size=st.integers(1, 300))
def test_groups_on_disk_refine_those_of_the_scheme(columns: int, size: int) -> None:
    scheme = TensorScheme(bits=4, granularity="group", group_size=size)
    found = group_size_on_disk(scheme, columns)
    if found is None:
        assert columns <= size
    else:
        assert columns % found == 0 == size % found
        assert found == size or columns % size


_CHANNEL = TensorScheme(granularity="channel")
_FLOAT = TensorScheme(kind="float", granularity="channel")
_TOKEN = TensorScheme(granularity="token", dynamic=True)
_GROUPS = TensorScheme(bits=4, granularity="group", group_size=32)


@pytest.mark.parametrize(
    ("weight", "activation", "lacking"),
    [
        (TensorScheme(granularity="channel", symmetric=False), _TOKEN, "affine weights"),
        (_FLOAT, None, "FP8 weights without FP8 inputs"),
        (_FLOAT, _TOKEN, "float weights with int inputs"),
        (TensorScheme(bits=3, granularity="channel"), None, "neither 4 nor 8 bits"),
        (_CHANNEL, TensorScheme(bits=4), "neither 4 nor 8 bits"),
        (TensorScheme(), None, "one scale for the whole tensor"),
        (_GROUPS, TensorScheme(), "groups with static inputs"),
    ],
)
def test_what_has_no_spelling_is_refused(
    weight: TensorScheme, activation: TensorScheme | None, lacking: str
) -> None:
    fmt = Format(name="mine", weight=weight, activation=activation)
    with pytest.raises(UserError, match=f"cannot write format mine.*{lacking}"):
        check_format(fmt)


def test_four_bit_weights_with_quantized_inputs_lie_in_bytes() -> None:
    """The one spelling that vLLM reads (its CompressedTensorsW4A8Int)."""
    assert storage_of(preset("w4a8")) == "int-quantized"
    assert weight_args(preset("w4a8").weight)["num_bits"] == 4
