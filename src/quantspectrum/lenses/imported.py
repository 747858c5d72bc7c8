"""Scores of a file as a lens: what others published, beside what is measured here.

Two kinds of JSON are read: ModelOpt's search state, as ``auto_quantize`` returns it, whose
``candidate_stats`` hold for each group ``module_names``, ``formats`` and ``scores``; and an object of op
names and numbers. A group's score is shared out evenly among its ops, so that sums over groups are those
of the file. Higher must mean more sensitive.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from quantspectrum.artifacts import FrameworkNote
from quantspectrum.errors import UserError
from quantspectrum.lenses.request import LensRequest, LensScores
from quantspectrum.models.loading import Loaded
from quantspectrum.models.ops import OpTable
from quantspectrum.sensitivity.scan import Base

__all__ = ["ImportedLens", "match_names"]

Groups = list[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, kw_only=True)
class ImportedLens:
    """A file of scores."""

    file: Path
    BASES: ClassVar[tuple[Base, ...]] = ("isolate", "fallback")
    FORMATS: ClassVar[tuple[str, ...]] = ()
    ENVIRONMENT: ClassVar[str | None] = None
    OPTIONS: ClassVar[Mapping[str, str]] = {
        "column": "which of the file's formats to take, where it scores several"
    }

    def score(self, loaded: Loaded, table: OpTable, request: LensRequest) -> LensScores:  # noqa: ARG002
        """Read the file and match its names to the model's ops.

        Raises:
            UserError: The file cannot be read, is of no known kind, or names none of the candidates.
        """
        text = _read(self.file)
        groups = _groups(self.file, text, request.options.get("column"))
        names = [name for members, _ in groups for name in members]
        found = match_names(names, [op.name for op in table.candidates])
        scores: dict[str, float] = {}
        raw: dict[str, dict[str, float]] = {}
        for members, score in groups:
            ops = [found[name] for name in members if name in found]
            for op in ops:
                scores[op] = score / len(ops)
                raw[op] = {"group_score": score, "group_ops": len(ops)}
        if not scores:
            raise UserError(
                f"{self.file} names none of the model's {len(table.candidates)} candidates, but "
                f"{len(names)} others such as {names[0]!r}; is it of another model?"
            )
        unknown = len(names) - len(found)
        return LensScores(
            scores=scores,
            raw=raw,
            missing={
                op.name: f"{self.file.name} has no score for it"
                for op in table.candidates
                if op.name not in scores
            },
            framework=FrameworkNote(
                name="file",
                settings={
                    "file": self.file.name,
                    "sha256": hashlib.sha256(text.encode()).hexdigest(),
                    "names_of_no_candidate": unknown,
                },
                notes=("scores are those of the file; on what they were measured it does not say",),
                asked=len(table.candidates),
                covered=len(scores),
            ),
            n=0,
        )


def match_names(names: Sequence[str], ops: Sequence[str]) -> dict[str, str]:
    """Match names to ops: equal ones, else by the longest common ending of whole parts, if unique.

    Versions of a library nest the same module differently (``model.layers.0.mlp.up_proj``,
    ``model.language_model.layers.0.mlp.up_proj``). An ending counts when it holds all of the shorter
    name but its first part. An op is matched once; what two names claim is matched by neither.
    """
    known = set(ops)
    endings: dict[str, list[str]] = {}
    for op in ops:
        parts = op.split(".")
        for start in range(len(parts)):
            endings.setdefault(".".join(parts[start:]), []).append(op)
    claims: dict[str, list[str]] = {}
    for name in names:
        if name in known:
            claims[name] = [name]
    taken = set(claims)
    for name in names:
        if name in known:
            continue
        parts = name.split(".")
        for start in range(min(2, len(parts) - 1) + 1):
            fitting = endings.get(".".join(parts[start:]), [])
            if fitting:
                if len(fitting) == 1 and fitting[0] not in taken:
                    claims.setdefault(fitting[0], []).append(name)
                break
    return {claimed[0]: op for op, claimed in claims.items() if len(claimed) == 1}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}; name a JSON file of scores") from None


def _groups(file: Path, text: str, column: str | None) -> Groups:
    """Names that share a score, and the score."""
    try:
        held = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); name a JSON file of scores") from None
    if isinstance(held, dict) and isinstance(held.get("candidate_stats"), dict):
        return [
            _modelopt_group(file, name, stats, column)
            for name, stats in held["candidate_stats"].items()
        ]
    if isinstance(held, dict) and held and all(_is_number(value) for value in held.values()):
        return [((name,), float(score)) for name, score in held.items()]
    raise UserError(
        f"{file} holds neither ModelOpt's candidate_stats nor an object of op names and numbers"
    )


def _modelopt_group(
    file: Path, name: str, stats: Any, column: str | None
) -> tuple[tuple[str, ...], float]:
    try:
        formats, scores = list(stats["formats"]), list(stats["scores"])
        members = tuple(stats.get("module_names") or (name,))
        labels = [fmt if isinstance(fmt, str) else json.dumps(fmt) for fmt in formats]
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{file}: {name} lacks formats or scores") from None
    quantized = [
        (label, score)
        for label, score in zip(labels, scores, strict=False)
        if not label.upper().startswith("NONE")
    ]
    if column is not None:
        quantized = [(label, score) for label, score in quantized if column in label]
    if len(quantized) != 1 or not _is_number(quantized[0][1]):
        known = ", ".join(dict.fromkeys(labels))
        raise UserError(
            f"{file}: {name} has {len(quantized)} scores to choose from among the formats {known}; "
            "give --lens-option column=TEXT that one of them contains"
        )
    return members, float(quantized[0][1])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
