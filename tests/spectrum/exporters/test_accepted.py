"""Every framework quantizes exactly the ops of a profile from what was exported for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantspectrum.formats import Format, TensorScheme, preset
from spectrum.exporters.export_cases import ask, batches, make_case

DYNAMIC = Format(
    name="dynamic",
    weight=TensorScheme(granularity="channel"),
    activation=TensorScheme(symmetric=False, dynamic=True),
)
"""What INC calls dynamic; no preset is of this kind."""
SMALL = Format(name="w4a16-g32", weight=TensorScheme(bits=4, granularity="group", group_size=32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fmt"),
    [
        ("llama", preset("inc")),
        ("llama", DYNAMIC),
        ("qwen2_5_vl", DYNAMIC),
        ("qwen2_5_vl", preset("inc")),
    ],
    ids=["llama static", "llama dynamic", "vl dynamic", "vl static"],
)
def test_inc(name: str, fmt: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(tmp_path / "case", name, fmt)
    found = ask("inc", "inc", case, case.export("inc"), tmp_path, monkeypatch, batches(name))
    assigned = {key.removesuffix(".module"): kind for key, kind in found["assigned"].items()}
    assert {key for key, kind in assigned.items() if kind == "int8"} == case.chosen
    assert {key.removesuffix(".module") for key in found["quantized"]} == case.chosen
    assert case.kept
    assert case.kept.isdisjoint(found["quantized"])


@pytest.mark.slow
def test_inc_with_reduced_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = {}
    for fmt in ("inc", "inc-reduce-range"):
        case = make_case(tmp_path / fmt / "case", "llama", fmt)
        text, ids = case.export("inc"), batches("llama")
        with monkeypatch.context() as patch:
            scales[fmt] = ask("inc", "inc", case, text, tmp_path / fmt, patch, ids)["scales"]
    assert scales["inc"].keys() == scales["inc-reduce-range"].keys() != set()
    for op, scale in scales["inc"].items():
        # As many codes less: 127 steps where there were 255, over the same range but for rounding.
        assert scales["inc-reduce-range"][op] / scale == pytest.approx(255 / 127, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["w8a8", "w8a8-static", "fp8", "w8a16", "w4a16"])
@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl"])
def test_modelopt(name: str, fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(tmp_path / "case", name, fmt)
    text = case.export("modelopt")
    found = ask("modelopt", "modelopt_check", case, text, tmp_path, monkeypatch, batches(name))
    enabled = found["enabled"]
    kinds = ["weight_quantizer"] + ["input_quantizer"] * (preset(fmt).activation is not None)
    assert set(enabled) == {f"{op}.{kind}" for op in case.chosen for kind in kinds}
    for name_of, quantizer in enabled.items():
        scheme = preset(fmt).weight if "weight" in name_of else preset(fmt).activation
        assert scheme is not None
        assert quantizer["num_bits"] == ([4, 3] if scheme.kind == "float" else scheme.bits)
        assert quantizer["dynamic"] is scheme.dynamic
        # Scales per token are found along all axes of an input but the last.
        axes = {"channel": (0,), "token": ([0], [0, 1]), "group": ([0],)}

        assert quantizer["axis"] in axes.get(scheme.granularity, (None,))
        if scheme.granularity == "tensor":
            assert quantizer["scales"] == 1
        if scheme.granularity == "group":
            assert quantizer["block_sizes"]["-1"] in (64, 96, 128)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fmt", [preset("w8a8"), preset("w8a16"), SMALL, preset("w4a16")], ids=lambda f: f.name
)
@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl"])
def test_torchao(name: str, fmt: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(tmp_path / "case", name, fmt)
    text = case.export("torchao")
    found = ask(
        "torchao", "torchao_check", case, text, tmp_path, monkeypatch, batches(name), quantize=True
    )
    wanted = {f"{op}.weight" for op in case.chosen}
    assert set(found["quantized"]) == wanted
    assert set(found["loaded"]) == wanted
    assert found["finite"]


@pytest.mark.slow
def test_two_formats_in_modelopt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(tmp_path / "case", "llama", "fp8")
    case.mix(preset("w8a16"), "down_proj")
    text, ids = case.export("modelopt"), batches("llama")
    found = ask("modelopt", "modelopt_check", case, text, tmp_path, monkeypatch, ids)["enabled"]
    for op, fmt in case.profile.ops.items():
        bits = [4, 3] if fmt == "fp8" else 8
        assert found.pop(f"{op}.weight_quantizer")["num_bits"] == bits
        assert (f"{op}.input_quantizer" in found) is (fmt == "fp8")
    assert {name.rpartition(".")[2] for name in found} == {"input_quantizer"}


@pytest.mark.slow
def test_two_formats_in_torchao(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(tmp_path / "case", "llama", "w8a8")
    case.mix(SMALL, "down_proj")
    text, ids = case.export("torchao"), batches("llama")
    found = ask("torchao", "torchao_check", case, text, tmp_path, monkeypatch, ids, quantize=True)
    kinds = {"w8a8": "Int8Tensor", SMALL.name: "IntxUnpackedToInt8Tensor"}
    wanted = {f"{op}.weight": kinds[fmt] for op, fmt in case.profile.ops.items()}
    assert found["quantized"] == found["loaded"] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["fp8", "w8a8", "w8a16"])
def test_torchao_reads_what_it_would_write(
    fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FP8 kernels need a GPU; the configuration can be read anywhere."""
    case = make_case(tmp_path / "case", "llama", fmt)
    text = case.export("torchao")
    found = ask("torchao", "torchao_check", case, text, tmp_path, monkeypatch, [], quantize=False)
    again = found["again"]["_data"]["fqn_to_config"]
    assert {key.removesuffix(".weight") for key in again} == case.chosen
    for key, written in json.loads(text)["_data"]["fqn_to_config"].items():
        assert again[key]["_type"] == written["_type"]
        assert again[key]["_version"] == written["_version"]
        # Everything that is said arrives; what is not said is torchao's default.
        assert written["_data"].items() <= again[key]["_data"].items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fmt", "other"),
    [
        ("llama", preset("w8a8"), None),
        ("qwen2_5_vl", preset("w8a8"), None),
        ("llama", preset("fp8"), None),
        ("llama", preset("w8a16"), None),
        ("llama", SMALL, None),
        ("llama", preset("w4a16"), None),
        ("llama", preset("w8a8"), SMALL),
    ],
    ids=["w8a8", "vl w8a8", "fp8", "w8a16", "groups", "wide groups", "mixed"],
)
def test_autoround(
    name: str,
    fmt: Format,
    other: Format | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = make_case(tmp_path / "case", name, fmt)
    if other is not None:
        case.mix(other, "down_proj")
    text = case.export("autoround")
    ids = batches(name, 4)
    found = ask("inc-autoround", "autoround_check", case, text, tmp_path, monkeypatch, ids)
    formats = {
        name.rpartition(".")[0]: (name.rpartition(".")[2], kind)
        for name, kind in found["tensors"].items()
        if (name.rpartition(".")[2], kind) in STORED.values()
    }
    # Of Qwen2.5-VL it writes the names that the first checkpoints had, not those of the modules.
    renamed = {_module_name(op) if name == "qwen2_5_vl" else op: v for op, v in formats.items()}
    assert len(renamed) == len(formats)
    known = {found.name: found for found in (fmt, other) if found is not None}
    assert renamed == {op: STORED[_stored(known[name])] for op, name in case.profile.ops.items()}


STORED = {
    "int": ("weight", "I8"),
    "float": ("weight", "F8_E4M3"),
    "packed": ("weight_packed", "I32"),
}
"""Leaf and type of a quantized weight on disk."""


def _stored(fmt: Format) -> str:
    return "packed" if fmt.activation is None else fmt.weight.kind


def _module_name(op: str) -> str:
    if op.startswith("visual."):
        return f"model.{op}"
    return op.replace("model.layers.", "model.language_model.layers.", 1)
