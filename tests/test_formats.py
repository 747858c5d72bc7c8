from __future__ import annotations

from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, preset_name_to_scheme
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from quantspectrum.formats import PRESETS, Format, TensorScheme, preset


@given(bits=st.integers(2, 8))
def test_codes_are_twos_complement(bits: int) -> None:
    scheme = TensorScheme(bits=bits)
    assert (scheme.qmin, scheme.qmax) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert scheme.qmax - scheme.qmin + 1 == 2**bits


@pytest.mark.parametrize("bits", [-8, 0, 1, 9, 16])
def test_bits_that_no_int8_holds_are_refused(bits: int) -> None:
    with pytest.raises(ValidationError):
        TensorScheme(bits=bits)


def test_presets_are_keyed_by_their_names() -> None:
    assert {name: fmt.name for name, fmt in PRESETS.items()} == {name: name for name in PRESETS}


CHANNEL = TensorScheme(bits=8, granularity="channel", symmetric=True)
GROUPS = TensorScheme(bits=4, granularity="group", group_size=128, symmetric=True)
TOKEN = TensorScheme(granularity="token", symmetric=True, dynamic=True)
AFFINE = TensorScheme(granularity="tensor", symmetric=False, dynamic=False)
SEVEN_BITS = TensorScheme(bits=7, granularity="tensor", symmetric=False, dynamic=False)


@pytest.mark.parametrize(
    ("name", "weight", "activation", "output"),
    [
        ("w8a8", CHANNEL, TOKEN, None),
        ("w8a8-static", CHANNEL, TensorScheme(granularity="tensor", symmetric=True), None),
        ("w8a8-static-affine", CHANNEL, AFFINE, None),
        (
            "w8a8-static-percentile",
            CHANNEL,
            TensorScheme(symmetric=True, observer="percentile", percentile=99.99),
            None,
        ),
        (
            "fp8",
            TensorScheme(kind="float", granularity="channel"),
            TensorScheme(kind="float", granularity="token", dynamic=True),
            None,
        ),
        ("w8a16", CHANNEL, None, None),
        ("w4a16", GROUPS, None, None),
        ("w4a8", GROUPS, TOKEN, None),
        ("inc", CHANNEL, AFFINE, AFFINE),
        ("inc-reduce-range", CHANNEL, SEVEN_BITS, SEVEN_BITS),
    ],
)
def test_presets_are_what_their_names_say(
    name: str, weight: TensorScheme, activation: TensorScheme | None, output: TensorScheme | None
) -> None:
    assert preset(name) == Format(name=name, weight=weight, activation=activation, output=output)


def theirs(args: QuantizationArgs | None) -> TensorScheme | None:
    """A scheme in compressed-tensors' words, in ours."""
    if args is None:
        return None
    return TensorScheme.model_validate(
        {
            "kind": args.type,
            "bits": args.num_bits,
            "granularity": args.strategy,
            "group_size": args.group_size,
            "symmetric": args.symmetric,
            "dynamic": args.dynamic,
        }
    )


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("w8a8", "W8A8"), ("fp8", "FP8_DYNAMIC"), ("w4a16", "W4A16"), ("w4a8", "W4A8")],
)
def test_presets_are_those_of_compressed_tensors(name: str, scheme: str) -> None:
    expected = preset_name_to_scheme(scheme, ["Linear"])
    assert preset(name).weight == theirs(expected.weights)
    assert preset(name).activation == theirs(expected.input_activations)


STATIC = {
    "w8a8-static",
    "w8a8-static-affine",
    "w8a8-static-percentile",
    "inc",
    "inc-reduce-range",
}


def test_only_static_activations_need_calibration() -> None:
    assert {name for name in PRESETS if preset(name).needs_calibration} == STATIC


def test_a_static_output_alone_needs_calibration() -> None:
    assert Format(name="o", weight=TensorScheme(), output=TensorScheme()).needs_calibration


def test_weight_only_needs_no_calibration() -> None:
    assert not Format(name="w8", weight=TensorScheme()).needs_calibration


def test_float_codes_are_those_of_e4m3() -> None:
    scheme = TensorScheme(kind="float")
    limits = torch.finfo(torch.float8_e4m3fn)
    assert (scheme.qmin, scheme.qmax) == (limits.min, limits.max)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "float", "bits": 4}, "FP8 E4M3"),
        ({"kind": "float", "symmetric": False}, "FP8 E4M3"),
        ({"granularity": "group"}, "group_size"),
        ({"granularity": "channel", "group_size": 32}, "group_size"),
        ({"granularity": "group", "group_size": 0}, "greater than or equal to 1"),
        ({"observer": "percentile"}, "percentile"),
        ({"percentile": 99.9}, "percentile"),
        ({"observer": "percentile", "percentile": 100}, "less than 100"),
        ({"observer": "percentile", "percentile": 0.999}, "greater than 50"),
        ({"observer": "percentile", "percentile": 99.9, "dynamic": True}, "minmax"),
    ],
)
def test_a_scheme_that_contradicts_itself_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TensorScheme.model_validate(fields)


def test_a_weight_with_a_percentile_is_refused() -> None:
    weight = TensorScheme(observer="percentile", percentile=99.9)
    with pytest.raises(ValidationError, match="all its values"):
        Format(name="odd", weight=weight)


@pytest.mark.parametrize("output", [TOKEN, TensorScheme(dynamic=True), CHANNEL, GROUPS])
def test_an_output_that_is_not_static_per_tensor_is_refused(output: TensorScheme) -> None:
    with pytest.raises(ValidationError, match="per tensor, statically"):
        Format(name="odd", weight=TensorScheme(), output=output)


def test_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'w4a4'.*w8a8, w8a8-static, .*, inc-reduce-range$"):
        preset("w4a4")


@pytest.mark.parametrize(
    "weight", [TensorScheme(dynamic=True), TensorScheme(granularity="token", dynamic=True)]
)
def test_a_weight_that_is_dynamic_or_per_token_is_refused(weight: TensorScheme) -> None:
    with pytest.raises(ValidationError, match="static"):
        Format(name="odd", weight=weight)


@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_an_activation_per_channel_is_refused(granularity: str) -> None:
    activation = CHANNEL if granularity == "channel" else GROUPS
    with pytest.raises(ValidationError, match="per tensor or token"):
        Format(name="odd", weight=TensorScheme(), activation=activation)


def test_static_scales_per_token_are_refused() -> None:
    with pytest.raises(ValidationError, match="dynamic"):
        Format(name="odd", weight=TensorScheme(), activation=TensorScheme(granularity="token"))


def test_formats_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        preset("w8a8").name = "other"  # type: ignore[misc]


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        TensorScheme.model_validate({"bits": 8, "rounding": "up"})


@pytest.mark.parametrize("name", PRESETS)
def test_formats_survive_json(name: str) -> None:
    fmt = preset(name)
    assert Format.model_validate_json(fmt.model_dump_json()) == fmt
