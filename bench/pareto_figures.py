"""What bench/pareto.py concludes from its readings: damages, paired differences, verdicts, recovery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from quantspectrum.artifacts import Spectrum
from quantspectrum.spectrum.costs import op_bytes, profile_bytes, storage_of
from quantspectrum.spectrum.meter import Ops, Reading, ops_sha256
from quantspectrum.spectrum.quality_budget import kl_of, nll_of, ratio
from quantspectrum.statistics import paired_ratio

__all__ = ["QUANTITIES", "effective_bits", "figures", "kept_share", "recovered", "verdict"]

QUANTITIES = {"kl": ("kl", "text_tokens"), "loss": ("nll_change", "targets")}
"""For each damage, its sums per sample and what they are divided by."""

THEIRS = "modelopt"


def figures(
    spectrum: Spectrum,
    profiles: Mapping[str, Ops],
    readings: Mapping[str, Reading],
    baseline: Reading,
) -> dict[str, Any]:
    """The record of all profiles, of every pair at equal bytes, and of what is recovered.

    Args:
        spectrum: The candidates, and what their formats take.
        profiles: Ops by name: ``all``, ``SIDE METHOD BITS`` and ``SIDE kept SHARE``.
        readings: What was measured of each.
        baseline: The unquantized model.
    """
    keys = [name.removeprefix(f"{THEIRS} ") for name in profiles if name.startswith(f"{THEIRS} ")]
    pairs = [
        compared(side, key, profiles, readings, baseline)
        for key in keys
        for side in sides(profiles)
        if f"{side} {key}" in profiles
    ]
    return {
        "candidates": len(spectrum.candidates),
        "groups": len({op.group for op in spectrum.candidates}),
        "eval_samples": len(next(iter(baseline.values.values()))),
        "baseline_loss": total(baseline, "nll", "targets"),
        "profiles": {
            name: {
                "ops_sha256": ops_sha256(ops),
                "quantized": len(ops),
                "bytes": size(ops, spectrum),
                "candidate_bytes": candidate_bytes(ops, spectrum),
                "effective_bits": effective_bits(spectrum, ops),
                "kept_share": kept_share(spectrum, ops),
                "not_finite": readings[name].not_finite,
                "kl": dumped(kl_of(readings[name], baseline)),
                "loss": dumped(nll_of(readings[name], baseline)),
            }
            for name, ops in profiles.items()
        },
        "pairs": pairs,
        "recovered": {
            name: {
                "kept_share": kept_share(spectrum, ops),
                **{
                    what: recovered(readings[name], readings["all"], baseline, what)
                    for what in QUANTITIES
                },
            }
            for name, ops in profiles.items()
            if name != "all"
        },
    }


def sides(profiles: Mapping[str, Ops]) -> list[str]:
    """Who made profiles, ModelOpt itself left out."""
    found = dict.fromkeys(name.split()[0] for name in profiles)
    return [side for side in found if side not in (THEIRS, "all")]


def compared(
    side: str,
    key: str,
    profiles: Mapping[str, Ops],
    readings: Mapping[str, Reading],
    baseline: Reading,
) -> dict[str, Any]:
    """A profile of ours beside ModelOpt's whose bytes it was given: ours less theirs, paired."""
    ours, theirs = readings[f"{side} {key}"], readings[f"{THEIRS} {key}"]
    method, bits = key.split()
    same = profiles[f"{side} {key}"] == profiles[f"{THEIRS} {key}"]
    made: dict[str, Any] = {
        "side": side,
        "method": method,
        "effective_bits": float(bits),
        "same": same,
    }
    for what, (above, below) in QUANTITIES.items():
        less = [a - b for a, b in zip(ours.values[above], theirs.values[above], strict=True)]
        difference = ratio(less, baseline.values[below])
        made[what] = dumped(difference) | {"verdict": verdict(dumped(difference), same)}
    return made


def verdict(difference: Mapping[str, Any], same: bool) -> str:
    """``same`` profile, or ``better``, ``tie`` or ``worse`` by the interval of ours less theirs."""
    if same:
        return "same"
    if difference["high"] < 0:
        return "better"
    return "worse" if difference["low"] > 0 else "tie"


def recovered(
    kept: Reading, everything: Reading, baseline: Reading, what: str
) -> dict[str, Any] | None:
    """Share of the damage of quantizing everything that a profile avoids: 1 - d(kept) / d(all).

    A ratio of sums over the same samples, so its interval is paired. ``None`` where the damage of everything
    is not told apart from zero: a share of nothing has no value.
    """
    above, below = QUANTITIES[what]
    damage = ratio(everything.values[above], baseline.values[below])
    if damage is None or damage.low is None or damage.low <= 0:
        return None
    left = paired_ratio(kept.values[above], everything.values[above])
    assert left.low is not None
    assert left.high is not None
    return {"n": left.n, "value": 1 - left.value, "low": 1 - left.high, "high": 1 - left.low}


def size(ops: Ops, spectrum: Spectrum) -> int:
    """Weight bytes of the whole model."""
    return profile_bytes(ops, spectrum.candidates, spectrum.formats, spectrum.model)


def candidate_bytes(ops: Ops, spectrum: Spectrum) -> int:
    """Bytes of the candidates' parameters, scales and biases with them."""
    dtype = storage_of(spectrum.model)
    return sum(
        op_bytes(op, spectrum.formats[ops[op.name]] if op.name in ops else None, dtype)
        for op in spectrum.candidates
    )


def kept_share(spectrum: Spectrum, ops: Ops) -> float:
    """Share of the candidates' weights that stays in high precision."""
    weights = {op.name: torch.Size(op.shape).numel() for op in spectrum.candidates}
    return 1 - sum(weights[name] for name in ops) / sum(weights.values())


def effective_bits(spectrum: Spectrum, ops: Ops) -> float:
    """ModelOpt's measure of size: mean weight bits over the candidates, scales and biases not counted."""
    share = kept_share(spectrum, ops)
    (bits,) = {fmt.weight.bits for fmt in spectrum.formats.values()}
    return 16 * share + bits * (1 - share)


def total(reading: Reading, above: str, below: str) -> float:
    return sum(reading.values[above]) / sum(reading.values[below])


def dumped(interval: Any) -> dict[str, Any]:
    found: dict[str, Any] = interval.model_dump(mode="json")
    return found
