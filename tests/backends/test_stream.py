"""Quantizing tensor by tensor from a checkpoint's files, without loading the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import models_tiny
from backends.variants import MIXED, spectrum_of, variant
from quantspectrum.backends import compressed_tensors
from quantspectrum.errors import UserError
from quantspectrum.models.lazy import open_model
from quantspectrum.models.loading import ModelSpec, load_model

FAMILIES = ["llama", "qwen2.5-vl", "bert", "vit", "swin", "bert classifier"]
CASES = [(family, fmts) for family in FAMILIES for fmts in (("w8a8-static",), MIXED)]
# T5's own code asks a Linear for its weight while it is loaded: it has no packed ones.
CASES.append(("unknown text", ("w8a8-static", "fp8")))


def saved(name: str, directory: Path, dtype: torch.dtype = torch.bfloat16) -> ModelSpec:
    models_tiny.save(models_tiny.family(name), directory, dtype)
    return ModelSpec(model=str(directory), device="cpu")


@pytest.mark.parametrize(("family", "formats"), CASES)
def test_it_is_the_variant_of_the_loaded_model(
    family: str, formats: tuple[str, ...], tmp_path: Path
) -> None:
    """Every file is the same; the stage itself verifies both."""
    spec = saved(family, tmp_path / "source")
    loaded = load_model(spec)
    spectrum = spectrum_of(loaded, formats)
    first = variant(loaded, spectrum, tmp_path / "loaded")
    second = variant(open_model(spec), spectrum, tmp_path / "streamed")
    assert first.files.keys() == second.files.keys()
    assert first.quantized_weight_bytes == second.quantized_weight_bytes
    for name in first.files:
        if name.endswith(".safetensors"):
            a, b = (load_file(tmp_path / d / name) for d in ("loaded", "streamed"))
            assert a.keys() == b.keys()
            for key, value in a.items():
                bits = [t.reshape(-1).view(torch.uint8) for t in (value, b[key])]
                assert torch.equal(*bits), key
        elif name.endswith(".json"):
            configs = [
                json.loads((tmp_path / d / name).read_text()) for d in ("loaded", "streamed")
            ]
            for config in configs:
                config.pop("_from_model_config", None)
            assert configs[0] == configs[1], name


@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_head_is_written_once(tied: bool, tmp_path: Path) -> None:
    models_tiny.save(models_tiny.qwen2_5_vl(tied=tied), tmp_path / "m")
    spec = ModelSpec(model=str(tmp_path / "m"), device="cpu")
    loaded = load_model(spec)
    variant(open_model(spec), spectrum_of(loaded), tmp_path / "v")
    heads = {"lm_head.weight", "lm_head.weight_scale"} & load_file(
        tmp_path / "v/model.safetensors"
    ).keys()
    assert bool(heads) == (not tied)


def test_a_spectrum_of_other_weights_is_refused(tmp_path: Path) -> None:
    spec = saved("llama", tmp_path / "a")
    models_tiny.save(models_tiny.causal_lm(seed=1), tmp_path / "b", torch.bfloat16)
    other = load_model(ModelSpec(model=str(tmp_path / "b"), device="cpu"))
    with pytest.raises(UserError, match="make a spectrum of them"):
        variant(open_model(spec), spectrum_of(other), tmp_path / "v")
    assert not (tmp_path / "v").exists()


def test_a_variant_is_no_source(tmp_path: Path) -> None:
    spec = saved("llama", tmp_path / "a")
    loaded = load_model(spec)
    variant(loaded, spectrum_of(loaded), tmp_path / "v")
    with pytest.raises(UserError, match="quantized already"):
        open_model(ModelSpec(model=str(tmp_path / "v"), device="cpu"))


def test_several_shards_in_and_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models_tiny.causal_lm()
    model.save_pretrained(tmp_path / "m", max_shard_size="100KB")
    models_tiny.processor_for(model).save_pretrained(tmp_path / "m")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 2
    spec = ModelSpec(model=str(tmp_path / "m"), device="cpu")
    write_shards = compressed_tensors.write_shards
    monkeypatch.setattr(
        compressed_tensors,
        "write_shards",
        lambda directory, entries: write_shards(directory, entries, max_shard_bytes=50_000),
    )
    manifest = variant(open_model(spec), spectrum_of(load_model(spec)), tmp_path / "v")
    assert sum(name.endswith(".safetensors") for name in manifest.files) > 2
    found = load_model(ModelSpec(model=str(tmp_path / "v"), device="cpu"))
    assert found.model.get_submodule("model.layers.0.mlp.up_proj").quantization_scheme


_STREAM = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from quantspectrum.artifacts import Spectrum, read_artifact
from quantspectrum.backends.quantize import quantize_profile
from quantspectrum.models.lazy import open_model
from quantspectrum.models.loading import ModelSpec, load_model
how, model, spectrum, out = sys.argv[1:]
# What importing and encoding take is no part of it: the peak is counted above what is there.
import transformers.models.llama.modeling_llama, quantspectrum.backends.verify
torch.ones(64, 64) @ torch.ones(64, 64)
def status(field):
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(field)) * 1024
# Peak from here on: that of a process begins with what the one that started it had.
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
spec = ModelSpec(model=model, device="cpu", dtype="bfloat16")
source = open_model(spec) if how == "stream" else load_model(spec)
quantize_profile(source, read_artifact(Path(spectrum), Spectrum), "all", Path(out), spectrum_sha256="x")
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are told by Linux")
def test_memory_is_that_of_a_few_tensors(tmp_path: Path) -> None:
    """A checkpoint of 330 MB in shards of 32 MB: the peak stays near a shard."""
    from quantspectrum.artifacts import write_artifact

    model = models_tiny.causal_lm(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=10, num_attention_heads=8
    )
    models_tiny.cast(model, torch.bfloat16).save_pretrained(tmp_path / "m", max_shard_size="32MB")
    models_tiny.processor_for(model).save_pretrained(tmp_path / "m")
    size = sum(path.stat().st_size for path in (tmp_path / "m").glob("*.safetensors"))
    loaded = load_model(ModelSpec(model=str(tmp_path / "m"), device="cpu", dtype="bfloat16"))
    write_artifact(tmp_path / "s.json", spectrum_of(loaded))
    del loaded, model
    peaks = {}
    for how in ("stream", "memory"):
        done = subprocess.run(
            [sys.executable, "-c", _STREAM, how, tmp_path / "m", tmp_path / "s.json", tmp_path / how],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert not done.returncode, done.stderr
        peaks[how] = json.loads(done.stdout.splitlines()[-1])
    assert size > 300e6
    assert peaks["memory"] > 0.9 * size
    # The largest tensor has 8 MB; in float32 and as codes, a few of them are 100 MB.
    assert peaks["stream"] < 0.45 * size, peaks
    assert (tmp_path / "stream/manifest.json").is_file()
