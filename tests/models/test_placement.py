from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.placement import (
    execution_device,
    inner_forward_slot,
    input_device,
    is_placed,
    named_parameters,
    named_tensors,
    tensor_of,
    tied_names,
    weight_of,
)

CPU = torch.device("cpu")
UP = "model.layers.1.mlp.up_proj"


def on_cpu(model: Any, folder: Path) -> None:
    accelerate.cpu_offload(model, execution_device=CPU)


def on_disk(model: Any, folder: Path) -> None:
    accelerate.disk_offload(model, folder, execution_device=CPU)


def in_parts(model: Any, folder: Path) -> None:
    """The last block on disk, the rest where it is."""
    parts = ("embed_tokens", "layers.0", "norm", "rotary_emb")
    places = {f"model.{part}": "cpu" for part in parts}
    accelerate.dispatch_model(
        model, places | {"model.layers.1": "disk", "lm_head": "cpu"}, offload_dir=folder
    )


PLACEMENTS = [on_cpu, on_disk, in_parts]
placed = pytest.mark.parametrize("place", PLACEMENTS, ids=lambda place: place.__name__)
Place = Callable[[Any, Path], None]


@placed
@pytest.mark.parametrize("tied", [False, True])
def test_a_placed_model_has_the_identity_of_the_same_one_loaded_plainly(
    tmp_path: Path, place: Place, tied: bool
) -> None:
    plain = models_tiny.loaded(models_tiny.causal_lm(tie_word_embeddings=tied))
    model = models_tiny.causal_lm(tie_word_embeddings=tied)
    place(model, tmp_path)
    assert any(p.device.type == "meta" for p in model.parameters())
    assert models_tiny.loaded(model).identity == plain.identity


@placed
@pytest.mark.parametrize("family", ["qwen2.5-vl", "qwen3 moe", "bert", "vit"])
def test_every_kind_keeps_its_identity(tmp_path: Path, place: Place, family: str) -> None:
    model = models_tiny.family(family)
    before = models_tiny.loaded(model).identity
    if place is in_parts:
        halves = [name for name, _ in model.named_children()]
        folder: dict[str, Any] = {"offload_dir": tmp_path}
        accelerate.dispatch_model(
            model, dict.fromkeys(halves, "cpu") | {halves[0]: "disk"}, **folder
        )
    else:
        place(model, tmp_path)
    assert models_tiny.loaded(model).identity == before


@placed
def test_values_are_read_wherever_they_are(tmp_path: Path, place: Place, llama: nn.Module) -> None:
    expected = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    place(llama, tmp_path)
    found = {name: read() for name, read in named_tensors(llama)}
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(weight_of(llama.get_submodule(UP)), expected[f"{UP}.weight"])
    # Reading changes nothing: what was offloaded still is.
    assert llama.get_parameter(f"{UP}.weight").device.type == "meta"


@pytest.mark.parametrize("tied", [False, True])
def test_named_parameters_are_those_of_torch(tied: bool) -> None:
    model = models_tiny.causal_lm(tie_word_embeddings=tied)
    expected = dict(model.named_parameters())
    found = {name: read() for name, read in named_parameters(model)}
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@placed
def test_a_biased_op_and_a_buffer_are_read(tmp_path: Path, place: Place) -> None:
    model = models_tiny.causal_lm("qwen2")
    op = model.get_submodule("model.layers.1.self_attn.q_proj")
    bias = op.get_parameter("bias").clone()
    frequencies = model.get_buffer("model.rotary_emb.inv_freq").clone()
    place(model, tmp_path)
    assert torch.equal(tensor_of(op, "bias"), bias)
    rotary = model.get_submodule("model.rotary_emb")
    assert torch.equal(tensor_of(rotary, "inv_freq"), frequencies)


def test_a_weight_without_values_is_told() -> None:
    with pytest.raises(UserError, match="weight of a Linear is on the device 'meta'"):
        weight_of(nn.Linear(2, 2, device="meta"))


@placed
def test_what_replaces_the_inner_forward_sees_the_weights(
    tmp_path: Path, place: Place, llama: nn.Module
) -> None:
    place(llama, tmp_path)
    op: Any = llama.get_submodule(UP)
    slot = inner_forward_slot(op)
    assert slot == "_old_forward"
    before, seen = getattr(op, slot), []

    def forward(x: Tensor) -> Tensor:
        seen.append(op.weight.device.type)
        output: Tensor = before(x)
        return output * 0

    batch = models_tiny.text_batch()
    plain = models_tiny.logits(llama, batch)
    setattr(op, slot, forward)
    replaced = models_tiny.logits(llama, batch)
    setattr(op, slot, before)
    assert seen == ["cpu"]
    assert not torch.equal(replaced, plain)
    assert torch.equal(models_tiny.logits(llama, batch), plain)


