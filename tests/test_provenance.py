from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

import models_tiny
import quantspectrum
from quantspectrum.artifacts import ModelIdentity
from quantspectrum.models.loading import ModelSpec, load_model
from quantspectrum.provenance import Stopwatch, describe_model, environment

CPU = torch.device("cpu")


def identify(model: nn.Module) -> ModelIdentity:
    return describe_model(model, model.config, model_id="tiny", revision="abc")


def change(edit: Callable[[nn.Module], object]) -> tuple[ModelIdentity, ModelIdentity]:
    """Identities of a model before and after it is edited."""
    model = models_tiny.causal_lm()
    before = identify(model)
    with torch.no_grad():
        edit(model)
    return before, identify(model)


@pytest.fixture(params=["llama", "vl"])
def half(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint kept in bfloat16."""
    model = models_tiny.causal_lm() if request.param == "llama" else models_tiny.qwen2_5_vl()
    return models_tiny.save(model, tmp_path / "model", torch.bfloat16)


def test_a_bfloat16_checkpoint_is_the_same_model_in_either_type(half: Path) -> None:
    wide, narrow = (
        load_model(ModelSpec(model=str(half), dtype=dtype, device="cpu")).identity
        for dtype in ("float32", "bfloat16")
    )
    assert wide.weights_fingerprint == narrow.weights_fingerprint
    assert (wide.dtype, narrow.dtype) == ("float32", "bfloat16")


def test_a_configuration_is_the_same_in_either_type(half: Path) -> None:
    hashes = {
        load_model(ModelSpec(model=str(half), dtype=dtype, device="cpu")).identity.config_hash
        for dtype in ("float32", "bfloat16")
    }
    assert len(hashes) == 1


def test_equal_models_have_equal_identities() -> None:
    assert identify(models_tiny.causal_lm()) == identify(models_tiny.causal_lm())


def test_identity_says_what_it_was_given() -> None:
    model = models_tiny.causal_lm()
    identity = identify(model)
    assert (identity.id, identity.revision, identity.model_type) == ("tiny", "abc", "llama")
    assert identity.parameters == sum(p.numel() for p in model.parameters())


def test_tied_parameters_count_once() -> None:
    tied = identify(models_tiny.causal_lm(tie_word_embeddings=True))
    untied = identify(models_tiny.causal_lm())
    assert untied.parameters - tied.parameters == models_tiny.VOCABULARY * 64


@pytest.mark.parametrize(
    "name", [name for name, _ in models_tiny.causal_lm().named_parameters() if "0" in name]
)
def test_fingerprint_changes_with_every_weight(name: str) -> None:
    before, after = change(lambda model: model.get_parameter(name).mul_(1.01))
    assert before.weights_fingerprint != after.weights_fingerprint
    assert before.config_hash == after.config_hash


@pytest.mark.parametrize("size", [1, 63, 64, 65, 96, 127, 128, 190, 1000])
def test_fingerprint_looks_at_the_whole_of_a_weight(size: int) -> None:
    """It takes 64 values, evenly spaced: no eighth of a weight goes unseen."""
    parts = min(size, 8)

    def fingerprint(part: int | None) -> str:
        values = torch.zeros(size)
        if part is not None:
            values[part * size // parts : (part + 1) * size // parts] = 1.0
        holder = nn.Module()
        holder.register_parameter("weight", nn.Parameter(values))
        return describe_model(holder, LlamaConfig(), model_id="", revision=None).weights_fingerprint

    unseen = [part for part in range(parts) if fingerprint(part) == fingerprint(None)]
    assert unseen == []


def test_fingerprint_sees_two_weights_exchanged() -> None:
    def exchange(model: nn.Module) -> None:
        first = model.get_parameter("model.layers.0.mlp.gate_proj.weight")
        second = model.get_parameter("model.layers.0.mlp.up_proj.weight")
        first.data, second.data = second.data.clone(), first.data.clone()

    before, after = change(exchange)
    assert before.weights_fingerprint != after.weights_fingerprint


def test_config_hash_changes_with_the_configuration() -> None:
    before, after = change(lambda model: setattr(model.config, "rms_norm_eps", 0.5))
    assert before.config_hash != after.config_hash
    assert before.weights_fingerprint == after.weights_fingerprint


def test_describing_does_not_change_the_model(llama: nn.Module) -> None:
    before = models_tiny.weights(llama)
    identify(llama)
    after = models_tiny.weights(llama)
    assert all(after[n][0] == p and torch.equal(after[n][1], v) for n, (p, v) in before.items())


def test_environment_names_what_figures_depend_on() -> None:
    found = environment(CPU)
    assert found.packages["torch"] == torch.__version__.split("+")[0]
    assert {"transformers", "compressed-tensors", "safetensors", "numpy"} <= set(found.packages)
    assert found.device == "cpu"
    assert found.device_name
    assert found.cpus >= 1


def test_git_sha_is_that_of_the_checkout() -> None:
    root = Path(quantspectrum.__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("the package does not run from a git checkout")
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert environment(CPU).git_sha == head.stdout.strip()


def test_stopwatch_measures_wall_time_and_memory(llama: nn.Module) -> None:
    watch = Stopwatch(CPU)
    time.sleep(0.05)
    provenance = watch.provenance(identify(llama), seed=3)
    assert 0.05 <= provenance.wall_s < 5
    assert provenance.seed == 3
    assert provenance.peak_device_bytes is None
    # A process that has imported torch holds more than 50 MB and less than a TB.
    assert 5e7 < (provenance.peak_host_bytes or 0) < 1e12
