"""Time and memory of writing variants: five of one model, loaded and streamed.

    python bench/write_checkpoint.py --out bench/results/write_checkpoint.json
    python bench/write_checkpoint.py --assets DIR --device cuda --work DIR --out FILE
    python bench/write_checkpoint.py --assets DIR --ways stream --work DIR --out FILE

Without `--assets` a random Qwen2 of mid size is drawn; with it, Qwen2.5-VL-3B at its true size from
its public configuration (`DIR/models/qwen2.5-vl-3b-config`, and the files of
`DIR/models/qwen2.5-vl-processor`). Weights are random numbers, the same 16 million over and over:
times, bytes and memory mean something, and losses do not. Every variant is verified as always.
Beside them: how fast the same disk takes a file of random bytes, flushed and not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, Qwen2Config

from quantspectrum.artifacts import Op, Profile, Spectrum, read_artifact, write_artifact
from quantspectrum.backends.checkpoint import Entry, write_shards
from quantspectrum.backends.quantize import quantize_profile
from quantspectrum.backends.weights import row_blocks
from quantspectrum.formats import PRESETS
from quantspectrum.models import adapter_for
from quantspectrum.models.lazy import meta_model, open_model
from quantspectrum.models.loading import ModelSpec, load_model
from quantspectrum.models.ops import list_ops
from quantspectrum.models.placement import tied_names
from quantspectrum.provenance import environment

WAYS = ["memory", "stream"]

PROFILES = {
    "mild": (0.25, ("w8a8",)),
    "medium": (0.5, ("w8a8",)),
    "aggressive": (0.75, ("w8a8",)),
    "max": (1.0, ("w8a8",)),
    "mixed": (1.0, ("w8a8", "fp8", "w4a16")),
}


def build(assets: Path | None, out: Path) -> None:
    """Write a checkpoint of random weights, shard by shard, with a processor."""
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    config: Any
    if assets is None:
        from quantspectrum.demo import model_dir

        config = Qwen2Config(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=16,
            num_attention_heads=16, num_key_value_heads=4, vocab_size=32000,
            tie_word_embeddings=False, architectures=["Qwen2ForCausalLM"],
        )  # fmt: skip
        weights = ("config.json", "generation_config.json", "model.safetensors")
        processor = [f for f in model_dir().iterdir() if f.name not in weights]
    else:
        config = AutoConfig.from_pretrained(assets / "models/qwen2.5-vl-3b-config")
        processor = list((assets / "models/qwen2.5-vl-processor").iterdir())
    config.dtype = torch.bfloat16
    for file in processor:
        shutil.copy(file, out)
    config.save_pretrained(out)
    model = meta_model(config, adapter_for(config).task, torch.bfloat16)
    drawn = torch.randn(2**24).mul_(0.02).bfloat16()
    tied = tied_names(model)
    entries = [
        Entry(name=name, shape=tuple(t.shape), dtype=t.dtype, make=partial(parts, drawn, t))
        for name, t in model.state_dict(keep_vars=True).items()
        if tied[name] == name
    ]
    write_shards(out, entries, max_shard_bytes=2 * 10**9)


def parts(drawn: Tensor, like: Tensor) -> Iterator[Tensor]:
    """Rows of a tensor, from a random place on; norms are near 1."""
    for rows in row_blocks(like.shape, torch.device("cpu")):
        shape = torch.empty(like.shape, device="meta")[rows].shape
        start = int(torch.randint(len(drawn) - math.prod(shape), ()))
        values = drawn[start : start + math.prod(shape)].reshape(shape)
        yield 1 + values if like.ndim == 1 else values


def spectrum_for(directory: Path) -> Spectrum:
    """Profiles of the first so many groups of ops, whatever they are worth."""
    source = open_model(ModelSpec(model=str(directory), device="cpu"))
    layout = adapter_for(source.config).layout(source.model)
    ops = [Op(**vars(op)) for op in list_ops(source.model, layout).candidates]
    groups = list(dict.fromkeys(op.group for op in ops))
    profiles = []
    for name, (share, formats) in PROFILES.items():
        taken = {
            g: formats[n % len(formats)] for n, g in enumerate(groups) if n < share * len(groups)
        }
        chosen = {op.name: taken[op.group] for op in ops if op.group in taken}
        profiles.append(
            Profile(name=name, share=share, groups=len(taken), ops=chosen, predicted_damage=0)
        )
    names = {fmt for _, formats in PROFILES.values() for fmt in formats}
    return Spectrum(
        model=source.identity, lens="none", base="isolate", report_sha256="",
        formats={name: PRESETS[name] for name in names}, candidates=ops, profiles=tuple(profiles),
    )  # fmt: skip


def status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(x.split()[1]) for x in text.splitlines() if x.startswith(field)) * 1024


def write_all(how: str, model: Path, device: str, out: Path) -> Iterator[dict[str, Any]]:
    """Write every profile in this process; times, bytes and the peak of host memory so far."""
    spec = ModelSpec(model=str(model), device=device, dtype="bfloat16")
    spectrum = read_artifact(out / "spectrum.json", Spectrum)
    start = time.perf_counter()
    source = open_model(spec) if how == "stream" else load_model(spec)
    open_s = time.perf_counter() - start
    Path("/proc/self/clear_refs").write_text("5")
    base, variants = status("VmRSS"), {}
    for name in PROFILES:
        begun, computed = time.perf_counter(), time.process_time()
        directory = out / f"{how}-{name}"
        manifest = quantize_profile(source, spectrum, name, directory, spectrum_sha256="")
        assert manifest.verification is not None
        variants[name] = {
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - computed,
            "bytes": manifest.total_bytes,
            "verification": manifest.verification.model_dump(mode="json"),
        }
        shutil.rmtree(directory)
        yield {
            "open_s": open_s,
            "variants": variants,
            "seconds": sum(v["seconds"] for v in variants.values()),
            "cpu_seconds": sum(v["cpu_seconds"] for v in variants.values()),
            "host_bytes_before": base,
            "host_bytes_peak": status("VmHWM"),
            "peak_device_bytes": torch.cuda.max_memory_allocated() if device != "cpu" else None,
        }


def disk_speed(directory: Path, size: int = 2**30) -> dict[str, float]:
    """Bytes a second of one plain file, as written and once flushed to the disk."""
    block = os.urandom(2**24)
    path = directory / "speed"
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(size // len(block)):
            file.write(block)
        written = time.perf_counter() - start
        os.fsync(file.fileno())
    flushed = time.perf_counter() - start
    path.unlink()
    return {"written_bytes_per_s": size / written, "flushed_bytes_per_s": size / flushed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp())
    model = work / "model"
    if args.only is not None:
        for result in write_all(args.only, model, args.device, work):
            args.out.write_text(json.dumps(result))
        return
    work.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    build(args.assets, model)
    build_s = time.perf_counter() - start
    write_artifact(work / "spectrum.json", spectrum_for(model))
    result: dict[str, Any] = {
        "bench": "write_checkpoint",
        "environment": environment(torch.device(args.device)).model_dump(mode="json"),
        "random_weights": True,
        "build_s": build_s,
        "model": "qwen2.5-vl-3b" if args.assets else "qwen2, mid size",
        "model_bytes": sum(f.stat().st_size for f in model.glob("*.safetensors")),
        "load_average_before": os.getloadavg()[0],
        "disk": disk_speed(work),
    }
    for how in args.ways:
        # A process each, so that the peak of one is not that of the other.
        part = work / f"{how}.json"
        command = [sys.executable, __file__, "--only", how, "--device", args.device]
        subprocess.run([*command, "--work", str(work), "--out", str(part)], check=True)
        result[how] = json.loads(part.read_text())
        print(how, f"{result[how]['seconds']:.1f} s for {len(PROFILES)} variants", flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    if args.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
