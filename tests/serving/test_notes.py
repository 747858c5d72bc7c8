"""What a manifest says of the engines, and what is printed of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantspectrum.serving.notes import serving_notes


def write(directory: Path, config: str) -> Path:
    directory.mkdir()
    codes, scale = np.zeros((64, 64), np.int8), np.ones((64, 1), np.float32)
    tensors = {}
    for leaf in ("q_proj", "k_proj", "v_proj"):
        op = f"model.layers.0.self_attn.{leaf}"
        tensors |= {f"{op}.weight": codes, f"{op}.weight_scale": scale}
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(config)
    return directory


CONFIG = """{"architectures": ["LlamaForCausalLM"], "quantization_config": {
"quant_method": "compressed-tensors", "format": "int-quantized", "ignore": [%s], "config_groups": {"g": {
"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
"input_activations": {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true}}}}}"""


def test_a_whole_variant_serves(tmp_path: Path) -> None:
    notes = serving_notes(write(tmp_path / "v", CONFIG % ""))
    assert [(note.engine, note.serves, note.errors) for note in notes] == [
        ("vllm", True, ()),
        ("sglang", True, ()),
    ]


def test_a_torn_one_does_not_and_says_why(tmp_path: Path) -> None:
    notes = serving_notes(write(tmp_path / "v", CONFIG % '"model.layers.0.self_attn.k_proj"'))
    assert [note.serves for note in notes] == [False, False]
    assert all("self_attn.qkv_proj is one layer" in note.errors[0] for note in notes)


def test_what_is_no_checkpoint_of_tensors_has_no_notes(tmp_path: Path) -> None:
    assert serving_notes(tmp_path) == ()


def test_quantize_warns_of_a_variant_that_is_not_served(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from quantspectrum import stages
    from quantspectrum.artifacts import ServingNote
    from quantspectrum.commands import variants

    notes = (
        ServingNote(engine="vllm", engine_version="1", serves=False, errors=("torn",)),
        ServingNote(engine="sglang", engine_version="1", serves=True),
    )
    made: Any = SimpleNamespace(
        serving=notes,
        verification=SimpleNamespace(relative_l2=None),
        profile=SimpleNamespace(ops={}),
        total_bytes=0,
        writer=None,
        model_dump_json=lambda **_: "{}",
    )
    monkeypatch.setattr(stages, "quantize", lambda *_, **__: made)
    monkeypatch.setattr(variants, "load", lambda _: None)
    monkeypatch.setattr(variants, "data_request", lambda _: None)
    args = argparse.Namespace(
        out="v", transform=None, algorithm="rtn", smoothing=0.5, quiet=False, stream=False,
        backend_option=None, spectrum="s", profile="p", backend="compressed-tensors", json=False,
    )  # fmt: skip
    assert variants.quantize(args) == 0
    printed = capsys.readouterr()
    assert "warning: vllm will not serve it: torn" in printed.err
    assert "sglang" not in printed.err
