"""Exports as texts: what is refused and in which words, names, and that no framework is needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quantspectrum.artifacts import OpNote
from quantspectrum.cli import main
from quantspectrum.errors import UserError
from quantspectrum.formats import PRESETS, Format, TensorScheme, preset
from quantspectrum.spectrum.exporters import EXPORTERS
from quantspectrum.spectrum.exporters.assignment import Assignment, ExportedOp, Node
from quantspectrum.spectrum.exporters.graph import nodes_of_ops
from spectrum.exporters.export_cases import PROFILE, Case, make_case

HELD = {
    "inc": {"inc", "inc-reduce-range"},
    "modelopt": {"w8a8", "w8a8-static", "fp8", "w8a16", "w4a16", "w4a8"},
    "compressed-tensors": {
        *("w8a8", "w8a8-static", "w8a8-static-affine", "w8a8-static-percentile", "fp8"),
        *("w8a16", "w4a16", "w4a8"),
    },
    "onnxruntime": {
        *("w8a8-static", "w8a8-static-affine", "w8a8-static-percentile", "w4a16", "inc"),
    },
    "torchao": {"w8a8", "w8a16", "fp8", "w4a16"},
    "autoround": {"w8a8", "fp8", "w8a16", "w4a16"},
}
"""The presets that each target can express; it refuses the others."""


def assignment(
    *names: str,
    fmt: Format | str = "w8a8",
    kind: str = "Linear",
    shape: tuple[int, ...] = (256, 256),
    kept: tuple[str, ...] = (),
    modules: tuple[str, ...] | None = None,
) -> Assignment:
    found = fmt if isinstance(fmt, Format) else preset(fmt)
    nodes = None
    if modules is not None:
        nodes = tuple(Node(name=f"n{i}", op_type="MatMul", module=m) for i, m in enumerate(modules))
    return Assignment(
        profile="half",
        ops=tuple(ExportedOp(name=n, type=kind, shape=shape, format=found) for n in names),
        kept=kept,
        others=(OpNote(name="lm_head", type="Linear", reason="the head"),),
        nodes=nodes,
    )


@pytest.mark.parametrize("fmt", PRESETS)
@pytest.mark.parametrize("target", EXPORTERS)
def test_a_format_is_held_or_refused_in_one_sentence(target: str, fmt: str) -> None:
    given_ = assignment("layers.0.up", fmt=fmt, kept=("layers.0.down",), modules=("layers.0.up",))
    if fmt in HELD[target]:
        assert "layers" in EXPORTERS[target].export(given_) or target == "onnxruntime"
        return
    with pytest.raises(UserError) as refused:
        EXPORTERS[target].export(given_)
    message = str(refused.value)
    assert fmt in message
    assert "\n" not in message
    # What would work instead.
    assert any(other in message for other in HELD[target]) or "spectrum of another" in message


@pytest.mark.parametrize("target", [t for t in EXPORTERS if t not in ("inc", "onnxruntime")])
def test_types_of_ops_that_are_not_handled_are_refused(target: str) -> None:
    with pytest.raises(UserError, match=r"patch is a Conv3d: leave it out of the profile"):
        EXPORTERS[target].export(assignment("visual.patch", kind="Conv3d"))


def test_inc_quantizes_convolutions_statically_only() -> None:
    found = EXPORTERS["inc"].export(assignment("visual.patch", fmt="inc", kind="Conv3d"))
    assert r"visual\.patch" in json.loads(found)["op_name_dict"].__repr__().replace("\\\\", "\\")


names = st.lists(
    st.from_regex(r"[a-z_]{1,4}(\.[a-z0-9_]{1,4}){0,3}", fullmatch=True),
    min_size=2,
    max_size=8,
    unique=True,
)


@given(names, st.data())
def test_every_name_matches_one_key_of_inc(found: list[str], data: st.DataObject) -> None:
    chosen = found[: data.draw(st.integers(1, len(found) - 1))]
    config = json.loads(EXPORTERS["inc"].export(assignment(*chosen, fmt="inc")))
    for name in found:
        for spelling in (name, f"{name}.module"):
            keys = [k for k in config["op_name_dict"] if re.fullmatch(k, spelling)]
            kinds = [config["op_name_dict"][key]["weight"]["dtype"] for key in keys]
            # A chosen op may be called like another inside its wrapper.
            quantized = {name, spelling.removesuffix(".module")} & set(chosen) or {spelling} & set(
                chosen
            )
            assert {kind for (kind,) in kinds} == ({"int8"} if quantized else {"fp32"})


def test_reduced_ranges_are_asked_of_inc() -> None:
    for fmt, reduced in (("inc", False), ("inc-reduce-range", True)):
        config = json.loads(EXPORTERS["inc"].export(assignment("a", fmt=fmt)))
        assert (config["approach"], config["reduce_range"]) == ("static", reduced)


def test_one_approach_for_the_whole_of_inc() -> None:
    both = assignment("a", fmt="inc")
    other = assignment("b", fmt="inc-reduce-range")
    with pytest.raises(UserError, match="those of inc and inc-reduce-range"):
        EXPORTERS["inc"].export(
            Assignment(profile="half", ops=both.ops + other.ops, kept=(), others=())
        )


def test_modelopt_disables_everything_first_and_names_ops_literally() -> None:
    text = EXPORTERS["modelopt"].export(assignment("a[0].up", fmt="w4a16", shape=(256, 64)))
    config = yaml.safe_load(text)
    assert config["quant_cfg"][0] == {"quantizer_name": "*", "enable": False}
    (entry,) = config["quant_cfg"][1:]
    assert entry["quantizer_name"] == "a[[]0].up.weight_quantizer"
    assert entry["cfg"]["block_sizes"] == {-1: 64, "type": "static"}


def test_groups_that_do_not_divide_the_inputs_are_refused() -> None:
    for target in ("torchao", "autoround"):
        with pytest.raises(UserError, match="groups must divide an op's inputs: a has 200"):
            EXPORTERS[target].export(assignment("a", fmt="w4a16", shape=(64, 200)))


def test_affine_groups_of_four_bits_are_torchaos_int4() -> None:
    weight = TensorScheme(bits=4, granularity="group", group_size=64, symmetric=False)
    text = EXPORTERS["torchao"].export(assignment("a", fmt=Format(name="u4", weight=weight)))
    assert json.loads(text)["_data"]["fqn_to_config"]["a.weight"] == {
        "_type": "Int4WeightOnlyConfig",
        "_version": 2,
        "_data": {"group_size": 64},
    }


@pytest.mark.parametrize(
    ("op", "module"),
    [
        ("model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj"),
        ("model.layers.1.mlp.up_proj", "wrapped.model.layers.1.mlp.up_proj"),
        ("model.language_model.layers.1.mlp.up_proj", "decoder.layers.1.mlp.up_proj"),
        ("lm_head", "m.lm_head"),
    ],
)
def test_names_end_as_paths_in_the_graph_do(op: str, module: str) -> None:
    others = ("layers.11.mlp.up_proj", "x.layers.0.mlp.up_proj", "layers.1.mlp.up_proj.more")
    assert nodes_of_ops(assignment(op, modules=(*others, module))) == ["n3"]


def test_what_tells_blocks_apart_is_not_left_out() -> None:
    with pytest.raises(UserError, match=r"1 of 1 ops of profile half are not in the ONNX graph"):
        nodes_of_ops(assignment("model.layers.7.mlp.up_proj", modules=("mlp.up_proj",)))


def test_ops_that_fit_one_module_are_not_told_apart() -> None:
    one, other = "model.visual.layers.0.up", "model.language.layers.0.up"
    modules = ("decoder.layers.0.up",)
    for given_ in (
        assignment(one, other, modules=modules),
        assignment(one, kept=(other,), modules=modules),
    ):
        with pytest.raises(UserError, match=r"both fit the module decoder\.layers\.0\.up"):
            nodes_of_ops(given_)


def test_paths_that_end_alike_are_not_told_apart() -> None:
    with pytest.raises(UserError, match="fits several modules"):
        nodes_of_ops(assignment("up.0", modules=("a.up.0", "b.up.0")))


def test_every_node_of_a_shared_module_is_quantized() -> None:
    assert nodes_of_ops(assignment("a.up", modules=("a.up", "b", "a.up"))) == ["n0", "n2"]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("case"), "qwen2_5_vl", "w8a8")


def command(case: Case, target: str, out: Path, *more: str) -> list[str]:
    return [
        "export",
        str(case.spectrum),
        "--profile",
        PROFILE,
        "--to",
        target,
        "--out",
        str(out),
        *more,
    ]


def test_the_command_writes_and_tells(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ct.json"
    arguments = command(case, "compressed-tensors", out, "--report", str(case.report))
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert f"{len(case.chosen)} ops quantized" in told
    # Everything that stays, with the head, by the names of the loaded model; convolutions are none.
    linears = {op for op in case.kept if "patch_embed" not in op}
    assert set(json.loads(out.read_text())["ignore"]) == linears
    assert "lm_head" in linears
    assert main([*arguments, "--json"]) == 0
    assert capsys.readouterr().out.strip() == out.read_text().strip()


def test_a_component_alone(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "ao.json"
    assert main(command(case, "torchao", out, "--component", "language")) == 0
    found = json.loads(out.read_text())["_data"]["fqn_to_config"]
    chosen = {f"{op}.weight" for op in case.chosen if "language_model" in op}
    assert set(found) == chosen
    assert 0 < len(chosen) < len(case.chosen)


@pytest.mark.parametrize(
    ("target", "more", "match"),
    [
        ("compressed-tensors", (), "must be told every Linear .* give --report"),
        ("autoround", (), "must be told every Linear .* give --report"),
        ("onnxruntime", (), "give --onnx"),
        ("torchao", ("--component", "audio"), "no candidate is in a component 'audio'; .*language"),
        ("torchao", ("--profile", "none"), "no profile 'none'"),
        ("torchao", ("--out", "x.yaml"), "must end in .json"),
        ("inc", (), "cannot hold format w8a8: .*--format inc"),
    ],
)
def test_wrong_use_is_told_and_writes_nothing(
    case: Case,
    target: str,
    more: tuple[str, ...],
    match: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command(case, target, tmp_path / "out.json", *more)) == 1
    error = capsys.readouterr().err
    assert re.search(match, error)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_another_report_is_refused(case: Case, tmp_path: Path) -> None:
    other = make_case(tmp_path / "other", "llama", "w8a8")
    arguments = command(case, "autoround", tmp_path / "a.json", "--report", str(other.report))
    assert main(arguments) == 1


def test_an_empty_profile_tells_a_framework_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_case(tmp_path / "case", "llama", "w8a8", share=0.0)
    assert main(command(case, "torchao", tmp_path / "a.json")) == 1
    assert "quantizes no op" in capsys.readouterr().err


def test_an_export_imports_no_torch(case: Case, tmp_path: Path) -> None:
    code = (
        "import sys; from quantspectrum.cli import main; code = main(sys.argv[1:]); "
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules) or 'light'); sys.exit(code)"
    )
    for target in ("torchao", "modelopt", "compressed-tensors", "autoround"):
        out = tmp_path / f"out{EXPORTERS[target].SUFFIX}"
        named = () if target in ("torchao", "modelopt") else ("--report", str(case.report))
        arguments = command(case, target, out, *named)
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "light"
