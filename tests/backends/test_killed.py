"""kill -9 while a variant is written: nothing looks finished, and the next run cleans up."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import models_tiny
from backends.variants import spectrum_of, variant
from quantspectrum.artifacts import write_artifact
from quantspectrum.models.loading import ModelSpec, load_model

pytestmark = pytest.mark.slow

_SCRIPT = """
import os, signal, sys
from pathlib import Path
from quantspectrum.artifacts import Spectrum, read_artifact
from quantspectrum.backends import checkpoint, compressed_tensors, quantize
from quantspectrum.models.loading import ModelSpec, load_model
where, model, spectrum, out = sys.argv[1:]
def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)
if where == "in a shard":
    calls, original = [], checkpoint._write_all
    def write(*args):
        calls.append(1)
        if len(calls) > 6:
            die()
        original(*args)
    checkpoint._write_all = write
elif where == "between shards":
    calls, original_file = [], checkpoint._write_file
    original_shards = compressed_tensors.write_shards
    compressed_tensors.write_shards = lambda d, e: original_shards(d, e, max_shard_bytes=50_000)
    def write_file(*args):
        calls.append(1)
        if len(calls) > 2:
            die()
        original_file(*args)
    checkpoint._write_file = write_file
elif where == "before loading back":
    quantize.load_model = die
elif where == "before the manifest":
    quantize.write_artifact = die
elif where == "before the rename":
    Path.rename = die
quantize.quantize_profile(
    load_model(ModelSpec(model=model, device="cpu")), read_artifact(Path(spectrum), Spectrum),
    "all", Path(out), spectrum_sha256="x")
"""


@pytest.mark.parametrize(
    "where",
    [
        "in a shard",
        "between shards",
        "before loading back",
        "before the manifest",
        "before the rename",
    ],
)
def test_a_killed_run_leaves_nothing_that_looks_finished(where: str, tmp_path: Path) -> None:
    directory = models_tiny.save(models_tiny.causal_lm(), tmp_path / "m")
    loaded = load_model(ModelSpec(model=str(directory), device="cpu"))
    spectrum = spectrum_of(loaded)
    write_artifact(tmp_path / "s.json", spectrum)
    runs = tmp_path / "runs"
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, where, directory, tmp_path / "s.json", runs / "v"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in runs.iterdir()] == [".v.partial"]
    # Something had been written, and not under a name that a loader or a run would take.
    assert any((runs / ".v.partial").iterdir())
    assert list(runs.glob("*/manifest.json")) == [] or where == "before the rename"
    manifest = variant(loaded, spectrum, runs / "v")
    assert [path.name for path in runs.iterdir()] == ["v"]
    assert manifest.files == {
        path.name: path.stat().st_size
        for path in (runs / "v").iterdir()
        if path.name != "manifest.json"
    }
