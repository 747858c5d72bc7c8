"""What is found of checkpoints that are made of headers alone."""

from __future__ import annotations

import copy
import json
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quantspectrum.cli import main
from quantspectrum.errors import UserError
from quantspectrum.serving import (
    Capability,
    Checkpoint,
    CheckReport,
    TensorHeader,
    check_checkpoint,
    read_checkpoint,
)

HIDDEN, INNER = 64, 96
OPS = {
    **dict.fromkeys(("self_attn.q_proj", "self_attn.o_proj"), (HIDDEN, HIDDEN)),
    **dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (32, HIDDEN)),
    **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (INNER, HIDDEN)),
    "mlp.down_proj": (HIDDEN, INNER),
}
BLOCK = "model.layers.0"
ATTENTION, MLP = f"{BLOCK}.self_attn", f"{BLOCK}.mlp"

Tensors = dict[str, tuple[str, tuple[int, ...]]]


def numbers(bits: int = 8, **changes: Any) -> dict[str, Any]:
    base = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "channel"}
    return base | {"dynamic": False} | changes


TOKEN = numbers(strategy="token", dynamic=True)
FORMATS: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "w8a8": ("int-quantized", numbers(), TOKEN),
    "static": ("int-quantized", numbers(), numbers(strategy="tensor")),
    "affine": ("int-quantized", numbers(), numbers(strategy="tensor", symmetric=False)),
    "fp8": ("float-quantized", numbers(type="float"), TOKEN | {"type": "float"}),
    "w8a16": ("pack-quantized", numbers(), None),
    "w4a16": ("pack-quantized", numbers(4, strategy="group", group_size=32), None),
    "w4a8": ("int-quantized", numbers(4, strategy="group", group_size=32), TOKEN),
    "odd groups": ("pack-quantized", numbers(4, strategy="group", group_size=16), None),
    "affine weights": ("int-quantized", numbers(symmetric=False), TOKEN),
}


