from __future__ import annotations

import pytest
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
    assert set(PRESETS) == {"w8a8", "w8a8-static", "w8a8-static-affine"}


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("w8a8", TensorScheme(granularity="token", symmetric=True, dynamic=True)),
        ("w8a8-static", TensorScheme(granularity="tensor", symmetric=True, dynamic=False)),
        ("w8a8-static-affine", TensorScheme(granularity="tensor", symmetric=False, dynamic=False)),
    ],
)
def test_presets_are_what_their_names_say(name: str, activation: TensorScheme) -> None:
    fmt = preset(name)
    assert fmt.weight == TensorScheme(bits=8, granularity="channel", symmetric=True)
    assert fmt.activation == activation


@pytest.mark.parametrize(
    ("name", "needs"), [("w8a8", False), ("w8a8-static", True), ("w8a8-static-affine", True)]
)
def test_only_static_activations_need_calibration(name: str, needs: bool) -> None:
    assert preset(name).needs_calibration is needs


def test_weight_only_needs_no_calibration() -> None:
    assert not Format(name="w8", weight=TensorScheme()).needs_calibration


def test_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'w4a4'.*w8a8, w8a8-static, w8a8-static-affine"):
        preset("w4a4")


@pytest.mark.parametrize(
    "weight", [TensorScheme(dynamic=True), TensorScheme(granularity="token", dynamic=True)]
)
def test_a_weight_that_is_dynamic_or_per_token_is_refused(weight: TensorScheme) -> None:
    with pytest.raises(ValidationError, match="static"):
        Format(name="odd", weight=weight)


@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_an_activation_per_channel_is_refused(granularity: str) -> None:
    activation = TensorScheme.model_validate({"granularity": granularity, "dynamic": True})
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
