"""Backend ``onnx``: a language model or a vision model as an ONNX graph with int8 QDQ nodes.

PyTorch's exporter (``dynamo=True``, opset 18) makes the graph, whose metadata name the module of
every node; ONNX Runtime's ``quantize_static`` puts QuantizeLinear and DequantizeLinear around the
nodes of the profile's ops, and around no other: inputs per tensor, static and stored as uint8,
weights per channel and symmetric, outputs and biases untouched. Of a model that sees pictures it is
the language model alone, from tokens to logits.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from quantspectrum.artifacts import Verification, WriterNote
from quantspectrum.backends import compressed_tensors
from quantspectrum.backends.compressed_tensors import predicted_bytes as predicted_bytes
from quantspectrum.backends.isolated import Task, Written, check_linears, check_one_format
from quantspectrum.backends.parts import Part
from quantspectrum.errors import UserError
from quantspectrum.formats import Format
from quantspectrum.models.loading import Loaded
from quantspectrum.simulation import OpPlan

__all__ = [
    "ENVIRONMENT",
    "LOADERS",
    "MAX_APART",
    "MAX_OP_L2",
    "NAME",
    "OPTIONS",
    "PACKAGES",
    "check",
    "needs_calibration",
    "part",
    "predicted_bytes",
    "reduces_range",
    "write",
]

NAME = "onnx"
ENVIRONMENT: str | None = None
PACKAGES: tuple[str, ...] = ("onnx", "onnxruntime", "onnxscript")
LOADERS: tuple[str, ...] = ("ONNX Runtime",)
OPTIONS: Mapping[str, str] = {
    "reduce_range": "yes, no or auto: leave a bit of every number unused, which processors "
    "without VNNI need (default auto: what this one needs)"
}

MAX_OP_L2 = 1e-2
"""Largest accepted distance between what ONNX Runtime computes of an op's input and what it should.

Usual is 1e-6. Its integer sums are exact; kernels that saturate, a wrong scale or a wrong axis lie far
above this.
"""

MAX_APART = 1.5
"""Largest accepted distance of the logits to the simulated ones, in distances of these to the model's.