def stored(op: str, shape: tuple[int, int], fmt: str | None) -> Tensors:
    rows, columns = shape
    if fmt is None:
        return {f"{op}.weight": ("BF16", shape)}
    kind, weight, act = FORMATS[fmt]
    made: Tensors = {}
    if kind == "pack-quantized":
        made[f"{op}.weight_packed"] = ("I32", (rows, columns * weight["num_bits"] // 32))
        made[f"{op}.weight_shape"] = ("I64", (2,))
    else:
        made[f"{op}.weight"] = ("F8_E4M3" if weight["type"] == "float" else "I8", shape)
    size = weight.get("group_size")
    made[f"{op}.weight_scale"] = ("F32", (rows, columns // size if size else 1))
    if act is not None and not act["dynamic"]:
        made[f"{op}.input_scale"] = ("F32", (1,))
        if not act["symmetric"]:
            made[f"{op}.input_zero_point"] = ("I8", (1,))
    return made


def group(fmt: str, targets: list[str]) -> dict[str, Any]:
    kind, weight, act = FORMATS[fmt]
    return {"targets": targets, "weights": weight, "input_activations": act, "format": kind}


def checkpoint(
    formats: Mapping[str, str | None] | str | None = "w8a8",
    *,
    architecture: str = "LlamaForCausalLM",
    shapes: Mapping[str, tuple[int, int]] = OPS,
) -> Checkpoint:
    """One block of a decoder, each op in the format named for it (or all in one)."""
    names = {f"{BLOCK}.{op}": shape for op, shape in shapes.items()}
    if formats is None or isinstance(formats, str):
        formats = dict.fromkeys(names, formats)
    tensors: Tensors = {"model.embed_tokens.weight": ("BF16", (256, HIDDEN))}
    for op, shape in names.items():
        tensors |= stored(op, shape, formats.get(op))
    tensors["model.norm.weight"] = ("BF16", (HIDDEN,))
    tensors["lm_head.weight"] = ("BF16", (256, HIDDEN))
    config: dict[str, Any] = {"architectures": [architecture], "dtype": "bfloat16"}
    used = sorted({fmt for fmt in formats.values() if fmt})
    if used:
        targets = {fmt: [op for op in names if formats.get(op) == fmt] for fmt in used}
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": FORMATS[used[0]][0] if len(used) == 1 else "mixed-precision",
            "config_groups": {
                f"group_{i}": group(fmt, ["Linear"] if len(used) == 1 else targets[fmt])
                for i, fmt in enumerate(used)
            },
            "ignore": [*(op for op in names if formats.get(op) is None), "lm_head"],
        }
    headers = {name: TensorHeader(*entry) for name, entry in tensors.items()}
    return Checkpoint(name="made", config=config, tensors=headers)


def changed(made: Checkpoint, **quantization: Any) -> Checkpoint:
    config = copy.deepcopy(dict(made.config))
    config["quantization_config"] |= quantization
    return Checkpoint(name=made.name, config=config, tensors=made.tensors)


def without(made: Checkpoint, *names: str) -> Checkpoint:
    tensors = {name: header for name, header in made.tensors.items() if name not in names}
    return Checkpoint(name=made.name, config=made.config, tensors=tensors)


def check(made: Checkpoint, capability: str | None = "cpu", **more: Any) -> CheckReport:
    device = Capability.parse(capability) if capability else None
    return check_checkpoint(made, **{"engine": "vllm", "capability": device} | more)


def errors(report: CheckReport) -> list[str]:
    assert report.serves == (not [f for f in report.findings if f.level == "error"])
    return [finding.what for finding in report.findings if finding.level == "error"]


def warnings(report: CheckReport) -> list[str]:
    return [finding.what for finding in report.findings if finding.level == "warning"]


def mixed(**formats: str | None) -> dict[str, str | None]:
    return {f"{BLOCK}.{op}": formats.get(op.rpartition(".")[2], "w8a8") for op in OPS}


@pytest.mark.parametrize(
    ("fmt", "capability", "serves"),
    [
        *((fmt, "cpu", True) for fmt in (None, "w8a8", "static", "affine", "fp8", "w4a16", "w4a8")),
        ("w8a16", "cpu", False),
        *(
            (fmt, "9.0", True)
            for fmt in (None, "w8a8", "static", "affine", "fp8", "w8a16", "w4a16")
        ),
        ("w4a8", "9.0", False),
        *((fmt, "7.0", False) for fmt in ("w8a8", "fp8", "w8a16", "w4a16")),
        *(("w8a8", capability, False) for capability in ("10.0", "12.0", "12.1")),
        *(("fp8", capability, True) for capability in ("8.9", "10.0", "12.0", "8.0")),
        *((fmt, capability, True) for fmt in ("w8a16", "w4a16") for capability in ("8.0", "10.0")),
        *(("affine weights", capability, False) for capability in ("cpu", "9.0")),
        *((fmt, None, True) for fmt in ("w8a8", "fp8", "w4a16")),
    ],
)
def test_formats_by_device(fmt: str | None, capability: str | None, serves: bool) -> None:
    made = checkpoint(fmt)
    assert check(made, capability).serves is serves, check(made, capability)


def test_int8_beyond_hopper_says_what_to_do() -> None:
    report = check(checkpoint("w8a8"), "12.0")
    assert ["CUTLASS has no int8" in what for what in errors(report)] == [True]
    advice = next(f.advice for f in report.findings if f.level == "error")
    assert advice is not None
    assert "fp8" in advice


def test_fp8_before_ada_runs_with_a_warning() -> None:
    assert "quantizes no inputs" in warnings(check(checkpoint("fp8"), "8.6"))[0]
    assert not warnings(check(checkpoint("fp8"), "8.9"))


@pytest.mark.parametrize(
    ("formats", "named"),
    [
        ({"k_proj": None}, f"{ATTENTION}.qkv_proj"),
        ({"k_proj": "fp8"}, f"{ATTENTION}.qkv_proj"),
        ({"gate_proj": None}, f"{MLP}.gate_up_proj"),
        ({"up_proj": "static"}, f"{MLP}.gate_up_proj"),
    ],
)
def test_a_torn_group_is_named(formats: dict[str, str | None], named: str) -> None:
    found = errors(check(checkpoint(mixed(**formats))))
    assert len(found) == 1
    assert found[0].startswith(f"{named} is one layer")


@pytest.mark.parametrize("formats", [{"o_proj": None}, {"down_proj": "fp8"},
                                     {"gate_proj": "fp8", "up_proj": "fp8"}])  # fmt: skip
def test_whole_groups_may_differ(formats: dict[str, str | None]) -> None:
    assert check(checkpoint(mixed(**formats))).serves


def test_transformers_fuses_nothing() -> None:
    torn = checkpoint(mixed(k_proj=None))
    assert check(torn, engine="transformers").serves
    assert not check(torn, engine="sglang").serves


def test_members_that_are_neither_targeted_nor_ignored_tear_a_group() -> None:
    made = checkpoint(mixed(k_proj=None, v_proj=None))
    targets = [op for op in mixed() if op.rpartition(".")[2] not in ("k_proj", "v_proj")]
    found = errors(check(changed(made, ignore=[], config_groups={"g": group("w8a8", targets)})))
    assert found[0].startswith(f"{ATTENTION}.qkv_proj is one layer")


def test_two_groups_of_one_scheme_do_not_tear() -> None:
    made = checkpoint("w8a8")
    ops = list(mixed())
    groups = {"a": group("w8a8", ops[:2]), "b": group("w8a8", ops[2:])}
    assert check(changed(made, config_groups=groups)).serves


def test_a_misnamed_ignore_is_found_and_its_names_told() -> None:
    made = checkpoint(mixed(o_proj=None))
    report = check(changed(made, ignore=[f"language_model.{ATTENTION}.o_proj", "lm_head"]))
    assert "stored as unquantized weights" in errors(report)[0]
    assert "match no layer" in warnings(report)[0]


@pytest.mark.parametrize("ignore", [["re:.*o_proj"], [f"re:{BLOCK}.self_attn.o"]])
def test_expressions_are_matched_from_the_start_of_a_name(ignore: list[str]) -> None:
    assert check(changed(checkpoint(mixed(o_proj=None)), ignore=[*ignore, "lm_head"])).serves


def test_a_quantized_head_is_not_targeted_by_the_class() -> None:
    made = checkpoint("w8a8")
    tensors = dict(made.tensors)
    tensors |= {n: TensorHeader(*e) for n, e in stored("lm_head", (256, HIDDEN), "w8a8").items()}
    head = Checkpoint(name="head", config=made.config, tensors=tensors)
    assert "stored as int8 weights" in errors(check(changed(head, ignore=[])))[0]


@pytest.mark.parametrize(
    ("fmt", "lost"),
    [
        ("w8a8", "weight_scale"),
        ("static", "input_scale"),
        ("affine", "input_zero_point"),
        ("w4a16", "weight_shape"),
    ],
)
def test_a_lost_tensor_is_found(fmt: str, lost: str) -> None:
    report = check(without(checkpoint(fmt), f"{MLP}.down_proj.{lost}"))
    assert errors(report) == [
        f"{MLP}.down_proj has no {lost}; the engine would compute with what happens to be in memory"
    ]


def test_a_scale_of_another_shape_is_found() -> None:
    made = checkpoint("w8a8")
    tensors = {**made.tensors, f"{MLP}.down_proj.weight_scale": TensorHeader("F32", (3, 1))}
    report = check(Checkpoint(name="x", config=made.config, tensors=tensors))
    assert "weight_scale has shape (3, 1)" in errors(report)[0]


def test_groups_must_divide_the_inputs() -> None:
    shapes = OPS | {"mlp.down_proj": (HIDDEN, 112)}
    report = check(checkpoint("w4a16", shapes=shapes), "9.0")
    assert errors(report) == [f"{MLP}.down_proj has 112 inputs, no multiple of the group size 32"]


def test_weight_only_kernels_of_a_cpu_want_multiples_of_32_and_no_float32() -> None:
    shapes = OPS | {"self_attn.o_proj": (HIDDEN - 16, HIDDEN)}
    report = check(checkpoint("w4a16", shapes=shapes))
    (finding,) = [f for f in report.findings if f.level == "error"]
    assert finding.where == (f"{ATTENTION}.o_proj",)
    assert check(checkpoint("w4a16"), dtype="bfloat16").serves
    assert "float32" in errors(check(checkpoint("w4a16"), dtype="float32"))[0]


def test_shapes_of_fused_layers_are_added_up() -> None:
    # 8 + 8 outputs: each alone is no multiple of 16, and the layer is.
    shapes = OPS | dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (8, HIDDEN))
    assert not warnings(check(checkpoint("w8a8", shapes=shapes), "9.0"))
    odd = OPS | {"self_attn.o_proj": (8, HIDDEN)}
    assert "no multiples of 16" in warnings(check(checkpoint("w8a8", shapes=odd), "9.0"))[0]


def test_groups_that_marlin_lacks_are_a_warning() -> None:
    assert "not Marlin's" in warnings(check(checkpoint("odd groups"), "9.0"))[0]


def test_codes_without_a_configuration_are_an_error() -> None:
    made = checkpoint("w8a8")
    bare = Checkpoint(
        name="x", config={"architectures": ["LlamaForCausalLM"]}, tensors=made.tensors
    )
    for engine in ("vllm", "transformers"):
        assert not check(bare, engine=engine).serves


def test_other_methods() -> None:
    made = changed(checkpoint("w8a8"), quant_method="modelopt", quant_algo="INT8_SQ")
    assert "ModelOpt" in errors(check(made))[0]
    assert not check(made, engine="transformers").serves
    assert "cannot tell" in warnings(check(changed(made, quant_method="awq", quant_algo=None)))[0]


def test_an_unknown_architecture_is_said() -> None:
    report = check(checkpoint("w8a8", architecture="NoSuchModel"))
    assert "NoSuchModel is not in the table" in warnings(report)[0]
    assert report.serves


def test_a_broken_configuration_is_an_error() -> None:
    assert (
        "no weights"
        in errors(check(changed(checkpoint("w8a8"), config_groups={"g": {"targets": ["Linear"]}})))[
            0
        ]
    )


def test_experts_of_a_block_have_one_scheme() -> None:
    shapes = {f"mlp.experts.{i}.{p}": (96, 64) for i in range(2) for p in ("gate_proj", "up_proj")}
    formats = {f"{BLOCK}.{op}": "w8a8" for op in shapes}
    architecture = "Qwen3MoeForCausalLM"
    assert check(checkpoint(formats, architecture=architecture, shapes=shapes)).serves
    formats[f"{BLOCK}.mlp.experts.1.up_proj"] = "fp8"
    found = errors(check(checkpoint(formats, architecture=architecture, shapes=shapes)))
    assert found[0].startswith(f"{BLOCK}.mlp.experts is one layer")


def test_vision_names_are_compared_under_the_engines_names() -> None:
    """Tensors in one of the two spellings of Qwen2.5-VL, `ignore` in the other."""
    made = checkpoint(mixed(o_proj=None), architecture="Qwen2_5_VLForConditionalGeneration")
    tensors = {
        name.replace("model.layers", "model.language_model.layers"): header
        for name, header in made.tensors.items()
    }
    assert check(Checkpoint(name="x", config=made.config, tensors=tensors)).serves
    assert not check(
        Checkpoint(name="x", config=made.config, tensors=tensors), engine="transformers"
    ).serves


def test_sglang_has_one_format_and_no_quantized_vision_tower() -> None:
    report = check(checkpoint(mixed(down_proj="fp8")), "9.0", engine="sglang")
    assert "several formats" in errors(report)[0]
    assert report.evidence == "read"
    shapes = {"x": (64, 64)}
    made = checkpoint("w8a8", shapes=shapes, architecture="Qwen2_5_VLForConditionalGeneration")
    tensors = {name.replace(BLOCK, "model.visual.blocks.0"): h for name, h in made.tensors.items()}
    vision = Checkpoint(name="x", config=made.config, tensors=tensors)
    assert "vision tower" in errors(check(vision, engine="sglang"))[0]
    assert check(vision).serves


def write(made: Checkpoint, directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(made.config))
    sizes = {"BF16": 2, "F32": 4, "I8": 1, "F8_E4M3": 1, "I32": 4, "I64": 8}
    header, end = {}, 0
    for name, tensor in made.tensors.items():
        start = end
        count = 1
        for n in tensor.shape:
            count *= n
        end += count * sizes[tensor.dtype]
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    raw = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    file = struct.pack("<Q", len(raw)) + raw + bytes(end)
    (directory / "model.safetensors").write_bytes(file)
    return directory


def test_a_directory_is_read_back(tmp_path: Path) -> None:
    made = checkpoint("w4a16")
    found = read_checkpoint(write(made, tmp_path / "c"))
    assert (found.config, found.tensors) == (made.config, made.tensors)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "does not exist"),
        (lambda d: (d / "config.json").write_text("{"), "not readable as JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "holds no object"),
        (lambda d: (d / "model.safetensors").unlink(), "no *.safetensors"),
        (lambda d: (d / "model.safetensors").write_bytes(b"12"), "no whole safetensors"),
        (lambda d: cut(d / "model.safetensors", 1), "cut short"),
        (lambda d: (d / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]"), "broken"),
        (lambda d: (d / "model.safetensors.index.json").write_text("{}"), "no weight_map"),
        (
            lambda d: (d / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "lost.safetensors"}})
            ),
            "lost.safetensors, which is missing",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    directory = write(checkpoint("w8a8"), tmp_path / "c")
    spoil(directory)
    with pytest.raises(UserError, match=message.replace("*", r"\*")):
        read_checkpoint(directory)


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def test_the_command_says_what_to_do_and_ends_with_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(checkpoint("w8a8"), tmp_path / "good")
    torn = write(checkpoint(mixed(k_proj=None)), tmp_path / "torn")
    out = tmp_path / "check.json"
    assert main(["check", str(good), "--for", "vllm", "--capability", "9.0"]) == 0
    assert "will load" in capsys.readouterr().out.splitlines()[-1]
    assert main(["check", str(torn), "--for", "vllm", "--json", "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert CheckReport.model_validate_json(printed) == CheckReport.model_validate_json(
        out.read_text()
    )
    assert main(["check", str(good), "--for", "vllm", "--capability", "H100"]) == 1
    assert "such as 9.0" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "none"), "--for", "vllm"]) == 1
    assert "is no directory" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["check", str(good)])
    assert stop.value.code == 2


def test_a_check_imports_no_torch() -> None:
    code = "import sys, quantspectrum.serving; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
