from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2_5_VLProcessor, dynamic_module_utils

import models_tiny
from quantspectrum.demo import model_dir
from quantspectrum.errors import UserError
from quantspectrum.models.loading import (
    Loaded,
    ModelSpec,
    check_safetensors,
    load_model,
    pick_device,
)

WEIGHTS = "model.safetensors"


@pytest.fixture
def saved(tmp_path: Path, llama: nn.Module) -> Path:
    return models_tiny.save(llama, tmp_path / "tiny")


def load(directory: Path | str, **options: Any) -> Loaded:
    return load_model(ModelSpec(**{"model": str(directory), "device": "cpu"} | options))


def refusal(directory: Path | str, **options: Any) -> str:
    """What loading says; it must be one sentence on one line, and not the last of a chain."""
    with pytest.raises(UserError) as caught:
        load(directory, **options)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert not message.endswith(".")
    assert len(message.replace(str(directory), "")) < 400
    return message


def test_a_saved_model_is_loaded_as_it_was(saved: Path, llama: nn.Module) -> None:
    loaded = load(saved)
    batch = models_tiny.text_batch()
    assert torch.equal(models_tiny.logits(loaded.model, batch), models_tiny.logits(llama, batch))
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.identity.id == "tiny"
    assert loaded.layout.head == "lm_head"
    assert not loaded.takes_images
    assert loaded.processor("ab")["input_ids"] == models_tiny.tokenizer()("ab")["input_ids"]


def test_a_vision_language_model_is_loaded_with_its_processor(
    tmp_path: Path, vl: nn.Module
) -> None:
    loaded = load(models_tiny.save(vl, tmp_path / "tiny"))
    batch = models_tiny.image_batch()
    assert torch.equal(models_tiny.logits(loaded.model, batch), models_tiny.logits(vl, batch))
    assert isinstance(loaded.processor, Qwen2_5_VLProcessor)
    assert loaded.takes_images


@pytest.mark.parametrize("tied", [False, True])
def test_tied_heads_are_not_taken_for_missing(tmp_path: Path, tied: bool) -> None:
    model = models_tiny.causal_lm(tie_word_embeddings=tied)
    loaded = load(models_tiny.save(model, tmp_path / "tiny"))
    batch = models_tiny.text_batch()
    assert torch.equal(models_tiny.logits(loaded.model, batch), models_tiny.logits(model, batch))


def test_a_relative_directory_is_named_by_its_own_name(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved)
    assert load(".").identity.id == "tiny"


def test_the_embedded_model_says_what_it_is() -> None:
    assert load(model_dir()).identity.id == "quantspectrum-demo"


def test_the_real_stories_model(stories_dir: Path) -> None:
    loaded = load(stories_dir)
    assert loaded.identity.model_type == "llama"
    assert 200_000 < loaded.identity.parameters < 300_000
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside."
    ids = torch.tensor([loaded.processor(text)["input_ids"]])
    with torch.inference_mode():
        loss = loaded.model(input_ids=ids, labels=ids).loss.item()
    # It was trained on such stories: about 1.5 nats a token, where guessing gives 6.2.
    assert loss < 2.5


@pytest.mark.parametrize(
    ("disk", "asked", "loaded", "storage"),
    [
        ("float32", "auto", "float32", "float32"),
        ("bfloat16", "auto", "float32", "bfloat16"),
        ("float16", "auto", "float32", "float16"),
        ("bfloat16", "float32", "float32", "bfloat16"),
        ("bfloat16", "bfloat16", "bfloat16", "bfloat16"),
        ("float32", "bfloat16", "bfloat16", "bfloat16"),
        ("bfloat16", "float16", "float16", "float16"),
    ],
)
@pytest.mark.parametrize("family", ["llama", "vl"])
def test_dtypes(
    tmp_path: Path, family: str, disk: str, asked: str, loaded: str, storage: str
) -> None:
    model = models_tiny.causal_lm() if family == "llama" else models_tiny.qwen2_5_vl()
    models_tiny.save(model, tmp_path / "tiny", getattr(torch, disk))
    found = load(tmp_path / "tiny", dtype=asked)
    assert {p.dtype for p in found.model.parameters()} == {getattr(torch, loaded)}
    assert found.identity.dtype == loaded
    assert found.storage_dtype == getattr(torch, storage)


def test_an_unknown_dtype_is_refused(saved: Path) -> None:
    message = refusal(saved, dtype="int8")
    assert "'int8'" in message
    assert "auto, float32, bfloat16, float16" in message


@pytest.mark.parametrize("device", ["tpu", "gpu", "cuda:x", "", "mps", "meta"])
def test_an_unknown_device_is_refused(saved: Path, device: str) -> None:
    message = refusal(saved, device=device)
    assert repr(device) in message
    assert "use auto, cpu, cuda or cuda:N" in message


