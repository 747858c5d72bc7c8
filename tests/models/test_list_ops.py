from __future__ import annotations

from typing import Any

import accelerate
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import models_tiny
from quantspectrum.errors import UserError
from quantspectrum.models import adapter_for
from quantspectrum.models.adapter import Layout
from quantspectrum.models.ops import OP_TYPES, OpTable, list_ops
from quantspectrum.patterns import matches

LANGUAGE = "model.language_model.layers"
MODELS: dict[str, Any] = {
    "llama": models_tiny.causal_lm,
    "llama tied": lambda: models_tiny.causal_lm(tie_word_embeddings=True),
    "qwen2": lambda: models_tiny.causal_lm("qwen2"),
    "qwen3": lambda: models_tiny.causal_lm("qwen3"),
    "gpt2": models_tiny.gpt2,
    "qwen2.5-vl": models_tiny.qwen2_5_vl,
    "qwen2.5-vl tied": lambda: models_tiny.qwen2_5_vl(tied=True),
}


def table_of(model: Any, **rules: Any) -> OpTable:
    return list_ops(model, adapter_for(model.config).layout(model), **rules)


def names(ops: Any) -> list[str]:
    return [op.name for op in ops]


def reasons(table: OpTable) -> dict[str, str]:
    return {note.name: note.reason for note in (*table.kept, *table.skipped)}


@pytest.mark.parametrize("name", MODELS)
def test_every_op_is_listed_once(name: str) -> None:
    model = MODELS[name]()
    table = table_of(model)
    kinds = ("Linear", "Conv1D", "Conv1d", "Conv2d", "Conv3d")
    in_model = [n for n, m in model.named_modules() if type(m).__name__ in kinds]
    listed = [*names(table.candidates), *names(table.kept), *names(table.skipped)]
    assert sorted(listed) == sorted(in_model)
    assert table.found == len(in_model)


@pytest.mark.parametrize("family", models_tiny.CAUSAL_LMS)
def test_a_decoders_linears_are_candidates_and_its_head_is_kept(family: str) -> None:
    table = table_of(models_tiny.causal_lm(family))
    assert len(table.candidates) == 2 * 7
    assert names(table.kept) == ["lm_head"]
    assert "unless included by name" in table.kept[0].reason
    assert table.skipped == ()


def test_fused_experts_are_skipped_out_loud() -> None:
    model = models_tiny.qwen3_moe()
    table = table_of(model)
    # Two layers: q, k, v and o are ops; the experts' two tensors and the router are not.
    assert len(table.candidates) == 2 * 4
    assert names(table.kept) == ["lm_head"]
    expected = {
        f"model.layers.{layer}.mlp.{name}"
        for layer in (0, 1)
        for name in ("experts.gate_up_proj", "experts.down_proj", "gate.weight")
    }
    assert set(names(table.skipped)) == expected
    assert table.found == 8 + 1 + 6
    for note in table.skipped:
        assert (note.type, note.component) == ("Parameter", "language")
        assert note.block == int(note.name.split(".")[2])
        fused = note.reason.startswith("fused expert tensor: the weights of 4 experts")
        assert fused is ("experts" in note.name)


@pytest.mark.parametrize("family", models_tiny.FAMILIES)
def test_every_matrix_of_every_kind_of_model_is_accounted_for(family: str) -> None:
    """What is on no list is an embedding, a position, a special token or a norm."""
    model = models_tiny.family(family)
    table = table_of(model)
    listed = {*names(table.candidates), *names(table.kept), *names(table.skipped)}
    rest = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and not {name, name.removesuffix(".weight")} & listed
    ]
    assert table.candidates
    assert table.found == len(listed)
    harmless = ("embed", "token", "position_bias", "shared", "attention_bias", "norm")
    assert [name for name in rest if not any(word in name for word in harmless)] == []


@pytest.mark.parametrize("family", models_tiny.FAMILIES)
def test_notes_say_where_their_op_is(family: str) -> None:
    model: Any = models_tiny.family(family)
    layout = adapter_for(model.config).layout(model)
    table = table_of(model)
    for note in (*table.kept, *table.skipped):
        assert note.component == layout.component(note.name)
        assert note.block == layout.block(note.name)


