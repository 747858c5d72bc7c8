"""Does the ranking earn its keep? Every profile against rivals of equal size.

A rival of a profile quantizes ops of as many bytes in the same formats, within half of the largest
group (or it is a single group), but chooses its groups without the ranking:

* ``uniform``: spread evenly in model order. Walking through the model, a group is taken whenever that
  brings the bytes taken nearest to the profile's share of the bytes passed;
* ``random``: in a random order, once for each seed;
* ``inverted``: the most sensitive groups first.

Groups are taken along the last two orders up to where their bytes are nearest to the profile's. A
profile *beats* a rival when the 95 % interval of the paired difference of their damages, clustered by
sample, lies above zero. The samples are not those that the ranking was made on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from quantspectrum.artifacts import (
    GuardedProfile,
    Interval,
    Profile,
    ProfileReading,
    RivalReading,
    Spectrum,
    Verdict,
    by_group,
)
from quantspectrum.spectrum.costs import count_nearest
from quantspectrum.spectrum.meter import Ops, Reading, ops_sha256
from quantspectrum.spectrum.quality import weight_bytes
from quantspectrum.spectrum.quality_budget import kl_of, nll_of, ratio

__all__ = [
    "KEYS",
    "Quantity",
    "Rival",
    "compared",
    "rivals_of",
    "verdict_of",
]

Quantity = Literal["kl", "mse_v2"]

KEYS: Mapping[Quantity, tuple[str, str]] = {
    "kl": ("kl", "text_tokens"),
    "mse_v2": ("sse", "signal"),
}
"""For each quantity, the names of its sums per sample and of what they are divided by."""


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A choice of ops of equal size."""

    kind: Literal["uniform", "random", "inverted"]
    seed: int | None = None
    ops: Ops


def rivals_of(
    profile: Profile, spectrum: Spectrum, model_order: Sequence[str], seeds: Sequence[int]
) -> list[Rival]:
    """The rivals of a profile; none when it quantizes nothing or every candidate.

    Args:
        profile: One of the spectrum's.
        spectrum: Its candidates, least sensitive group first.
        model_order: Names of all ops in the order of the model.
        seeds: Seeds of the random rivals.
    """
    candidates = {op.name for op in spectrum.candidates}
    if not profile.ops or set(profile.ops) == candidates:
        return []
    members = {
        group: [op.name for op in ops] for group, ops in by_group(spectrum.candidates).items()
    }
    place = {name: number for number, name in enumerate(model_order)}
    in_model = sorted(members, key=lambda group: min(place[name] for name in members[group]))

    bits = {name: fmt.weight.bits for name, fmt in spectrum.formats.items()}

    def ops_along(order: Sequence[str], take: Callable[..., list[str]]) -> Ops:
        ops: dict[str, str] = {}
        left = list(order)
        for fmt in sorted(set(profile.ops.values()), key=lambda f: (bits[f], f)):
            mine = {name: f for name, f in profile.ops.items() if f == fmt}
            sizes = [weight_bytes(dict.fromkeys(members[g], fmt), spectrum) for g in left]
            taken = take(left, sizes, weight_bytes(mine, spectrum))
            ops |= {name: fmt for group in taken for name in members[group]}
            left = [group for group in left if group not in set(taken)]
        return ops

    found = [Rival(kind="uniform", ops=ops_along(in_model, _spread))]
    for seed in seeds:
        shuffled = in_model.copy()
        random.Random(seed).shuffle(shuffled)
        found.append(Rival(kind="random", seed=seed, ops=ops_along(shuffled, _first)))
    found.append(Rival(kind="inverted", ops=ops_along(list(members)[::-1], _first)))
    return found


def _first(groups: Sequence[str], sizes: Sequence[int], target: int) -> list[str]:
    """The first groups, up to where their bytes are nearest to the target; at least one."""
    return list(groups[: count_nearest(sizes, target)])


def _spread(groups: Sequence[str], sizes: Sequence[int], target: int) -> list[str]:
    """Groups spread evenly: the error of the bytes taken is carried from group to group."""
    share = target / sum(sizes)
    taken, owed = [], 0.0
    for group, size in zip(groups, sizes, strict=True):
        owed += share * size
        if owed >= size / 2:
            taken.append(group)
            owed -= size
    return taken or [groups[len(groups) // 2]]


def compared(
    profile: Profile,
    rivals: Sequence[Rival],
    readings: Mapping[str, Reading],
    baseline: Reading,
    spectrum: Spectrum,
    quantity: Quantity,
) -> GuardedProfile:
    """A profile beside its rivals.

    Args:
        profile: The profile.
        rivals: Its rivals.
        readings: What was measured, by the hash of the ops.
        baseline: The unquantized model.
        spectrum: Where formats and shapes are.
        quantity: What damage is.
    """
    mine = readings[ops_sha256(profile.ops)]
    made = tuple(
        _beside(rival, mine, readings[ops_sha256(rival.ops)], baseline, spectrum, quantity)
        for rival in rivals
    )
    note = None
    if not made:
        what = "every candidate" if profile.ops else "nothing"
        note = f"quantizes {what}: there is no other choice of its size"
    damage = _damage(mine.values, baseline, quantity)
    assert damage is not None
    return GuardedProfile(
        name=profile.name,
        reading=_record(profile.ops, mine, baseline, spectrum),
        damage=damage,
        rivals=made,
        beats_all=all(rival.verdict == "beats" for rival in made) if made else None,
        note=note,
    )


def verdict_of(more: Interval) -> Verdict:
    """What the interval of a rival's damage less the profile's says."""
    if more.low is not None and more.low > 0:
        return "beats"
    if more.high is not None and more.high < 0:
        return "loses"
    return "not told apart"


def _beside(
    rival: Rival,
    mine: Reading,
    other: Reading,
    baseline: Reading,
    spectrum: Spectrum,
    quantity: Quantity,
) -> RivalReading:
    less = {
        key: tuple(b - a for a, b in zip(mine.values[key], other.values[key], strict=True))
        for key in mine.values
    }
    more = _damage(less, baseline, quantity)
    assert more is not None
    return RivalReading(
        kind=rival.kind,
        seed=rival.seed,
        reading=_record(rival.ops, other, baseline, spectrum),
        more_damage=more,
        more_nll=nll_of(Reading(values=less), baseline),
        verdict=verdict_of(more),
    )


def _damage(
    values: Mapping[str, tuple[float, ...]], baseline: Reading, quantity: Quantity
) -> Interval | None:
    above, below = KEYS[quantity]
    return ratio(values[above], baseline.values[below])


def _record(ops: Ops, reading: Reading, baseline: Reading, spectrum: Spectrum) -> ProfileReading:
    return ProfileReading(
        ops_sha256=ops_sha256(ops),
        groups=len({op.group for op in spectrum.candidates if op.name in ops}),
        weight_bytes=weight_bytes(ops, spectrum),
        kl=kl_of(reading, baseline),
        nll=nll_of(reading, baseline),
        not_finite=reading.not_finite,
    )
