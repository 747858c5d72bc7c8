"""Sensitivity reports, with numbers that are known because they are made here."""

from __future__ import annotations

import math
import random
from typing import Any

from quantspectrum.artifacts import (
    Coverage,
    DataIdentity,
    EngineNote,
    Environment,
    ModelIdentity,
    Op,
    OpNote,
    OpScore,
    Provenance,
    Rescored,
    RescoredOp,
    SensitivityReport,
)
from quantspectrum.formats import PRESETS
from quantspectrum.statistics import spearman

__all__ = [
    "ENGINE",
    "ENVIRONMENT",
    "MODEL",
    "data",
    "detailed",
    "notes",
    "of",
    "older",
    "op",
    "provenance",
    "qwen_ops",
    "report",
    "rescored",
    "scored",
]

ENVIRONMENT = Environment(
    tool_version="0.1.0",
    git_sha="0123abc",
    python="3.11.9",
    platform="Linux x86_64",
    packages={"torch": "2.14.1", "transformers": "5.23.0", "compressed-tensors": "0.20"},
    device="cuda:0",
    device_name="NVIDIA H100",
    cpus=16,
)

MODEL = ModelIdentity(
    id="Qwen/Qwen2.5-VL-3B-Instruct",
    revision="66285546d2b821cf421d4f5eb2576359d3770cd3",
    model_type="qwen2_5_vl",
    config_hash="c0" * 32,
    weights_fingerprint="f1" * 32,
    dtype="bfloat16",
    parameters=3_754_622_976,
)


def provenance(*data: DataIdentity, model: ModelIdentity = MODEL, **more: Any) -> Provenance:
    fields: dict[str, Any] = {
        "created": "2026-11-24T08:00:00+00:00",
        "environment": ENVIRONMENT,
        "wall_s": 312.5,
        "peak_device_bytes": 9_500_000_000,
    }
    return Provenance(model=model, data=data, **(fields | more))


def data(split: str = "evaluation", sha256: str = "da" * 32, samples: int = 64) -> DataIdentity:
    return DataIdentity(source="coco", split=split, samples=samples, sha256=sha256)  # type: ignore[arg-type]


def op(name: str, component: str, block: int | None, group: str, shape: tuple[int, ...]) -> Op:
    return Op(
        name=name,
        type="Linear",
        component=component,
        block=block,
        group=group,
        shape=shape,
        params=math.prod(shape),
    )


def qwen_ops(language: int = 36, vision: int = 32) -> list[Op]:
    """Ops named and shaped as in Qwen2.5-VL-3B."""
    found = []
    for i in range(language):
        at = f"model.language_model.layers.{i}"
        for kind, group, shape in (
            ("self_attn.q_proj", "self_attn.qkv", (2048, 2048)),
            ("self_attn.k_proj", "self_attn.qkv", (256, 2048)),
            ("self_attn.v_proj", "self_attn.qkv", (256, 2048)),
            ("self_attn.o_proj", "self_attn.o_proj", (2048, 2048)),
            ("mlp.gate_proj", "mlp.gate_up", (11008, 2048)),
            ("mlp.up_proj", "mlp.gate_up", (11008, 2048)),
            ("mlp.down_proj", "mlp.down_proj", (2048, 11008)),
        ):
            found.append(op(f"{at}.{kind}", "language", i, f"{at}.{group}", shape))
    for i in range(vision):
        at = f"model.visual.blocks.{i}"
        for kind, group, shape in (
            ("attn.qkv", "attn.qkv", (3840, 1280)),
            ("attn.proj", "attn.proj", (1280, 1280)),
            ("mlp.gate_proj", "mlp.gate_up", (3420, 1280)),
            ("mlp.up_proj", "mlp.gate_up", (3420, 1280)),
            ("mlp.down_proj", "mlp.down_proj", (1280, 3420)),
        ):
            found.append(op(f"{at}.{kind}", "vision", i, f"{at}.{group}", shape))
    if vision:
        for i in (0, 2):
            name = f"model.visual.merger.mlp.{i}"
            found.append(op(name, "merger", None, name, (5120, 5120)))
    return found


def scored(
    op_: Op, score: float, stderr: float | None = None, rank: int = 1, n: int = 32
) -> OpScore:
    return OpScore(**op_.model_dump(), score=score, stderr=stderr, n=n, rank=rank)