Static codes that fall on the other side of a tie are amplified from op to op: in a model that
suffers much from its format the last difference between two exact implementations is as large as
the damage itself. Two independent roundings of one size are 1.41 apart.
"""

_TASKS = ("causal-lm", "image-classification", "image", "image-text-to-text")

_TEXT = ("language", "head")
"""Components that a text alone runs through."""

_NO_VISION = (
    "its vision tower computes shapes from its pictures' sizes, which torch.onnx.export cannot trace; "
    f"--backend {compressed_tensors.NAME}, inc and modelopt write the whole model"
)


def check(loaded: Loaded, plans: Mapping[str, OpPlan]) -> None:
    """Refuse what cannot be exported or expressed with QDQ nodes.

    Raises:
        UserError: The family or the format is another, an op is not a Linear, or the model is not
            in float32 on the CPU.
    """
    if loaded.task not in _TASKS:
        raise UserError(
            f"backend {NAME} exports language models and vision models, not "
            f"{loaded.task}; use --backend {compressed_tensors.NAME}"
        )
    if loaded.takes_images and "language" not in loaded.layout.components.values():
        raise UserError(
            f"backend {NAME} exports the language model alone of models that see pictures, and which "
            f"part of this one that is is not known; use --backend {compressed_tensors.NAME}"
        )
    if loaded.identity.dtype != "float32" or loaded.device.type != "cpu":
        raise UserError(
            f"backend {NAME} exports from float32 on the CPU: --dtype float32 --device cpu"
        )
    check_linears(loaded, plans)
    for name, plan in plans.items():
        if not _written(plan.format):
            raise UserError(
                f"backend {NAME} writes static int8 inputs per tensor with int8 weights per channel "
                f"(w8a8-static, w8a8-static-affine), and the profile gives {name} "
                f"{plan.format.name}; make the spectrum with one of these"
            )
    check_one_format(NAME, plans)


def _written(fmt: Format) -> bool:
    weight, act = fmt.weight, fmt.activation
    return (
        (weight.kind, weight.bits, weight.granularity, weight.symmetric)
        == ("int", 8, "channel", True)
        and act is not None
        and (act.kind, act.bits, act.granularity, act.dynamic) == ("int", 8, "tensor", False)
        and act.observer == "minmax"
        and fmt.output is None
    )


def part(loaded: Loaded) -> Part | None:
    """Of models that see pictures, what a text runs through: embedding, layers and head."""
    known = loaded.layout.components.values()
    if not loaded.takes_images or "language" not in known:
        return None
    return Part(components=tuple(name for name in _TEXT if name in known), why=_NO_VISION)


def needs_calibration(options: Mapping[str, str]) -> bool:
    """ONNX Runtime observes the inputs itself."""
    reduces_range(options.get("reduce_range", "auto"))
    return True


def reduces_range(option: str, flags: str | None = None) -> bool:
    """Whether to leave a bit unused: ``yes``, ``no``, or ``auto`` by this processor's abilities.

    Without VNNI, x86 kernels add two products of int8 numbers in 16 bits, which saturate.

    Raises:
        UserError: The option is none of the three.
    """
    if option in ("yes", "no"):
        return option == "yes"
    if option != "auto":
        raise UserError(f"--backend-option reduce_range={option}: give yes, no or auto")
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if flags is None:
        cpuinfo = Path("/proc/cpuinfo")
        flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    return "vnni" not in flags


def write(task: Task, directory: Path) -> Written:
    """Export, quantize the profile's nodes, and run the result."""
    from quantspectrum.backends import onnx_graph as graph

    start = time.perf_counter()
    loaded = task.loaded
    reduce_range = reduces_range(task.options.get("reduce_range", "auto"))
    exported = task.directory / "float.onnx"
    graph.export(loaded, exported)
    nodes = graph.nodes_of(exported, task.plans)
    target = directory / "model.onnx"
    graph.quantize(task, exported, target, list(nodes.values()), reduce_range=reduce_range)
    verification = _verify(task, target, nodes)
    loaded.config.save_pretrained(directory)
    loaded.processor.save_pretrained(directory)
    return Written(
        verification=verification,
        note=WriterNote(
            name="ONNX Runtime, quantize_static",
            versions={
                name: version(name) for name in ("onnx", "onnxruntime", "onnxscript", "torch")
            },
            settings={
                "reduce_range": reduce_range,
                "opset": graph.OPSET,
                "format": "QDQ",
                "inputs": "uint8",
            },
            notes=("ranges of inputs are those ONNX Runtime observed on the calibration samples",),
            loaders=LOADERS,
            seconds=time.perf_counter() - start,
        ),
    )


def _verify(task: Task, path: Path, nodes: Mapping[str, str]) -> Verification:
    """Read the graph back, and run it: op by op on their own inputs, and as a whole."""
    from quantspectrum.backends import onnx_check as check_graph

    tensors = check_graph.quantized_tensors(path, nodes)
    steps = check_graph.weight_error(task.loaded, tensors)
    op = check_graph.op_error(task, path, nodes, tensors)
    logits, damage = check_graph.graph_distances(task, path, tensors)
    # Comparisons with NaN are false, so that NaN fails here too.
    if not (steps <= 0.51 and op <= MAX_OP_L2 and logits <= MAX_APART * damage):
        raise UserError(
            f"what ONNX Runtime computes is not what was planned: weights are {steps:.2f} steps off "
            f"(bound 0.51), an op differs by {op:.1e} (relative L2, bound {MAX_OP_L2:.0e}) and the "
            f"logits by {logits:.1e} (bound {MAX_APART * damage:.1e}); it was not kept"
        )
    return Verification(
        relative_l2=logits,
        bound=MAX_APART * damage,
        loader="onnxruntime",
        quantized_tensors=len(tensors),
        distances={"ops": op, "unquantized": damage},
    )
