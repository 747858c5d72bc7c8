"""Profiles and the spectrum they form."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from quantspectrum.artifacts.base import (
    Artifact,
    ModelIdentity,
    Record,
)
from quantspectrum.artifacts.sensitivity import Op
from quantspectrum.errors import UserError
from quantspectrum.formats import Format
from quantspectrum.spectrum.costs import profile_bytes
from quantspectrum.spectrum.legality import torn_groups

__all__ = [
    "CutTies",
    "Optimum",
    "Profile",
    "Source",
    "Spectrum",
]


Range = tuple[float, float]

FROM_VERSION_1 = "none: made as schema version 1"


class CutTies(Record):
    """How firm the line between quantized and kept groups is.

    A cut's group is tied when it cannot be told from the nearest group on the other side; a
    budget's, when at the price of the budget what it was given is better than an alternative by
    too little. Either difference is within 2 standard errors, which are taken as independent: that
    overlooks that groups share their samples.

    Attributes:
        groups: Groups that are tied.
        judged: Groups that could be judged: their scores have standard errors.
    """

    groups: int
    judged: int


class Optimum(Record):
    """What the solver proved of an assignment.

    Attributes:
        minimises: What was made as small as the budget allows.
        value: What was reached; for ``damage``, with scores below zero counted as zero.
        bound: Value of the linear relaxation: no assignment within the budget is below it.
        proved: No assignment within the budget is better; not so where the solver ran out of time.
    """

    minimises: Literal["damage", "bytes"]
    value: float
    bound: float
    proved: bool


class Profile(Record):
    """Which ops get which format; what is not named stays in high precision.

    Attributes:
        name: ``baseline``, ``mild``, ``medium``, ``aggressive``, ``max``, or the user's own.
        rule: How the profile was chosen, in words and numbers.
        share: Share of the candidate groups that is quantized, from 0 to 1.
        groups: Number of groups quantized.
        ops: Op name to format name; a profile may hold several formats.
        predicted_damage: Sum of the scores of the quantized ops, in the unit of the lens.
        predicted_bytes: Weight bytes of the whole model; see ``quantspectrum.spectrum.costs``.
        negative_groups: Quantized groups whose score is below zero, which is noise.
        ties: How firm the line of the profile is; ``None`` where no score has an error.
        optimum: What the solver proved, for profiles made by a budget.
    """

    name: str
    rule: str = ""
    share: float
    groups: int
    predicted_damage: float
    predicted_bytes: int | None = None
    negative_groups: int = 0
    ties: CutTies | None = None
    optimum: Optimum | None = None
    ops: dict[str, str]


class Source(Record):
    """A sensitivity report behind a spectrum: its format and the hash of its file."""

    format: str
    sha256: str


class Spectrum(Artifact):
    """The ordered family of profiles made from sensitivity reports, one a format.

    Attributes:
        content_sha256: Hash of everything else as canonical JSON; it tells a file that was edited
            by hand from one the tool wrote. It is no signature.
        edited: The file was edited by hand; figures of its profiles were computed again.
        report_sha256: Hash of the file of the first sensitivity report, which ranks the groups.
        reports: Every report, the first one first.
        formats: Format name to format, for every format a profile may name.
        profiles: The profiles, the mildest first: by share where all are cuts, otherwise by
            weight bytes, most first.
        damages: Group to format to predicted damage, the sum of the scores of the group's ops.
        candidates: Every op a profile may quantize, least sensitive group of the first report
            first.
        input_ranges: Calibrated input range of each candidate, for static formats, where all
            static formats have the same one.
        format_ranges: Format to such ranges, where static formats differ in them.
    """

    KIND: ClassVar[str] = "spectrum"
    VERSION: ClassVar[int] = 2
    kind: Literal["spectrum"] = "spectrum"
    schema_version: Literal[2] = 2
    content_sha256: str | None = None
    edited: bool = False
    model: ModelIdentity
    lens: str
    base: Literal["isolate", "fallback"]
    report_sha256: str
    reports: tuple[Source, ...] = ()
    formats: dict[str, Format]
    profiles: tuple[Profile, ...]
    damages: dict[str, dict[str, float]] = Field(default_factory=dict)
    candidates: tuple[Op, ...]
    input_ranges: dict[str, Range] = Field(default_factory=dict)
    format_ranges: dict[str, dict[str, Range]] = Field(default_factory=dict)

    def profile(self, name: str) -> Profile:
        """Return the profile called ``name``; the error lists those there are."""
        for profile in self.profiles:
            if profile.name == name:
                return profile
        known = ", ".join(p.name for p in self.profiles)
        raise UserError(f"no profile {name!r} in this spectrum; it has: {known}")

    def input_range(self, op: str, fmt: str) -> Range | None:
        """Calibrated input range of an op in a format; ``None`` where there is none."""
        return self.format_ranges.get(fmt, self.input_ranges).get(op)

    def content_hash(self) -> str:
        """SHA-256 of the record without ``content_sha256``, as JSON with sorted keys."""
        content = self.model_dump(mode="json", exclude={"content_sha256"})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def migrated(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had no rules, hash, bytes and damages of groups; what it has is kept."""
        if raw.get("schema_version") != 1:
            return raw
        return raw | {"schema_version": 2, "content_sha256": FROM_VERSION_1}

    def sealed(self) -> Self:
        """The record with the hash of its content."""
        return self.model_copy(update={"content_sha256": self.content_hash()})

    def opened(self) -> Self:
        """Check what was read; where it was edited, compute the profiles' figures again.

        Raises:
            ValueError: A profile names an op or format the spectrum does not have, tears a fused
                group apart, or cannot be predicted.
        """
        _check_names([profile.name for profile in self.profiles])
        for profile in self.profiles:
            _check_profile(profile, self)
        found = self.content_hash()
        if self.content_sha256 in (found, FROM_VERSION_1):
            return self.model_copy(update={"content_sha256": found})
        profiles = tuple(_figured(profile, self) for profile in self.profiles)
        return self.model_copy(update={"edited": True, "profiles": profiles}).sealed()


