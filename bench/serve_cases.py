"""Checkpoints to load in a serving engine: made with the command line, some spoiled by hand after."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from quantspectrum.cli import main as quantspectrum

__all__ = ["CASES", "Case", "Maker"]

FORMATS = ("w8a8", "w8a8-static", "w8a8-static-affine", "fp8", "w8a16", "w4a16", "w4a8")
LAYER = "model.layers.3.self_attn"
"""Where groups are torn apart."""


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes checkpoints of one model in a folder of their own.

    Attributes:
        model: The options that load the source.
        data: The options that say what sensitivities and ranges are taken on.
        folder: Where everything goes.
    """

    model: tuple[str, ...]
    data: tuple[str, ...]
    folder: Path

    def variant(self, fmt: str, profile: str) -> Path:
        """The checkpoint of a profile of that format's spectrum, through the command line."""
        out = self.folder / f"{fmt}-{profile}"
        if out.exists():
            return out
        spectrum = self.folder / f"spectrum.{fmt}.json"
        if not spectrum.exists():
            formats = [part for name in FORMATS for part in ("--format", name)]
            report = self.folder / "report.json"
            _call("sensitivity", *self.model, *self.data, *formats, "--metric", "visibility",
                  "--out", str(report))  # fmt: skip
            for name in FORMATS:
                source = str(report.with_name(f"report.{name}.json"))
                _call("spectrum", source, "--out", str(self.folder / f"spectrum.{name}.json"))
        _call("quantize", *self.model, "--spectrum", str(spectrum), "--profile", profile,
              "--out", str(out))  # fmt: skip
        return out

    def composed(
        self, name: str, base: Path, parts: Mapping[str, Path], config: Callable[[Any], None]
    ) -> Path:
        """``base`` with the tensors of some ops (by name or its beginning) from other checkpoints."""
        out = self.folder / name
        if out.exists():
            return out
        tensors = {n: t for n, t in _tensors(base).items() if not _of(n, parts)}
        for op, source in parts.items():
            tensors |= {n: t for n, t in _tensors(source).items() if _of(n, [op])}
        shutil.copytree(base, out)
        (out / "manifest.json").unlink()
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        edited = json.loads((out / "config.json").read_text())
        config(edited["quantization_config"])
        (out / "config.json").write_text(json.dumps(edited, indent=1, sort_keys=True))
        return out


def _call(*arguments: str) -> None:
    if code := quantspectrum([*arguments, "--quiet"]):
        raise SystemExit(f"quantspectrum {' '.join(arguments)}: exit {code}")


def _of(tensor: str, ops: Iterable[str]) -> bool:
    return any(tensor.startswith(f"{op}.") for op in ops)


def _tensors(directory: Path) -> dict[str, Any]:
    found = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


@dataclass(frozen=True, kw_only=True)
class Case:
    """One checkpoint to load.

    Attributes:
        name: What it is called in the result.
        source: Which of the bench's models it is made of.
        dtype: Type the engine computes in.
        make: Makes it.
        spoiled: What was done to it by hand.
    """

    name: str
    source: str
    make: Callable[[Maker], Path]
    dtype: str = "float32"
    spoiled: str | None = None


def _mixed(maker: Maker) -> Path:
    """Attention in w8a8, MLP in fp8: two formats, no group torn."""
    base, other = maker.variant("w8a8", "max"), maker.variant("fp8", "max")
    blocks = [f"model.layers.{index}" for index in range(30)]

    def config(quantization: Any) -> None:
        fp8 = json.loads((other / "config.json").read_text())["quantization_config"]
        attention = [f"{b}.self_attn.{p}_proj" for b in blocks for p in "qkvo"]
        mlp = [f"{b}.mlp.{p}_proj" for b in blocks for p in ("gate", "up", "down")]
        _two_groups(quantization, attention, fp8, mlp)

    return maker.composed("mixed", base, {f"{b}.mlp": other for b in blocks}, config)


def _two_groups(first: Any, first_ops: list[str], second: Any, second_ops: list[str]) -> None:
    groups = [first["config_groups"]["group_0"], second["config_groups"]["group_0"]]
    groups[0]["targets"], groups[1]["targets"] = first_ops, second_ops
    groups[0].setdefault("format", first["format"])
    groups[1].setdefault("format", second["format"])
    first["format"] = "mixed-precision"
    first["config_groups"] = {"group_0": groups[0], "group_1": groups[1]}