def test_a_plain_module_has_its_forward_in_its_usual_place(llama: nn.Module) -> None:
    op = llama.get_submodule(UP)
    assert inner_forward_slot(op) == "forward"
    assert not is_placed(llama)
    assert execution_device(op) == CPU
    assert input_device(llama, torch.device("meta")) == torch.device("meta")


@placed
def test_devices_of_a_placed_model(tmp_path: Path, place: Place, llama: nn.Module) -> None:
    place(llama, tmp_path)
    assert is_placed(llama)
    assert execution_device(llama.get_submodule(UP)) == CPU
    assert input_device(llama, torch.device("meta")) == CPU


def test_the_device_of_a_hook_decides() -> None:
    op = nn.Linear(2, 2)
    accelerate.hooks.add_hook_to_module(
        op, accelerate.hooks.AlignDevicesHook(torch.device("meta"), offload=True)
    )
    assert execution_device(op) == torch.device("meta")


@placed
@pytest.mark.parametrize("tied", [False, True])
def test_ties_outlive_offloading(tmp_path: Path, place: Place, tied: bool) -> None:
    model = models_tiny.causal_lm(tie_word_embeddings=tied)
    before = tied_names(model)
    assert (before["lm_head.weight"] == "model.embed_tokens.weight") is tied
    place(model, tmp_path)
    assert tied_names(model) == before


# Loading


@pytest.fixture
def saved(tmp_path: Path, llama: nn.Module) -> Path:
    return models_tiny.save(llama, tmp_path / "tiny")


def load(directory: Path, device_map: object, **options: Any) -> Loaded:
    spec = {"model": str(directory), "device": "cpu", "device_map": str(device_map)}
    return load_model(ModelSpec(**spec | options))


def test_cpu_offload(saved: Path, llama: nn.Module) -> None:
    loaded = load(saved, "cpu-offload")
    batch = models_tiny.text_batch()
    assert all(p.device.type == "meta" for p in loaded.model.parameters())
    assert torch.equal(models_tiny.logits(loaded.model, batch), models_tiny.logits(llama, batch))
    assert loaded.identity == load_model(ModelSpec(model=str(saved), device="cpu")).identity
    assert loaded.device == CPU


def around(model: nn.Module, block: str) -> list[str]:
    """Names that hold, between them, all of a model but one of its modules."""
    parts = block.split(".")
    parents = [".".join(parts[:depth]) for depth in range(len(parts))]
    names = []
    for parent in parents:
        module = model.get_submodule(parent)
        held = [*module.named_children(), *module.named_parameters(recurse=False)]
        names += [f"{parent}.{name}".lstrip(".") for name, _ in held]
    return [name for name in names if name not in (*parents, block)]


@pytest.mark.parametrize("family", ["llama", "qwen2.5-vl", "bert", "vit", "qwen3 moe"])
def test_a_device_map_of_a_file(tmp_path: Path, family: str) -> None:
    model = models_tiny.family(family)
    saved = models_tiny.save(model, tmp_path / "tiny")
    block = f"{models_tiny.loaded(model).layout.stacks[-1].path}.1"
    places = dict.fromkeys(around(model, block), "cpu") | {block: "disk"}
    (tmp_path / "map.json").write_text(json.dumps(places))
    loaded = load(saved, tmp_path / "map.json", offload_folder=str(tmp_path / "weights"))
    assert any(p.device.type == "meta" for p in loaded.model.parameters())
    assert (
        loaded.identity.weights_fingerprint
        == models_tiny.loaded(model).identity.weights_fingerprint
    )


def test_a_named_device_map(saved: Path, llama: nn.Module) -> None:
    if torch.cuda.is_available():
        pytest.skip("a device map would choose the GPU; this is about a machine without one")
    loaded = load(saved, "auto")
    batch = models_tiny.text_batch()
    assert torch.equal(models_tiny.logits(loaded.model, batch), models_tiny.logits(llama, batch))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "'MAP' is unknown; give auto, balanced, balanced_low_0, sequential, cpu-offload"),
        ("{", "is not JSON"),
        ("[]", "must be an object of module names and devices"),
        ('{"model": [0]}', "must be an object of module names and devices"),
        ('{"model": true}', "must be an object of module names and devices"),
        ('{"": "cpu", "nothing": "cpu"}', "MAP places 'nothing', which the model lacks"),
        ('{"model": "cpu"}', "MAP places no lm_head.weight"),
        ('{"": "gpu"}', "cannot load"),
    ],
)
def test_a_wrong_device_map_is_told(
    saved: Path, tmp_path: Path, content: str | None, said: str
) -> None:
    path = tmp_path / "map.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        load(saved, path)
    assert said.replace("MAP", str(path)) in str(caught.value)


def test_a_missing_accelerate_is_told(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"--device-map needs the accelerate package; run pip"):
        load(saved, "cpu-offload")
