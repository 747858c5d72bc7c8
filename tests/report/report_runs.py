"""Run directories made of records, with numbers that are known because they are made here."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from itertools import product
from pathlib import Path
from typing import Any

from report_scores import (
    ENGINE,
    ENVIRONMENT,
    MODEL,
    data,
    detailed,
    notes,
    of,
    older,
    op,
    provenance,
    qwen_ops,
    report,
    rescored,
    scored,
)

from quantspectrum.artifacts import (
    Accuracy,
    DecodeLatency,
    Evaluation,
    Loss,
    Manifest,
    Op,
    OpScore,
    Profile,
    PromptResult,
    Resources,
    RunRecord,
    SampleLoss,
    SensitivityReport,
    Spectrum,
    StageState,
    read_artifact,
    sha256_file,
    write_artifact,
)
from quantspectrum.formats import PRESETS

__all__ = [
    "ENGINE",
    "ENVIRONMENT",
    "MODEL",
    "data",
    "detailed",
    "evaluation",
    "loss",
    "manifest",
    "notes",
    "of",
    "older",
    "op",
    "picture",
    "profile",
    "prompts",
    "provenance",
    "qwen_ops",
    "report",
    "rescored",
    "run_record",
    "scored",
    "spectrum",
    "write_full_run",
    "write_reports",
]

PROFILES = {"mild": 0.15, "medium": 0.5, "aggressive": 0.85, "max": 1.0}


def profile(name: str, share: float, ops: list[OpScore]) -> Profile:
    return Profile(
        name=name,
        share=share,
        groups=len({one.group for one in ops}),
        ops={one.name: "w8a8-static" for one in ops},
        predicted_damage=sum(one.score for one in ops),
    )


def spectrum(made_from: SensitivityReport, sha256: str = "00" * 32) -> Spectrum:
    """Profiles that cut the groups by the sum of their scores."""
    totals: dict[str, float] = {}
    for one in made_from.ops:
        totals[one.group] = totals.get(one.group, 0.0) + one.score
    order = sorted(totals, key=lambda group: totals[group])
    candidates = sorted(made_from.ops, key=lambda one: (order.index(one.group), one.name))
    cuts = {"baseline": 0.0} | PROFILES
    return Spectrum(
        model=MODEL,
        lens=made_from.lens,
        base=made_from.base,
        report_sha256=sha256,
        formats={"w8a8-static": PRESETS["w8a8-static"]},
        candidates=tuple(Op(**one.model_dump(include=set(Op.model_fields))) for one in candidates),
        profiles=tuple(
            profile(
                name,
                share,
                [one for one in candidates if one.group in order[: round(share * len(order))]],
            )
            for name, share in cuts.items()
        ),
    )


def loss(samples: list[SampleLoss], stderr: float | None = 0.02) -> Loss:
    tokens = sum(sample.tokens for sample in samples)
    total = sum(sample.nll for sample in samples)
    return Loss(
        loss=total / tokens if tokens else 0.0,
        stderr=stderr,
        tokens=tokens,
        samples=tuple(samples),
    )


def samples(damage: float = 0.0, n: int = 64, seed: int = 1) -> list[SampleLoss]:
    """Losses that share their samples' difficulty and differ by ``damage`` nats per token."""
    chance = random.Random(seed)
    noise = random.Random(round(damage * 1e6) + 17)
    made = []
    for i in range(n):
        tokens, level = chance.randint(20, 120), chance.gauss(2.0, 0.4)
        step = damage * noise.gauss(1.0, 1.2)
        kind = "text" if i % 2 else "image+text"
        made.append(
            SampleLoss(id=f"s{i}", kind=kind, nll=tokens * max(level + step, 0.01), tokens=tokens)
        )
    return made