def _ops(directory: Path) -> list[str]:
    return [n.removesuffix(".weight_scale") for n in _tensors(directory) if n.endswith("_scale")]


def _torn_ignored(maker: Maker) -> Path:
    base, plain = maker.variant("w8a8", "max"), maker.variant("w8a8", "baseline")
    op = f"{LAYER}.k_proj"
    return maker.composed("torn-ignored", base, {op: plain}, lambda q: q["ignore"].append(op))


def _torn_formats(maker: Maker) -> Path:
    base, other = maker.variant("w8a8", "max"), maker.variant("fp8", "max")
    op = f"{LAYER}.k_proj"

    def config(quantization: Any) -> None:
        fp8 = json.loads((other / "config.json").read_text())["quantization_config"]
        _two_groups(quantization, [n for n in _ops(base) if n != op], fp8, [op])

    return maker.composed("torn-formats", base, {op: other}, config)


def _torn_untargeted(maker: Maker) -> Path:
    base, plain = maker.variant("w8a8", "max"), maker.variant("w8a8", "baseline")
    ops = [f"{LAYER}.k_proj", f"{LAYER}.v_proj"]

    def config(quantization: Any) -> None:
        kept = [name for name in _ops(base) if name not in ops]
        quantization["config_groups"]["group_0"]["targets"] = kept

    return maker.composed("torn-untargeted", base, dict.fromkeys(ops, plain), config)


def _misnamed(maker: Maker) -> Path:
    def config(quantization: Any) -> None:
        quantization["ignore"] = [f"language_model.{name}" for name in quantization["ignore"]]

    return maker.composed("misnamed-ignore", maker.variant("w8a8", "medium"), {}, config)


def _lost_scale(maker: Maker) -> Path:
    out = maker.composed("lost-scale", maker.variant("w8a8", "max"), {}, lambda _: None)
    tensors = _tensors(out)
    tensors.pop("model.layers.3.mlp.down_proj.weight_scale", None)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _plain(source: str, fmt: str, profile: str, dtype: str = "float32") -> Case:
    name = profile if profile == "baseline" else f"{fmt}-{profile}"
    prefix = "" if source == "smollm2" else f"{source}-"
    return Case(
        name=f"{prefix}{name}" + ("" if dtype == "float32" else f"-{dtype}"),
        source=source,
        dtype=dtype,
        make=lambda maker: maker.variant(fmt, profile),
    )


CASES: tuple[Case, ...] = (
    _plain("smollm2", "w8a8", "baseline", "bfloat16"),
    _plain("smollm2", "w8a8", "baseline"),
    _plain("smollm2", "w8a8", "mild"),
    _plain("smollm2", "w8a8", "medium"),
    _plain("smollm2", "w8a8", "medium", "bfloat16"),
    _plain("smollm2", "w8a8", "max"),
    _plain("smollm2", "w8a8-static", "medium"),
    _plain("smollm2", "w8a8-static", "max"),
    _plain("smollm2", "w8a8-static-affine", "max"),
    _plain("smollm2", "fp8", "medium"),
    _plain("smollm2", "fp8", "medium", "bfloat16"),
    _plain("smollm2", "w8a16", "medium"),
    _plain("smollm2", "w4a16", "medium"),
    _plain("smollm2", "w4a16", "medium", "bfloat16"),
    _plain("smollm2", "w4a8", "medium"),
    Case(name="mixed", source="smollm2", make=_mixed),
    Case(name="torn-ignored", source="smollm2", make=_torn_ignored,
         spoiled="k_proj of one block kept in bfloat16 and ignored"),
    Case(name="torn-formats", source="smollm2", make=_torn_formats,
         spoiled="k_proj of one block in fp8, q_proj and v_proj in w8a8"),
    Case(name="torn-untargeted", source="smollm2", make=_torn_untargeted,
         spoiled="k_proj and v_proj of one block kept in bfloat16, neither targeted nor ignored"),
    Case(name="misnamed-ignore", source="smollm2", make=_misnamed,
         spoiled="names in ignore have a prefix that no module has"),
    Case(name="lost-scale", source="smollm2", make=_lost_scale,
         spoiled="the weight_scale of one down_proj was removed"),
    _plain("odd", "w8a8", "max"),
    _plain("odd", "w4a16", "max", "bfloat16"),
    _plain("vl", "w8a8", "baseline"),
    _plain("vl", "w8a8", "medium"),
    _plain("vl", "w8a8", "max"),
)  # fmt: skip