def test_a_device_that_is_not_there_is_refused(saved: Path) -> None:
    count = torch.cuda.device_count()
    message = refusal(saved, device=f"cuda:{count}")
    assert f"{count} GPUs found; use --device cpu" in message


def test_auto_is_the_first_gpu_or_the_cpu() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_missing_directory_is_named(name: str) -> None:
    assert refusal(name) == f"model directory {name} does not exist"


def test_a_file_is_no_directory(saved: Path) -> None:
    path = saved / WEIGHTS
    assert refusal(path) == f"{path} is a file; give the directory that holds the model"


def test_an_empty_directory_is_no_model(tmp_path: Path) -> None:
    assert f"{tmp_path} holds no config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "3", "{}", '{"model_type": 3}', '{"model_type": "nonsense"}'],
)
def test_a_useless_configuration_is_refused(saved: Path, content: str) -> None:
    (saved / "config.json").write_text(content)
    assert str(saved) in refusal(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "wide"},
        {"hidden_size": 63},
        {"hidden_act": "nonsense"},
        {"rope_parameters": {"rope_type": "nonsense"}},
    ],
    ids=["type", "not divisible", "activation", "rope"],
)
def test_a_configuration_with_a_wrong_value_is_refused(saved: Path, change: dict[str, Any]) -> None:
    models_tiny.edit_config(saved, **change)
    assert str(saved) in refusal(saved)


@pytest.mark.parametrize("family", models_tiny.FAMILIES)
def test_every_kind_of_model_is_loaded_as_it_was(tmp_path: Path, family: str) -> None:
    model = models_tiny.family(family)
    kept = models_tiny.loaded(model)
    loaded = load(models_tiny.save(model, tmp_path / "tiny"))
    assert loaded.identity.weights_fingerprint == kept.identity.weights_fingerprint
    assert type(loaded.model) is type(model)
    assert loaded.task == kept.task
    one, other = (replace(it.layout, faster=nullcontext) for it in (loaded, kept))
    assert one == other
    for made in (loaded, kept):
        # What makes a model faster is about that model.
        faster = made.layout.faster
        assert faster is nullcontext or (
            isinstance(faster, partial) and faster.args == (made.model,)
        )
    assert loaded.takes_text is not hasattr(loaded.processor, "image_mean")
    assert loaded.takes_images is (family == "qwen2.5-vl")


def test_an_unsupported_architecture_is_refused(saved: Path) -> None:
    models_tiny.edit_config(saved, architectures=["WhisperModel"])
    assert "WhisperModel take 'input_features'; supported are" in refusal(saved)


def test_an_encoder_decoder_model_is_refused(saved: Path) -> None:
    models_tiny.edit_config(saved, model_type="t5", architectures=["T5ForConditionalGeneration"])
    assert "is an encoder-decoder model, which is not supported" in refusal(saved)


OWN_CODE = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

class Config(PretrainedConfig):
    model_type = "homemade"

class Model(PreTrainedModel):
    config_class = Config
    def __init__(self, config):
        super().__init__(config)
        self.embed, self.out = nn.Embedding(300, 8), nn.Linear(8, 4)
        self.post_init()
    def forward(self, input_ids, attention_mask=None):
        return (self.out(self.embed(input_ids)),)