def holder(**parameters: Tensor) -> nn.Module:
    module = nn.Module()
    for name, value in parameters.items():
        module.register_parameter(name, nn.Parameter(value))
    return module


def test_raw_parameters_are_skipped_with_a_reason(llama: nn.Module) -> None:
    llama.add_module("mixer", holder(weight=torch.ones(3, 4), vector=torch.ones(7)))
    llama.add_module("attention", nn.MultiheadAttention(4, 2))
    table = table_of(llama)
    assert {note.name: note.type for note in table.skipped} == {
        "mixer.weight": "Parameter",
        "attention.in_proj_weight": "Parameter",
    }
    assert "Module uses in its own way" in reasons(table)["mixer.weight"]
    assert "MultiheadAttention uses in its own way" in reasons(table)["attention.in_proj_weight"]


def test_a_pattern_may_name_a_raw_parameter() -> None:
    table = table_of(models_tiny.qwen3_moe(), exclude=["experts.gate_up_proj"])
    assert len(table.candidates) == 8


def test_what_is_added_or_looked_up_is_no_op(llama: nn.Module) -> None:
    added = holder(
        position_embeddings=torch.ones(1, 3, 4), cls_token=torch.ones(2, 4), bias=torch.ones(3, 4)
    )
    llama.add_module("added", added)
    llama.add_module("row", holder(weight=torch.ones(1, 1, 9)))
    llama.add_module("norm", nn.LayerNorm((3, 4)))
    assert table_of(llama).skipped == ()