def picture(red: int = 200, width: int = 48, height: int = 36) -> str:
    """A PNG of one gradient, as a data URI."""
    rows = b"".join(
        b"\0" + bytes(v for x in range(width) for v in (red, 255 * x // width, 255 * y // height))
        for y in range(height)
    )

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


_ANSWERS = (
    "A brown dog runs across a wet beach with a red frisbee in its mouth.",
    "A brown dog runs across a wet beach with a red disc in its mouth.",
    "A dog runs across the beach with a frisbee.",
    "The the dog dog beach beach is is is a a of of the red red red.",
)


def prompts(level: int) -> tuple[PromptResult, ...]:
    """Three prompts; a higher level answers worse."""
    answer = _ANSWERS[min(level, len(_ANSWERS) - 1)]
    return (
        PromptResult(
            id="coco-1",
            prompt="Describe the picture in one sentence.",
            output=answer,
            reference="A dog carries a frisbee along the shore.",
            image=picture(),
        ),
        PromptResult(id="capital", prompt="What is the capital of France?", output="Paris."),
        PromptResult(
            id="count",
            prompt="Count from one to five.",
            output="one two three four five" if level < 3 else "one two two three",
        ),
    )


def evaluation(label: str, damage: float = 0.0, level: int = 0, **more: Any) -> Evaluation:
    made = samples(damage)
    correct = {sample.id: (i % 5 != 0) and i % 17 >= level for i, sample in enumerate(made)}
    exact = sum(correct.values()) / len(correct)
    emulated = label != "baseline"
    fields: dict[str, Any] = {
        "label": label,
        "profile": label if emulated else None,
        "provenance": provenance(data()),
        "loss": loss(made),
        "accuracy": Accuracy(exact=exact, stderr=0.05, correct=correct),
        "prompts": prompts(level),
        "resources": Resources(
            disk_bytes=7_509_000_000 - 950_000_000 * level,
            load_s=3.2,
            kernel="emulated" if emulated else "native",
            latency=tuple(
                DecodeLatency(
                    batch_size=batch,
                    prompt_tokens=256,
                    new_tokens=64,
                    repeats=5,
                    prefill_ms=31.4 * batch + 3 * level,
                    per_token_ms=18.25 + level,
                )
                for batch in (1, 8)
            ),
        ),
    }
    return Evaluation(**(fields | more))


def manifest(profile_: Profile, total: int, **more: Any) -> Manifest:
    fields: dict[str, Any] = {
        "profile": profile_,
        "backend": "compressed-tensors",
        "formats": {"w8a8-static": PRESETS["w8a8-static"]},
        "spectrum_sha256": "00" * 32,
        "provenance": provenance(),
        "files": {"model.safetensors": total},
        "total_bytes": total,
        "baseline_bytes": 7_509_000_000,
        "quantized_weight_bytes": total // 2,
        "verification": None,
    }
    return Manifest(**(fields | more))


def run_record(**more: Any) -> RunRecord:
    names = ["baseline", "sensitivity:fallback", "spectrum"]
    names += [f"{stage}:{name}" for name in PROFILES for stage in ("quantize", "evaluate")]
    fields: dict[str, Any] = {
        "request": {
            "model": MODEL.id,
            "dtype": "auto",
            "data": ["coco:captions_val2017.json", "text:a b.txt"],
            "revision": None,
            "trust_remote_code": False,
            "eval_samples": 64,
        },
        "environment": ENVIRONMENT,
        "stages": {name: StageState(state="done", wall_s=61.5) for name in names},
    }
    return RunRecord(**(fields | more))


def write_full_run(
    run: Path, made_from: SensitivityReport | None = None, *, second: bool = True
) -> Path:
    """Write a complete run of four profiles; ``second`` adds a report of the other base."""
    made_from = made_from or detailed(report())
    write_artifact(run / "run.json", run_record())
    write_artifact(run / "baseline" / "evaluation.json", evaluation("baseline"))
    first = run / "sensitivity" / "native-mse_v2.fallback.json"
    write_artifact(first, made_from)
    if second:
        other = made_from.model_copy(update={"base": "isolate", **older(made_from)})
        write_artifact(run / "sensitivity" / "native-mse_v2.isolate.json", other)
    made = spectrum(made_from, sha256_file(first))
    write_artifact(run / "spectrum.json", made)
    damages = (0.0015, 0.005, 0.021, 0.16)
    for level, (one, damage) in enumerate(zip(made.profiles[1:], damages, strict=True), 1):
        measured = evaluation(one.name, damage, level)
        write_artifact(
            run / "variants" / one.name / "manifest.json",
            manifest(one, measured.resources.disk_bytes),
        )
        write_artifact(run / "evaluations" / f"{one.name}.json", measured)
    return run


def write_reports(
    run: Path,
    metrics: tuple[str, ...],
    bases: tuple[str, ...] = ("isolate",),
    formats: tuple[str, ...] = ("w8a8",),
    ops: list[Op] | None = None,
    **more: Any,
) -> Path:
    """Write a run of which there are only sensitivity reports, and the spectrum of the first."""
    write_artifact(
        run / "run.json",
        run_record(request={"metric": metrics, "base": bases, "format": formats}, stages={}),
    )
    paths = []
    for seed, (base, metric, fmt) in enumerate(product(bases, metrics, formats)):
        made = report(ops, seed, lens=f"native:{metric}", base=base, format=PRESETS[fmt])
        part = f".{fmt}" if len(formats) > 1 else ""
        paths.append(run / "sensitivity" / f"native-{metric}.{base}{part}.json")
        write_artifact(paths[-1], detailed(made, **more))
    first = read_artifact(paths[0], SensitivityReport)
    write_artifact(run / "spectrum.json", spectrum(first, sha256_file(paths[0])))
    return run