"""


def test_a_model_with_its_own_code_is_loaded_when_that_is_allowed(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers copies the code to where it can be imported from.
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "code"))
    (saved / "code_of_model.py").write_text(OWN_CODE)
    (saved / "config.json").write_text(
        json.dumps(
            {
                "model_type": "homemade",
                "architectures": ["Model"],
                "auto_map": {
                    "AutoConfig": "code_of_model.Config",
                    "AutoModel": "code_of_model.Model",
                },
            }
        )
    )
    tensors = {"embed.weight": (300, 8), "out.weight": (4, 8), "out.bias": (4,)}
    save_file(
        {name: torch.ones(shape) for name, shape in tensors.items()},
        saved / WEIGHTS,
        metadata={"format": "pt"},
    )
    loaded = load(saved, trust_remote_code=True)
    assert (loaded.task, loaded.layout.stacks) == ("text", ())
    assert loaded.identity.parameters == 300 * 8 + 4 * 8 + 4


def test_pickled_weights_are_refused(saved: Path, llama: nn.Module) -> None:
    (saved / WEIGHTS).unlink()
    torch.save(llama.state_dict(), saved / "pytorch_model.bin")
    message = refusal(saved)
    assert "no .safetensors file" in message
    assert "convert them to safetensors first" in message


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 5000, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    path = saved / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(saved)
    assert str(path) in message
    assert "fetch it again" in message


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}q\x00." * 50,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        struct.pack("<Q", 20) + b"not json at all, sir" + bytes(100),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 6) + b'{"a":1}'[:6],
        struct.pack("<Q", 8) + b'{"a": 1}',
        struct.pack("<Q", 9) + b'{"a": {}}',
        struct.pack("<Q", 2**63) + bytes(100),
    ],
    ids=["pickle", "lfs pointer", "no json", "list", "half", "number", "no offsets", "huge"],
)
def test_garbage_is_refused(saved: Path, content: bytes) -> None:
    path = saved / WEIGHTS
    path.write_bytes(content)
    message = refusal(saved)
    assert str(path) in message
    assert "fetch it again" in message


def test_a_garbled_header_of_the_right_length_is_refused(saved: Path) -> None:
    path = saved / WEIGHTS
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"F32"', b'"XYZ"'))
    assert str(saved) in refusal(saved)


def test_a_whole_file_passes_the_check(saved: Path) -> None:
    check_safetensors(saved / WEIGHTS)


def test_an_empty_safetensors_file_passes_the_check(tmp_path: Path) -> None:
    save_file({}, tmp_path / WEIGHTS, metadata={"format": "pt"})
    check_safetensors(tmp_path / WEIGHTS)


@pytest.fixture
def edit_weights(saved: Path) -> Callable[[Callable[[dict[str, torch.Tensor]], object]], Path]:
    def edit(change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        tensors = load_file(saved / WEIGHTS)
        change(tensors)
        save_file(tensors, saved / WEIGHTS, metadata={"format": "pt"})
        return saved

    return edit


@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"]
)
def test_a_missing_weight_is_named(edit_weights: Callable[..., Path], name: str) -> None:
    message = refusal(edit_weights(lambda tensors: tensors.pop(name)))
    assert f"lacks 1 weights the model needs, {name} first" in message
    assert "fetch it again" in message


def test_weights_of_another_shape_are_refused(edit_weights: Callable[..., Path]) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    directory = edit_weights(lambda tensors: tensors.update({name: torch.zeros(3, 3)}))
    message = refusal(directory)
    assert str(directory) in message
    assert name in message


def test_weights_of_another_model_are_refused(edit_weights: Callable[..., Path]) -> None:
    def replace(tensors: dict[str, torch.Tensor]) -> None:
        tensors.clear()
        tensors["something.else"] = torch.zeros(2)

    assert "lacks" in refusal(edit_weights(replace))


def test_a_missing_shard_is_refused(saved: Path, llama: nn.Module) -> None:
    (saved / WEIGHTS).unlink()
    llama.save_pretrained(saved, max_shard_size="100KB")
    shards = sorted(saved.glob("*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    message = refusal(saved)
    assert str(saved) in message


def test_several_shards_are_loaded(saved: Path, llama: nn.Module) -> None:
    (saved / WEIGHTS).unlink()
    llama.save_pretrained(saved, max_shard_size="100KB")
    batch = models_tiny.text_batch()
    assert torch.equal(
        models_tiny.logits(load(saved).model, batch), models_tiny.logits(llama, batch)
    )


def test_a_broken_index_is_refused(saved: Path, llama: nn.Module) -> None:
    (saved / WEIGHTS).unlink()
    llama.save_pretrained(saved, max_shard_size="100KB")
    (saved / "model.safetensors.index.json").write_text("{")
    assert str(saved) in refusal(saved)


def test_a_missing_tokenizer_is_refused(saved: Path) -> None:
    for path in saved.glob("tokenizer*"):
        path.unlink()
    assert f"cannot load the processor of {saved}" in refusal(saved)


def test_a_broken_tokenizer_is_refused(saved: Path) -> None:
    (saved / "tokenizer.json").write_text("{")
    assert f"cannot load the processor of {saved}" in refusal(saved)


def test_a_tokenizer_of_a_newer_kind_is_refused(saved: Path) -> None:
    """The tokenizers library raises a bare ``Exception`` at what it does not know."""
    raw = json.loads((saved / "tokenizer.json").read_text())
    raw["model"]["type"] = "TokenizerOfTomorrow"
    (saved / "tokenizer.json").write_text(json.dumps(raw))
    assert f"cannot load the processor of {saved}" in refusal(saved)


def test_a_gguf_file_that_is_not_there_is_named(saved: Path) -> None:
    assert "'q4.gguf' (--gguf-file)" in refusal(saved, gguf_file="q4.gguf")


def test_a_garbage_gguf_file_is_refused(saved: Path) -> None:
    (saved / "q4.gguf").write_bytes(b"GGUF" + bytes(100))
    assert str(saved) in refusal(saved, gguf_file="q4.gguf")


def test_code_that_comes_with_a_model_is_not_run(saved: Path) -> None:
    models_tiny.edit_config(
        saved,
        model_type="homemade",
        auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    )
    (saved / "code.py").write_text(f"open({str(saved / 'was-run')!r}, 'w')\n")
    assert str(saved) in refusal(saved)
    assert not (saved / "was-run").exists()