def notes() -> tuple[OpNote, ...]:
    return (OpNote(name="lm_head", type="Linear", reason="the head is kept in high precision"),)


def report(ops: list[Op] | None = None, seed: int = 0, **more: Any) -> SensitivityReport:
    """Plausible scores: heavy-tailed, worst in ``down_proj`` and at both ends of the model."""
    chance = random.Random(seed)
    scores = {}
    for one in qwen_ops() if ops is None else ops:
        level = chance.gauss(-9.5, 0.8) + (2.2 if "down_proj" in one.name else 0)
        level += 1.5 * (one.block in (0, 1, 35)) + 0.8 * (one.component == "vision")
        scores[one] = math.exp(level)
    order = sorted(scores, key=lambda one: -scores[one])
    ranked = tuple(
        scored(one, scores[one], 0.15 * scores[one] * chance.random(), rank)
        for rank, one in enumerate(order, 1)
    )
    kept = notes()
    fields: dict[str, Any] = {
        "lens": "native:mse_v2",
        "base": "fallback",
        "format": PRESETS["w8a8-static"],
        "provenance": provenance(data("calibration"), data("selection", "5e" * 32, 32)),
        "complete": True,
        "coverage": Coverage(found=len(ranked) + len(kept), scored=len(ranked), kept=kept),
        "ops": ranked,
    }
    return SensitivityReport(**(fields | more))


def of(*scores: float, stderr: float | None = 0.1, **more: Any) -> SensitivityReport:
    """A report of one language block per score, already in order."""
    ops = qwen_ops(len(scores), 0)[6::7]
    ranked = tuple(
        scored(one, score, stderr, rank)
        for rank, (one, score) in enumerate(zip(ops, scores, strict=True), 1)
    )
    covered = Coverage(found=len(ranked), scored=len(ranked))
    return report([]).model_copy(update={"ops": ranked, "coverage": covered} | more)


ENGINE = EngineNote(
    replay=True,
    head_read=True,
    slots=8,
    batches=4,
    batch_size=8,
    captured_bytes={"device": 1_230_000_000, "host": 0, "disk": 45_000_000},
    seconds={"calibration": 2.5, "passes": 0.0, "scan": 51.0, "rescore": 300.0},
)


def detailed(made: SensitivityReport, *, estimated: int = 0, **more: Any) -> SensitivityReport:
    """The report as the native lens writes it now; every third pair of measured neighbours ties.

    Args:
        made: A report of the older shape.
        estimated: Ops, the least sensitive first, whose scores are estimates.
        more: Other fields to set.
    """
    first = len(made.ops) - estimated
    ops = [
        one.model_copy(update={"tied_with_next": i % 3 == 0 if i + 1 < first else None})
        for i, one in enumerate(made.ops[:first])
    ]
    ops += [
        one.model_copy(update={"kind": "estimated", "stderr": None, "n": 0, "tied_with_next": None})
        for one in made.ops[first:]
    ]
    fields: dict[str, Any] = {
        "ops": tuple(ops),
        "engine": ENGINE,
        "estimator": "native:visibility" if estimated else None,
        "coverage": made.coverage.model_copy(update={"estimated": estimated}),
    }
    return made.model_copy(update=fields | more)


def older(made: SensitivityReport) -> dict[str, Any]:
    """What a report of the older shape has instead: no ties and no word of how it was measured."""
    ops = tuple(one.model_copy(update={"tied_with_next": None}) for one in made.ops)
    return {"ops": ops, "engine": None, "rescored": None}


def rescored(made: SensitivityReport, restored: int, ranks: list[int] | None = None) -> Rescored:
    """A second ranking with the first ops restored; ``ranks`` are the others' former ranks."""
    others = made.ops[restored:]
    before = ranks or list(range(1, len(others) + 1))
    return Rescored(
        restored=tuple(one.name for one in made.ops[:restored]),
        ops=tuple(
            RescoredOp(
                name=others[old - 1].name, score=one.score, stderr=0.01, rank=i, rank_before=old
            )
            for i, (old, one) in enumerate(zip(before, others, strict=True), 1)
        ),
        spearman=spearman(before, range(1, len(before) + 1)),
    )