def _check_names(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two profiles are called {twice!r}; rename one")


def _check_profile(profile: Profile, spectrum: Spectrum) -> None:
    known = {op.name for op in spectrum.candidates}
    for op, fmt in profile.ops.items():
        if op not in known:
            raise ValueError(
                f"profile {profile.name}: {op!r} is no candidate of this spectrum; give an op "
                "listed under candidates"
            )
        if fmt not in spectrum.formats:
            formats = ", ".join(spectrum.formats)
            raise ValueError(
                f"profile {profile.name}: format {fmt!r} of {op} is not defined here; the formats "
                f"are: {formats}; leave the op out to keep it in high precision"
            )
    for torn in torn_groups(profile.ops, spectrum.candidates):
        raise ValueError(f"profile {profile.name}: {torn}; give all of them one format")


def _figured(profile: Profile, spectrum: Spectrum) -> Profile:
    """An edited profile with figures that follow from its ops; what proved it is dropped."""
    chosen = {
        op.group: profile.ops[op.name] for op in spectrum.candidates if op.name in profile.ops
    }
    figures: dict[str, Any] = {
        "groups": len(chosen),
        "share": len(chosen) / max(1, len({op.group for op in spectrum.candidates})),
    }
    if spectrum.damages:
        scores = [_damage(spectrum, group, fmt) for group, fmt in chosen.items()]
        figures["predicted_damage"] = math.fsum(scores)
        figures["negative_groups"] = sum(score < 0 for score in scores)
        figures["predicted_bytes"] = profile_bytes(
            profile.ops, spectrum.candidates, spectrum.formats, spectrum.model
        )
    if all(getattr(profile, key) == value for key, value in figures.items()):
        return profile
    rule = f"edited by hand (was: {profile.rule})"
    return profile.model_copy(update=figures | {"rule": rule, "ties": None, "optimum": None})


def _damage(spectrum: Spectrum, group: str, fmt: str) -> float:
    try:
        return spectrum.damages[group][fmt]
    except KeyError:
        raise ValueError(
            f"nothing was scored of {group} in {fmt}, so that its damage cannot be predicted; make "
            "the spectrum from a report of that format too"
        ) from None