def test_ties_are_known_when_the_model_is_offloaded() -> None:
    model = models_tiny.causal_lm(tie_word_embeddings=True)
    before = table_of(model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert table_of(model) == before


def test_candidates_are_in_module_order(llama: nn.Module) -> None:
    found = names(table_of(llama).candidates)
    assert found == [name for name, _ in llama.named_modules() if name in found]


def test_an_op_is_described() -> None:
    model = models_tiny.causal_lm("qwen2")
    op = next(o for o in table_of(model).candidates if o.name == "model.layers.1.self_attn.k_proj")
    assert op.type == "Linear"
    assert (op.component, op.block) == ("language", 1)
    assert op.group == "model.layers.1.self_attn.qkv_proj"
    assert op.shape == (32, 64)
    assert op.params == 32 * 64 + 32


def test_qwen2_5_vl(vl: nn.Module) -> None:
    table = table_of(vl)
    # 2 vision blocks of 5, the merger's 2, 2 language blocks of 7.
    assert len(table.candidates) == 2 * 5 + 2 + 2 * 7
    assert names(table.kept) == ["model.visual.patch_embed.proj", "lm_head"]
    assert "Conv3d" in reasons(table)["model.visual.patch_embed.proj"]
    groups = {op.group for op in table.candidates}
    # Vision: qkv, proj, gate_up, down; language: qkv, o, gate_up, down.
    assert len(groups) == 2 * 4 + 2 + 2 * 4


def test_gpt2_projections_are_skipped_with_a_reason() -> None:
    table = table_of(models_tiny.gpt2())
    assert table.candidates == ()
    projections = [note for note in table.skipped if note.type == "Conv1D"]
    assert len(projections) == 2 * 4
    assert all("transposed" in note.reason for note in projections)


@pytest.mark.parametrize("name", ["llama tied", "gpt2", "qwen2.5-vl tied"])
def test_a_tied_head_is_skipped_even_when_included(name: str) -> None:
    table = table_of(MODELS[name](), include=["lm_head", "*"])
    assert "tied" in {note.name: note.reason for note in table.skipped}["lm_head"]


def test_the_head_is_brought_in_by_name(llama: nn.Module) -> None:
    table = table_of(llama, include=["lm_head"])
    (head,) = table.candidates
    assert (head.name, head.component, head.block) == ("lm_head", "head", None)
    assert set(reasons(table).values()) == {"not included"}


def test_a_star_does_not_bring_the_head_in(llama: nn.Module) -> None:
    assert names(table_of(llama, include=["*"]).kept) == ["lm_head"]


def test_a_convolution_is_brought_in_by_name(vl: nn.Module) -> None:
    table = table_of(vl, include=["patch_embed.proj"])
    (op,) = table.candidates
    assert (op.type, op.component, op.shape) == ("Conv3d", "vision", (64, 3, 2, 14, 14))


@pytest.mark.parametrize("pattern", ["visual", "model.visual", "*.visual.*", "re:.*visual.*"])
def test_a_pattern_for_the_whole_tower_does_not_bring_its_convolution_in(
    vl: nn.Module, pattern: str
) -> None:
    """No backend can write it; naming its parent is not naming it."""
    table = table_of(vl, include=[pattern])
    assert len(table.candidates) == 2 * 5 + 2
    assert "Conv3d" in reasons(table)["model.visual.patch_embed.proj"]


@pytest.mark.parametrize("pattern", ["*l*", "re:.*"])
def test_a_pattern_for_everything_does_not_bring_the_head_in(
    llama: nn.Module, pattern: str
) -> None:
    assert names(table_of(llama, include=[pattern]).kept) == ["lm_head"]


def test_types_bring_convolutions_in(vl: nn.Module) -> None:
    table = table_of(vl, types=["Conv3d"])
    assert names(table.candidates) == ["model.visual.patch_embed.proj"]
    assert all("type" in note.reason or "head" in note.reason for note in table.kept)


def test_all_types(vl: nn.Module) -> None:
    assert names(table_of(vl, types=OP_TYPES).kept) == ["lm_head"]


def test_an_unknown_type_is_refused(llama: nn.Module) -> None:
    with pytest.raises(UserError, match=r"'Embedding'.*Linear, Conv1d, Conv2d, Conv3d"):
        table_of(llama, types=["Linear", "Embedding"])


def test_include_limits_the_candidates(llama: nn.Module) -> None:
    table = table_of(llama, include=["layers.1"])
    assert {op.block for op in table.candidates} == {1}
    assert len(table.candidates) == 7
    assert reasons(table)["model.layers.0.mlp.down_proj"] == "not included"


def test_exclude_takes_ops_out(llama: nn.Module) -> None:
    table = table_of(llama, exclude=["down_proj"])
    assert len(table.candidates) == 12
    assert reasons(table)["model.layers.0.mlp.down_proj"] == "excluded by 'down_proj'"


def test_the_reason_names_the_pattern_that_decided(llama: nn.Module) -> None:
    table = table_of(llama, exclude=["mlp.down_proj", "*.layers.0.*"])
    assert reasons(table)["model.layers.0.mlp.down_proj"] == "excluded by 'mlp.down_proj'"
    assert reasons(table)["model.layers.0.self_attn.o_proj"] == "excluded by '*.layers.0.*'"


@pytest.mark.parametrize(
    ("include", "exclude", "candidate"),
    [
        (["model.layers.0.self_attn.o_proj"], ["o_proj"], True),
        (["self_attn.o_proj"], ["*"], True),
        (["*"], ["re:.*"], True),
        (["o_proj"], ["self_attn"], False),
        (["*.o_proj"], ["*"], False),
        (["*"], ["o_proj"], False),
        (["o_proj"], ["model.layers.0.self_attn.o_proj"], False),
    ],
)
def test_the_more_specific_wins_and_exclude_on_a_tie(
    llama: nn.Module, include: list[str], exclude: list[str], candidate: bool
) -> None:
    table = table_of(llama, include=include, exclude=exclude)
    assert ("model.layers.0.self_attn.o_proj" in names(table.candidates)) is candidate


@pytest.mark.parametrize("rule", ["include", "exclude"])
def test_a_pattern_that_matches_no_op_is_refused(llama: nn.Module, rule: str) -> None:
    with pytest.raises(UserError, match="'embed_tokens'"):
        table_of(llama, **{rule: ["down_proj", "embed_tokens"]})


@pytest.mark.parametrize("left_out", ["q_proj", "k_proj", "v_proj"])
def test_fused_ops_are_left_out_together(llama: nn.Module, left_out: str) -> None:
    name = f"model.layers.0.self_attn.{left_out}"
    table = table_of(llama, exclude=[name])
    found = {op.name.rpartition(".")[2] for op in table.candidates if op.block == 0}
    assert found == {"o_proj", "gate_proj", "up_proj", "down_proj"}
    siblings = [note for note in table.kept if "fuses it with" in note.reason]
    assert len(siblings) == 2
    assert all(name in note.reason for note in siblings)


def test_including_a_part_of_a_fused_group_includes_none_of_it(vl: nn.Module) -> None:
    table = table_of(vl, include=["up_proj", "o_proj"])
    assert {name.rpartition(".")[2] for name in names(table.candidates)} == {"o_proj"}


def test_fused_siblings_of_a_skipped_op_are_left_out(llama: nn.Module) -> None:
    attention: Any = llama.get_submodule("model.layers.0.self_attn")
    attention.k_proj = Doubling(64, 32, bias=False)
    table = table_of(llama)
    assert names(table.skipped) == ["model.layers.0.self_attn.k_proj"]
    assert "model.layers.0.self_attn.q_proj" in reasons(table)
    assert "model.layers.1.self_attn.q_proj" in names(table.candidates)
    assert table.found == 15


class Doubling(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Renamed(nn.Linear):
    pass


def test_a_subclass_that_computes_in_its_own_way_is_skipped(llama: nn.Module) -> None:
    llama.add_module("adapter", Doubling(4, 4))
    table = table_of(llama)
    assert reasons(table)["adapter"] == "Doubling computes its output in its own way"
    assert names(table.skipped) == ["adapter"]


def test_a_subclass_that_only_has_another_name_is_a_candidate(llama: nn.Module) -> None:
    llama.add_module("adapter", Renamed(4, 4))
    op = next(op for op in table_of(llama).candidates if op.name == "adapter")
    assert (op.type, op.component) == ("Linear", "other")


def test_an_op_that_computes_its_weight_is_skipped(llama: nn.Module) -> None:
    llama.add_module("adapter", parametrizations.weight_norm(nn.Linear(4, 4)))
    table = table_of(llama)
    assert "adapter" in names(table.skipped)


def test_listing_changes_nothing(vl: nn.Module) -> None:
    weights = models_tiny.weights(vl)
    table_of(vl)
    assert models_tiny.forwards(vl) == {}
    assert models_tiny.hooks(vl) == 0
    for name, parameter in vl.named_parameters():
        assert parameter.data_ptr() == weights[name][0]
        assert torch.equal(parameter, weights[name][1])


VL = models_tiny.qwen2_5_vl()
VL_LAYOUT: Layout = adapter_for(VL.config).layout(VL)
patterns = st.lists(
    st.sampled_from(
        [
            *("*", "re:.*", "visual", "language_model", "lm_head", "layers.0", "blocks.1"),
            *("q_proj", "k_proj", "mlp", "*.mlp.*", "gate_proj", "patch_embed.proj", "qkv"),
            *(f"{LANGUAGE}.0.self_attn.v_proj", f"{LANGUAGE}.1.mlp.up_proj", "re:.*down.*"),
        ]
    ),
    max_size=4,
)


@settings(max_examples=60)
@given(
    include=patterns,
    exclude=patterns,
    types=st.lists(st.sampled_from(OP_TYPES), min_size=1, unique=True),
)
def test_rules_keep_their_promises(
    include: list[str], exclude: list[str], types: list[str]
) -> None:
    table = list_ops(VL, VL_LAYOUT, include=include, exclude=exclude, types=types)
    listed = [*names(table.candidates), *names(table.kept), *names(table.skipped)]
    assert len(set(listed)) == len(listed) == table.found == 28
    candidates = set(names(table.candidates))
    for op in table.candidates:
        assert not include or any(matches(op.name, pattern) for pattern in include)
    # Fused groups are whole.
    members: dict[str, set[str]] = {}
    for op in list_ops(VL, VL_LAYOUT, types=OP_TYPES).candidates:
        members.setdefault(op.group, set()).add(op.name)
    for group in members.values():
        assert group <= candidates or not group & candidates
